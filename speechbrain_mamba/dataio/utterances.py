"""Lists of single-speaker utterances, found in folders and kept in CSV files."""

from __future__ import annotations

import csv
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from speechbrain_mamba.dataio.audio import UnreadableAudioError, read_audio
from speechbrain_mamba.utils.files import write_csv

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac")
_COLUMNS = ["ID", "duration", "wav", "spk_id"]


@dataclass(frozen=True)
class Utterance:
    """A file with the speech of one person.

    Arguments
    ---------
    path : str
        The file.
    speaker : str
        Who speaks.
    samples : int
        Length.

    Example
    -------
    >>> Utterance("anna/1.wav", "anna", 8000).speaker
    'anna'
    """

    path: str
    speaker: str
    samples: int


def folder_speaker(path: Path) -> str:
    """The speaker of a file in ``speaker/**/file``: the first folder of its path.

    Arguments
    ---------
    path : Path
        The file, relative to the scanned folder.

    Returns
    -------
    str
        The speaker.

    Raises
    ------
    ValueError
        When the file lies in no folder.

    Example
    -------
    >>> folder_speaker(Path("anna/book/1.wav"))
    'anna'
    """
    if len(path.parts) < 2:
        raise ValueError(
            f"The file '{path}' lies in no speaker's folder: arrange the files as speaker/**/*.wav or .flac."
        )
    return path.parts[0]


def wsj0_speaker(path: Path) -> str:
    """The speaker of a file of WSJ0: the first three characters of its name.

    Arguments
    ---------
    path : Path
        The file, relative to the scanned folder.

    Returns
    -------
    str
        The speaker.

    Example
    -------
    >>> wsj0_speaker(Path("si_tr_s/011/011c0201.wav"))
    '011'
    """
    return path.name[:3]


def parallel_map(function: Callable, items: list, description: str, unit: str) -> list:
    """Apply a function that waits for the disk to all items, by threads and with a progress bar.

    Arguments
    ---------
    function : callable
        Takes one item.
    items : list
        The items.
    description, unit : str
        What the progress bar says.

    Returns
    -------
    list
        The results in the order of the items.

    Example
    -------
    >>> parallel_map(len, ["a", "bc"], "Measuring", "word")
    [1, 2]
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            return list(tqdm(pool.map(function, items), total=len(items), desc=description, unit=unit))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def find_audio(folder: str | os.PathLike) -> list[Path]:
    """All WAV and FLAC files below a folder, sorted; hidden ones are left out.

    Arguments
    ---------
    folder : str or Path
        The folder.

    Returns
    -------
    list of Path
        Paths relative to the folder.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.

    Example
    -------
    >>> find_audio(getfixture("tmp_path"))
    []
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"The data folder '{folder}' does not exist.")
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(place).relative_to(folder)
        found += [
            relative / name for name in names if not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES)
        ]
    return sorted(found)


def scan_speakers(
    folder: str | os.PathLike,
    sample_rate: int,
    speaker: Callable[[Path], str | None] = folder_speaker,
) -> list[Utterance]:
    """List the speech in a folder. Every file is read whole, so that a bad one shows now and not in mid-training.

    Arguments
    ---------
    folder : str or Path
        A folder with WAV and FLAC files, at any depth.
    sample_rate : int
        The rate in Hz that all files must have.
    speaker : callable
        Tells the speaker from a path relative to the folder: :func:`folder_speaker`, :func:`wsj0_speaker`, or your
        own. A file for which it answers None is left out.

    Returns
    -------
    list of Utterance
        Sorted by path. Files that are corrupt, empty or not finite are missing; a warning names each.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ValueError
        When no usable file is found, or a file has another sample rate or is not mono.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "anna" / "1.wav", torch.ones(800), sample_rate=8000)
    >>> [(utterance.speaker, utterance.samples) for utterance in scan_speakers(folder, 8000)]
    [('anna', 800)]
    """
    folder = Path(folder).absolute()
    speakers = {path: speaker(path) for path in find_audio(folder)}
    paths = [path for path, name in speakers.items() if name is not None]

    def read(path: Path) -> Utterance | None:
        try:
            return Utterance(str(folder / path), speakers[path], len(read_audio(folder / path, sample_rate)))
        except UnreadableAudioError as error:
            logger.warning("Skipped: %s", error)
            return None

    utterances = [utterance for utterance in parallel_map(read, paths, f"Reading {folder.name}", "file") if utterance]
    if not utterances:
        wanted = f"none of its {len(paths)} audio files can be used" if paths else "no .wav or .flac file is in it"
        raise ValueError(f"The data folder '{folder}' has no speech: {wanted}.")
    if len(utterances) < len(paths):
        logger.warning("Skipped %d of %d files in '%s'.", len(paths) - len(utterances), len(paths), folder)
    return utterances


def write_utterances(csv_path: str | os.PathLike, utterances: Iterable[Utterance], sample_rate: int) -> None:
    """Write a list of utterances as a SpeechBrain manifest, atomically.

    Arguments
    ---------
    csv_path : str or Path
        The file, with the columns ``ID``, ``duration`` (seconds), ``wav`` and ``spk_id``.
    utterances : iterable of Utterance
        The list.
    sample_rate : int
        Samples per second.

    Example
    -------
    >>> csv_path = getfixture("tmp_path") / "utterances.csv"
    >>> write_utterances(csv_path, [Utterance("anna/1.wav", "anna", 8000)], sample_rate=8000)
    >>> read_utterances(csv_path, sample_rate=8000)
    [Utterance(path='anna/1.wav', speaker='anna', samples=8000)]
    """
    rows, seen = [], Counter()
    for utterance in utterances:
        stem = name = f"{utterance.speaker}_{Path(utterance.path).stem}"
        while name in seen:
            seen[stem] += 1
            name = f"{stem}_{seen[stem]}"
        seen[name] = 1
        rows.append(
            {
                "ID": name,
                "duration": utterance.samples / sample_rate,
                "wav": utterance.path,
                "spk_id": utterance.speaker,
            }
        )
    write_csv(csv_path, rows, _COLUMNS)


def read_utterances(csv_path: str | os.PathLike, sample_rate: int) -> list[Utterance]:
    """Read a list of utterances from a CSV file, such as :func:`write_utterances` makes.

    Arguments
    ---------
    csv_path : str or Path
        The file.
    sample_rate : int
        Samples per second.

    Returns
    -------
    list of Utterance
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When a column is missing.

    Example
    -------
    See :func:`write_utterances`.
    """
    if not Path(csv_path).is_file():
        raise FileNotFoundError(f"The list of utterances '{csv_path}' does not exist: prepare the data first.")
    with open(csv_path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"The list of utterances '{csv_path}' lacks the columns {', '.join(missing)}.")
        return [Utterance(row["wav"], row["spk_id"], round(float(row["duration"]) * sample_rate)) for row in reader]

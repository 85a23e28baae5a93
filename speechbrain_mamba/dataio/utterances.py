"""Lists of single-speaker utterances: found in folders, kept in manifests."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from speechbrain_mamba.dataio.audio import UnreadableAudioError, read_audio
from speechbrain_mamba.dataio.manifests import read_manifest, write_manifest
from speechbrain_mamba.utils.parallel import parallel_map

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac")


@dataclass(frozen=True)
class Utterance:
    """A file with the speech of one person, and its number of samples."""

    path: str
    speaker: str
    samples: int


def folder_speaker(path: Path) -> str:
    """The speaker of a file in ``speaker/**/file``: the first folder of its path, which is relative."""
    if len(path.parts) < 2:
        raise ValueError(
            f"The file '{path}' lies in no speaker's folder: arrange the files as speaker/**/*.wav or .flac."
        )
    return path.parts[0]


def find_audio(folder: str | os.PathLike) -> list[Path]:
    """All WAV and FLAC files below a folder, which must exist, sorted and relative to it; hidden ones are left out."""
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"The data folder '{root}' does not exist.")
    found = []
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in names if not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES)]
        found += [Path(place).relative_to(root) / name for name in visible]
    return sorted(found)


def scan_speakers(
    folder: str | os.PathLike, sample_rate: int, speaker: Callable[[Path], str | None] = folder_speaker
) -> list[Utterance]:
    """List the speech in a folder. Every file is read completely, so that a bad one is found now and not in training.

    Arguments
    ---------
    folder : str or Path
        A folder with WAV and FLAC files, at any depth.
    sample_rate : int
        The rate in Hz that all files must have.
    speaker : callable
        Returns the speaker for a path relative to the folder: :func:`folder_speaker`, or that of a corpus, or your own.
        A file for which it returns None is left out.

    Returns
    -------
    list of Utterance
        Sorted by path. Files that are corrupt, empty or not finite are left out; a warning names each.

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
    root = Path(folder).absolute()
    speakers = {path: name for path in find_audio(root) if (name := speaker(path)) is not None}

    def read(path: Path) -> Utterance | None:
        try:
            return Utterance(str(root / path), speakers[path], len(read_audio(root / path, sample_rate)))
        except UnreadableAudioError as error:
            logger.warning("Skipped: %s", error)
            return None

    utterances = [found for found in parallel_map(read, list(speakers), f"Reading {root.name}", "file") if found]
    if not utterances:
        count = len(speakers)
        reason = f"none of its {count} audio files can be used" if count else "no .wav or .flac file is in it"
        raise ValueError(f"The data folder '{root}' has no speech: {reason}.")
    if len(utterances) < len(speakers):
        logger.warning("Skipped %d of %d files in '%s'.", len(speakers) - len(utterances), len(speakers), root)
    return utterances


def write_utterances(csv_path: str | os.PathLike, utterances: Iterable[Utterance], sample_rate: int) -> None:
    """Write a list of utterances as a manifest with the columns ``ID``, ``duration`` (seconds), ``wav`` and ``spk_id``.

    Example
    -------
    >>> csv_path = getfixture("tmp_path") / "utterances.csv"
    >>> write_utterances(csv_path, [Utterance("anna/1.wav", "anna", 8000)], sample_rate=8000)
    >>> read_utterances(csv_path, sample_rate=8000)
    [Utterance(path='anna/1.wav', speaker='anna', samples=8000)]
    """
    rows: list[dict[str, object]] = []
    seen: Counter[str] = Counter()
    for utterance in utterances:
        stem = name = f"{utterance.speaker}_{Path(utterance.path).stem}"
        while name in seen:
            seen[stem] += 1
            name = f"{stem}_{seen[stem]}"
        seen[name] = 1
        seconds = utterance.samples / sample_rate
        rows.append({"ID": name, "duration": seconds, "wav": utterance.path, "spk_id": utterance.speaker})
    write_manifest(csv_path, rows)


def read_utterances(csv_path: str | os.PathLike, sample_rate: int) -> list[Utterance]:
    """Read a list of utterances from a manifest, such as written by :func:`write_utterances`, in its order.

    Errors are those of :func:`~speechbrain_mamba.dataio.manifests.read_manifest`.
    """
    items = read_manifest(csv_path, columns=("duration", "wav", "spk_id")).values()
    return [Utterance(item["wav"], item["spk_id"], round(item["duration"] * sample_rate)) for item in items]

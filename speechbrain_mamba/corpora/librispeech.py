"""LibriSpeech (Panayotov et al., 2015): from its folders to manifests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info
from speechbrain_mamba.dataio.manifests import write_manifest
from speechbrain_mamba.dataio.utterances import AUDIO_SUFFIXES
from speechbrain_mamba.utils.parallel import parallel_map
from speechbrain_mamba.utils.stamps import Stamp

logger = logging.getLogger(__name__)

LIBRISPEECH = {
    "train": ["train-clean-100", "train-clean-360", "train-other-500"],
    "valid": ["dev-clean"],
    "test-clean": ["test-clean"],
    "test-other": ["test-other"],
}
"""The usual manifests for 960 h, and the parts of the corpus that each lists."""

Row = dict[str, Any]
"""An utterance in a manifest."""


def utterance_rows(text_file: Path, name: str, words: str, sample_rate: int) -> list[Row]:
    """The row of an utterance whose audio is beside its text, in the folder ``<speaker>/<chapter>``.

    Arguments
    ---------
    text_file : Path
        The file of the text.
    name : str
        The id, which is the name of the audio file without its suffix.
    words : str
        The text.
    sample_rate : int
        The rate in Hz that the file must have.

    Returns
    -------
    list of dict
        The row; none, with a warning, if the audio is missing or cannot be read.

    Raises
    ------
    ValueError
        When the file has another rate or is not mono.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> chapter = getfixture("tmp_path") / "19" / "198"
    >>> write_audio(chapter / "19-198-0000.wav", torch.zeros(16000), sample_rate=16000)
    >>> row = utterance_rows(chapter / "19-198.trans.txt", "19-198-0000", "GOOD MORNING", 16000)[0]
    >>> row["duration"], row["spk_id"]
    (1.0, '19')
    """
    files = [text_file.with_name(name + suffix) for suffix in AUDIO_SUFFIXES]
    wav = next((file for file in files if file.is_file()), None)
    if wav is None:
        logger.warning("Skipped: '%s' names '%s', but there is no audio of it.", text_file, name)
        return []
    try:
        seconds = audio_info(wav, sample_rate).seconds
    except UnreadableAudioError as error:
        logger.warning("Skipped: %s", error)
        return []
    speaker = text_file.parent.parent.name
    return [{"ID": name, "duration": seconds, "wav": str(wav), "wrd": words.strip(), "spk_id": speaker}]


def _read_chapter(transcripts: Path, sample_rate: int) -> list[Row]:
    """The utterances of a chapter of LibriSpeech, one for each line of its transcripts."""
    lines = (line.partition(" ") for line in transcripts.read_text(encoding="utf-8").splitlines())
    return [row for name, _, words in lines for row in utterance_rows(transcripts, name, words, sample_rate)]


def _list_part(folder: Path, pattern: str, read: Callable[[Path, int], list[Row]], sample_rate: int) -> list[Row]:
    """The rows of all utterances below a folder, sorted by id."""
    results = parallel_map(
        lambda path: read(path, sample_rate), sorted(folder.rglob(pattern)), f"Reading {folder.name}", "file"
    )
    rows = sorted((row for rows in results for row in rows), key=lambda row: row["ID"])
    if not rows:
        raise ValueError(f"The folder '{folder}' has no transcribed speech: no {pattern} with audio files beside it.")
    return rows


def _describe_part(folder: Path) -> dict[str, Any]:
    """The state of a part, for the stamp: its number of chapters, and the time of the last change in one.

    This looks at folders only, not at the thousands of files in them. A file that is added, removed or replaced changes
    the time of its folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{folder}': unpack that part of the corpus there, or leave it out of the splits."
        )
    changes = [path.stat().st_mtime_ns for path in folder.glob("*/*") if path.is_dir()]
    return {"chapters": len(changes), "changed": max(changes, default=0)}


def prepare_parts(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    splits: Mapping[str, Iterable[str]],
    sample_rate: int,
    pattern: str,
    read: Callable[[Path, int], list[Row]],
) -> dict[str, Path]:
    """Write a manifest per split of a corpus with a folder per part, ``<part>/<speaker>/<chapter>/``.

    A manifest is kept if an earlier call listed the same parts and no chapter has changed since.

    Arguments
    ---------
    data_folder, save_folder, splits, sample_rate
        Those of :func:`prepare_librispeech`.
    pattern : str
        Which files have texts.
    read : callable
        Returns the rows of such a file, for a sample rate.

    Results and errors are those of :func:`prepare_librispeech`.
    """
    root, manifests = Path(data_folder).absolute(), {}
    for name, parts in splits.items():
        manifests[name] = Path(save_folder) / f"{name}.csv"
        layout = {part: _describe_part(root / part) for part in parts}
        settings = {"data_folder": str(root), "parts": layout, "sample_rate": sample_rate}
        stamp = Stamp(Path(save_folder) / f"{name}.prepared.json", settings)
        if stamp.is_done([manifests[name]]):
            continue
        rows = [row for part in layout for row in _list_part(root / part, pattern, read, sample_rate)]
        stamp.begin()
        write_manifest(manifests[name], rows)
        stamp.finish()
        hours = sum(row["duration"] for row in rows) / 3600
        logger.info("%s: %d utterances, %.2f hours.", manifests[name], len(rows), hours)
    return manifests


def prepare_librispeech(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    splits: Mapping[str, Iterable[str]] = LIBRISPEECH,
    sample_rate: int = 16000,
) -> dict[str, Path]:
    """Write a manifest per split, of LibriSpeech or a corpus that is laid out like it.

    A manifest is kept if an earlier call listed the same parts and no chapter has changed since.

    Arguments
    ---------
    data_folder : str or Path
        The corpus, with a folder per part.
    save_folder : str or Path
        Where the files go.
    splits : dict of str to list of str
        The parts that make up each file.
    sample_rate : int
        The rate in Hz that all files must have.

    Returns
    -------
    dict of str to Path
        The files, with the columns ID, duration (seconds), wav, wrd and spk_id.

    Raises
    ------
    FileNotFoundError
        When a part is missing.
    ValueError
        When a part has no transcribed speech, or a file has another rate or is not mono.
    """
    return prepare_parts(data_folder, save_folder, splits, sample_rate, "*.trans.txt", _read_chapter)

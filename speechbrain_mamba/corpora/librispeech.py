"""LibriSpeech (Panayotov et al., 2015): from its folders to manifests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info
from speechbrain_mamba.dataio.audio_files import AUDIO_SUFFIXES
from speechbrain_mamba.dataio.manifests import write_manifest
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
ReadTexts = Callable[[Path], list[tuple[str, str]]]
"""Returns the texts of a file, each behind the name of its audio file, which is beside it."""


def _read_chapter(transcripts: Path) -> list[tuple[str, str]]:
    """The texts of a chapter of LibriSpeech, one in each line of its transcripts."""
    lines = (line.partition(" ") for line in transcripts.read_text(encoding="utf-8").splitlines())
    return [(name, words) for name, _, words in lines]


def _list_part(folder: Path, pattern: str, read: ReadTexts, sample_rate: int) -> list[Row]:
    """The rows of all utterances below a folder, sorted by id. Audio that cannot be used is named in a warning."""

    def describe(text_file: Path) -> Iterator[Row]:
        for name, words in read(text_file):
            files = [text_file.with_name(name + suffix) for suffix in AUDIO_SUFFIXES]
            wav = next((file for file in files if file.is_file()), None)
            if wav is None:
                logger.warning("Skipped: '%s' names '%s', but there is no audio of it.", text_file, name)
                continue
            try:
                seconds = audio_info(wav, sample_rate).seconds
            except UnreadableAudioError as error:
                logger.warning("Skipped: %s", error)
                continue
            speaker = text_file.parent.parent.name
            yield {"ID": name, "duration": seconds, "wav": str(wav), "wrd": words.strip(), "spk_id": speaker}

    text_files = sorted(folder.rglob(pattern))
    results = parallel_map(lambda file: list(describe(file)), text_files, f"Reading {folder.name}", "file")
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
    read: ReadTexts,
) -> dict[str, Path]:
    """Write a manifest per split of a corpus with a folder per part, ``<part>/<speaker>/<chapter>/``.

    ``read`` returns the texts of a file whose name has the ``pattern``. Other arguments, results and errors are those
    of :func:`prepare_librispeech`.
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

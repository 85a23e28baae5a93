"""LibriSpeech (Panayotov et al., 2015): from its folders to manifests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_mamba.dataio.audio_files import AUDIO_SUFFIXES, SkippedFiles, find_files, scan_audio
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
SKIPPED = "skipped.csv"
"""The file beside the manifests that lists what was left out, with the reasons."""


def read_text(file: Path) -> str:
    """Read a transcript; ValueError when it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The transcript '{file}' is not UTF-8 (byte {error.start}): save it as UTF-8.") from error


def _read_chapter(transcripts: Path) -> list[tuple[str, str]]:
    """The texts of a chapter of LibriSpeech, one in each line of its transcripts."""
    lines = (line.partition(" ") for line in read_text(transcripts).splitlines() if line.strip())
    return [(name, words) for name, _, words in lines]


def _list_part(folder: Path, suffix: str, read: ReadTexts, sample_rate: int, skipped: SkippedFiles) -> list[Row]:
    """The rows of all utterances below a folder, sorted by id, without those whose audio cannot be used."""
    text_files = [folder / file for file in find_files(folder, lambda name: name.endswith(suffix))]
    texts = parallel_map(lambda file: read(file), text_files, f"Reading {folder.name}", "file")
    said: dict[Path, tuple[str, str, str]] = {}
    for text_file, lines in zip(text_files, texts):
        for name, words in lines:
            files = [text_file.with_name(name + suffix) for suffix in AUDIO_SUFFIXES]
            wav = next((file for file in files if os.path.lexists(file)), None)
            if wav is None:
                message = f"'{text_file}' names '{name}', but there is no audio of it."
                skipped.add(text_file.with_name(name), "no audio", message)
            else:
                said[wav] = (name, " ".join(words.strip().splitlines()), text_file.parent.parent.name)
    rows = [
        {"ID": said[wav][0], "duration": info.seconds, "wav": str(wav), "wrd": said[wav][1], "spk_id": said[wav][2]}
        for wav, info in scan_audio(list(said), sample_rate, skipped, f"Checking {folder.name}", whole=False).items()
    ]
    if not rows:
        reasons = f" that can be used ({skipped.summary()})" if skipped else ""
        raise ValueError(
            f"The folder '{folder}' has no transcribed speech: no *{suffix} with audio files beside it{reasons}."
        )
    return sorted(rows, key=lambda row: row["ID"])


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
    suffix: str,
    read: ReadTexts,
) -> dict[str, Path]:
    """Write a manifest per split of a corpus with a folder per part, ``<part>/<speaker>/<chapter>/``.

    ``read`` returns the texts of a file whose name ends in ``suffix``. All parts are read before the first manifest is
    written. Other arguments, results and errors are those of :func:`prepare_librispeech`.
    """
    root, folder = Path(data_folder).absolute(), Path(save_folder)
    manifests = {name: folder / f"{name}.csv" for name in splits}
    stamps, made = {}, {}
    for name, parts in splits.items():
        layout = {part: _describe_part(root / part) for part in parts}
        settings = {"data_folder": str(root), "parts": layout, "sample_rate": sample_rate}
        stamps[name] = Stamp(folder / f"{name}.prepared.json", settings)
        if not stamps[name].is_done([manifests[name]]):
            skipped = SkippedFiles()
            rows = [row for part in layout for row in _list_part(root / part, suffix, read, sample_rate, skipped)]
            _check_ids(rows)
            made[name] = rows, skipped
    for name, (rows, skipped) in made.items():
        stamps[name].begin()
        write_manifest(manifests[name], rows)
        stamps[name].finish(skipped=skipped.reasons)
        hours = sum(row["duration"] for row in rows) / 3600
        logger.info("%s: %d utterances, %.2f hours.", manifests[name], len(rows), hours)
    if made:
        everything = SkippedFiles()
        for stamp in stamps.values():
            everything.reasons |= stamp.facts().get("skipped", {})
        everything.write(folder / SKIPPED)
    return manifests


def _check_ids(rows: list[Row]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        if row["ID"] in seen:
            raise ValueError(
                f"The files '{seen[row['ID']]['wav']}' and '{row['wav']}' have the same id '{row['ID']}': rename one."
            )
        seen[row["ID"]] = row


def prepare_librispeech(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    splits: Mapping[str, Iterable[str]] = LIBRISPEECH,
    sample_rate: int = 16000,
) -> dict[str, Path]:
    """Write a manifest per split, of LibriSpeech or a corpus that is laid out like it.

    A manifest is kept if an earlier call listed the same parts and no chapter has changed since. Utterances whose audio
    is missing or cannot be used are left out; ``skipped.csv`` lists them with the reasons, which a warning counts.

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
        When a part has no transcribed speech, files have another rate or are not mono, two have the same id, or a
        transcript is not UTF-8.
    """
    return prepare_parts(data_folder, save_folder, splits, sample_rate, ".trans.txt", _read_chapter)

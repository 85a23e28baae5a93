"""LibriSpeech (Panayotov et al., 2015) and LibriTTS (Zen et al., arXiv 1904.02882): from their folders to manifests."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info
from speechbrain_mamba.dataio.transcripts import write_transcripts
from speechbrain_mamba.dataio.utterances import AUDIO_SUFFIXES, parallel_map
from speechbrain_mamba.utils.files import write_json

logger = logging.getLogger(__name__)

LIBRISPEECH = {
    "train": ["train-clean-100", "train-clean-360", "train-other-500"],
    "valid": ["dev-clean"],
    "test-clean": ["test-clean"],
    "test-other": ["test-other"],
}
"""Manifests and the parts of the corpus that make them up, as is usual for 960 h."""

LIBRITTS = {
    "train": ["train-clean-100", "train-clean-360", "train-other-500"],
    "valid": ["dev-clean"],
    "test": ["test-clean"],
}
"""The same for 585 h of LibriTTS."""


def _audio_of(path: Path, name: str) -> Path | None:
    """The audio file of an utterance beside its text."""
    files = [path.with_name(name + suffix) for suffix in AUDIO_SUFFIXES]
    wav = next((file for file in files if file.is_file()), None)
    if wav is None:
        logger.warning("Skipped: '%s' names '%s', of which there is no audio.", path, name)
    return wav


def _row(text_file: Path, name: str, words: str, sample_rate: int) -> list[dict]:
    """The row of an utterance, or none where its audio is missing or cannot be read."""
    wav = _audio_of(text_file, name)
    if wav is None:
        return []
    try:
        seconds = audio_info(wav, sample_rate).seconds
    except UnreadableAudioError as error:
        logger.warning("Skipped: %s", error)
        return []
    speaker = text_file.parent.parent.name
    return [{"ID": name, "duration": seconds, "wav": str(wav), "wrd": words.strip(), "spk_id": speaker}]


def _read_chapter(transcripts: Path, sample_rate: int) -> list[dict]:
    """The utterances of a chapter of LibriSpeech, a line of its transcripts each."""
    lines = (line.partition(" ") for line in transcripts.read_text(encoding="utf-8").splitlines())
    return [row for name, _, words in lines for row in _row(transcripts, name, words, sample_rate)]


def _read_utterance(text: Path, sample_rate: int) -> list[dict]:
    """An utterance of LibriTTS, which has its text in a file."""
    name = text.name.removesuffix(".normalized.txt")
    return _row(text, name, text.read_text(encoding="utf-8"), sample_rate)


def _list_part(folder: Path, pattern: str, read: Callable[[Path, int], list[dict]], sample_rate: int) -> list[dict]:
    """The rows of all utterances below a folder, sorted by id."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{folder}': unpack that part of the corpus there, or leave it out of the splits."
        )
    results = parallel_map(
        lambda path: read(path, sample_rate), sorted(folder.rglob(pattern)), f"Reading {folder.name}", "file"
    )
    rows = sorted((row for rows in results for row in rows), key=lambda row: row["ID"])
    if not rows:
        raise ValueError(f"The folder '{folder}' has no transcribed speech: no {pattern} with audio files beside it.")
    return rows


def _prepare(data_folder, save_folder, splits: Mapping[str, Iterable[str]], sample_rate: int, *layout) -> dict:
    data_folder, manifests = Path(data_folder).absolute(), {}
    for name, parts in splits.items():
        manifests[name] = Path(save_folder) / f"{name}.csv"
        stamp = Path(save_folder) / f"{name}.prepared.json"
        settings = {"data_folder": str(data_folder), "parts": list(parts), "sample_rate": sample_rate}
        if manifests[name].is_file() and stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == settings:
            continue
        stamp.unlink(missing_ok=True)
        rows = [row for part in parts for row in _list_part(data_folder / part, *layout, sample_rate)]
        write_transcripts(manifests[name], rows)
        write_json(stamp, settings)
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

    What an earlier call wrote for the same folders is kept.

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
    return _prepare(data_folder, save_folder, splits, sample_rate, "*.trans.txt", _read_chapter)


def prepare_libritts(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    splits: Mapping[str, Iterable[str]] = LIBRITTS,
    sample_rate: int = 24000,
) -> dict[str, Path]:
    """Write a manifest per split of LibriTTS, with normalised texts.

    Arguments, results and errors are those of :func:`prepare_librispeech`.
    """
    return _prepare(data_folder, save_folder, splits, sample_rate, "*.normalized.txt", _read_utterance)

"""Lists of single-speaker utterances: found in folders, kept in manifests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from speechbrain_mamba.dataio.audio_files import SkippedFiles, find_audio, scan_audio
from speechbrain_mamba.dataio.manifests import read_manifest, write_manifest

_PART = 80  # bytes of a speaker's and of a file's name in an id


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


def scan_speakers(
    folder: str | os.PathLike,
    sample_rate: int,
    speaker: Callable[[Path], str | None] = folder_speaker,
    skipped: SkippedFiles | None = None,
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
    skipped : SkippedFiles, optional
        Gets the files that cannot be used: corrupt, empty, cut short, not finite, absurdly loud, or links that lead
        nowhere.

    Returns
    -------
    list of Utterance
        The usable ones, sorted by path.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ValueError
        When no usable file is found, or files have another sample rate or are not mono.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "anna" / "1.wav", torch.ones(800), sample_rate=8000)
    >>> [(utterance.speaker, utterance.samples) for utterance in scan_speakers(folder, 8000)]
    [('anna', 800)]
    """
    root, skipped = Path(folder).absolute(), SkippedFiles() if skipped is None else skipped
    speakers = {root / path: name for path in find_audio(root) if (name := speaker(path)) is not None}
    found = scan_audio(list(speakers), sample_rate, skipped, f"Reading {root.name}")
    if not found:
        count = len(speakers)
        none = f"none of its {count} audio files can be used ({skipped.summary()})"
        raise ValueError(
            f"The data folder '{root}' has no speech: {none if count else 'no .wav or .flac file is in it'}."
        )
    return [Utterance(str(path), speakers[path], info.samples) for path, info in found.items()]


def write_utterances(csv_path: str | os.PathLike, utterances: Iterable[Utterance], sample_rate: int) -> None:
    """Write a list of utterances as a manifest with the columns ``ID``, ``duration`` (seconds), ``wav`` and ``spk_id``.

    Example
    -------
    >>> csv_path = getfixture("tmp_path") / "utterances.csv"
    >>> write_utterances(csv_path, [Utterance("/speech/anna/1.wav", "anna", 8000)], sample_rate=8000)
    >>> read_utterances(csv_path, sample_rate=8000)
    [Utterance(path='/speech/anna/1.wav', speaker='anna', samples=8000)]
    """
    rows: list[dict[str, object]] = []
    seen: Counter[str] = Counter()
    for utterance in utterances:
        stem = name = f"{_shorten(utterance.speaker)}_{_shorten(Path(utterance.path).stem)}"
        while name in seen:
            seen[stem] += 1
            name = f"{stem}_{seen[stem]}"
        seen[name] = 1
        seconds = utterance.samples / sample_rate
        rows.append({"ID": name, "duration": seconds, "wav": utterance.path, "spk_id": utterance.speaker})
    write_manifest(csv_path, rows)


def _shorten(name: str) -> str:
    return name.encode()[:_PART].decode(errors="ignore")


def read_utterances(csv_path: str | os.PathLike, sample_rate: int) -> list[Utterance]:
    """Read a list of utterances from a manifest, such as written by :func:`write_utterances`, in its order.

    Errors are those of :func:`~speechbrain_mamba.dataio.manifests.read_manifest`.
    """
    items = read_manifest(csv_path, columns=("duration", "wav", "spk_id")).values()
    return [Utterance(item["wav"], item["spk_id"], round(item["duration"] * sample_rate)) for item in items]

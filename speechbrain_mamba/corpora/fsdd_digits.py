"""Strings of digits made of the recordings of FSDD, with transcripts."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor

from speechbrain_mamba.corpora.fsdd import Take, find_recordings, parse_take
from speechbrain_mamba.corpora.mini.sentences import DIGITS
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.audio_files import SkippedFiles, scan_audio
from speechbrain_mamba.dataio.manifests import SPLITS, write_manifest
from speechbrain_mamba.utils.files import atomic_path, remove_temporaries
from speechbrain_mamba.utils.parallel import parallel_map
from speechbrain_mamba.utils.stamps import Stamp
from speechbrain_mamba.utils.waiting import one_at_a_time

_RATE = 8000  # samples per second of FSDD
_PAUSE = (0.05, 0.25)  # seconds
_PEAK = 0.99


class _DigitString(NamedTuple):
    """A string to be written: its digits, a recording of each, and the seconds of the pauses around them."""

    speaker: str
    digits: tuple[int, ...]
    files: list[Path]
    pauses: np.ndarray


def _split_of(take: Take, test_speakers: Sequence[str]) -> str:
    """The split of a recording. If speakers are left out for the test, nobody else is in it."""
    if not test_speakers:
        return take.split
    if take.speaker in test_speakers:
        return "test"
    return "valid" if take.split == "test" else take.split


def _find_takes(
    folder: Path, test_speakers: Sequence[str], skipped: SkippedFiles
) -> dict[str, dict[str, list[list[Path]]]]:
    """The usable files by split, speaker and digit."""
    files: dict[str, dict[str, list[list[Path]]]] = {split: {} for split in SPLITS}
    takes = {path: take for path in sorted(folder.glob("*.wav")) if (take := parse_take(path))}
    known = sorted({take.speaker for take in takes.values()})
    unknown = sorted(set(test_speakers).difference(known))
    if unknown:
        raise ValueError(f"test_speakers names {', '.join(unknown)}, but the speakers of '{folder}' are {known}.")
    for path in scan_audio(list(takes), _RATE, skipped, f"Reading {folder.name}"):
        take = takes[path]
        files[_split_of(take, test_speakers)].setdefault(take.speaker, [[] for _ in DIGITS])[take.digit].append(path)
    rule = "takes 0 to 4 are for test, 5 to 9 for valid, the others for train"
    for split, speakers in files.items():
        if not speakers:
            raise FileNotFoundError(
                f"'{folder}' has no file like 7_jackson_32.wav for {split}: give the folder of FSDD, where {rule}."
            )
        for speaker, digits in speakers.items():
            if not all(digits):
                raise ValueError(
                    f"'{folder}' has no usable recording of {speaker}'s digit {digits.index([])} for {split}: give "
                    f"the complete FSDD, where {rule}."
                )
    return files


def _draw_strings(
    speakers: dict[str, list[list[Path]]],
    count: int,
    rng: np.random.Generator,
    sizes: tuple[int, int] = (3, 7),
    excluded: Container[tuple[int, ...]] = (),
) -> Iterator[_DigitString]:
    """Draw for each string a speaker, digits that are not an excluded string, a take of each digit, and the pauses."""
    while count:
        speaker = sorted(speakers)[rng.integers(len(speakers))]
        digits = tuple(rng.integers(10, size=rng.integers(sizes[0], sizes[1] + 1)).tolist())
        files = [speakers[speaker][digit][rng.integers(len(speakers[speaker][digit]))] for digit in digits]
        pauses = rng.uniform(*_PAUSE, size=len(digits) + 1)
        if digits not in excluded:
            count -= 1
            yield _DigitString(speaker, digits, files, pauses)


def _set_level(signal: Tensor, level: float | None) -> Tensor:
    """Bring a recording to a root mean square, or as near as it can be without clipping; None leaves it as it is."""
    if level is None or not signal.any():
        return signal
    return signal * min(level / float(signal.square().mean().sqrt()), _PEAK / float(signal.abs().max()))


def _write_string(
    folder: Path, place: Path, sample_rate: int, level: float | None, numbered: tuple[int, _DigitString]
) -> dict[str, Any]:
    """Write a string to a folder; returns its row of the manifest, by which it is in ``place``."""
    index, string = numbered
    parts = [torch.zeros(round(string.pauses[0] * _RATE))]
    for file, pause in zip(string.files, string.pauses[1:]):
        parts += [_set_level(read_audio(file, _RATE), level), torch.zeros(round(pause * _RATE))]
    signal = torchaudio.functional.resample(torch.cat(parts), _RATE, sample_rate)
    path = place / f"{place.name}-{index:05d}.wav"
    write_audio(folder / path.name, signal.clamp(-1, 1), sample_rate)
    words = " ".join(DIGITS[digit] for digit in string.digits).upper()
    seconds = len(signal) / sample_rate
    return {"ID": path.stem, "duration": seconds, "wav": str(path), "wrd": words, "spk_id": string.speaker}


def prepare_fsdd_digits(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    sample_rate: int = _RATE,
    seed: int = 1234,
    counts: tuple[int, int, int] = (2000, 100, 300),
    level: float | None = None,
    short: int = 0,
    test_speakers: Sequence[str] = (),
) -> dict[str, Path]:
    """Write strings of 3 to 7 digits, recordings of one speaker one after the other, and a CSV file per split.

    The splits are those of :mod:`~speechbrain_mamba.corpora.fsdd`. No string of validation or test occurs in training.
    If an earlier call had the same arguments, its files are kept. With other arguments the CSV files are replaced when
    all new audio is written; the old audio stays, since other processes may be reading it. Recordings that cannot be
    used are left out; ``skipped.csv`` lists them.

    Arguments
    ---------
    data_folder : str or Path
        FSDD, with its folder ``recordings``.
    save_folder : str or Path
        Where the CSV files and, in ``strings-*/``, the audio go, in a folder for each set of arguments.
    sample_rate : int
        Samples per second of the strings.
    seed : int
        The seed of all draws.
    counts : tuple of int
        Numbers of strings for training, validation and test.
    level : float, optional
        Root mean square of every recording (full scale is 1); the speakers of FSDD differ by 18 dB. By default the
        recordings are left as they are.
    short : int
        Number of further strings for training, of 1 or 2 digits.
    test_speakers : sequence of str
        Speakers that are left out of training and validation. The test is then of all their takes and of nobody else,
        and takes 0 to 4 of the others are for validation too.

    Returns
    -------
    dict of str to Path
        The files, with the columns ID, duration (seconds), wav, wrd and spk_id.

    Raises
    ------
    FileNotFoundError
        When there is no such folder, or nothing of FSDD in it.
    ValueError
        When a speaker of the test is unknown, a speaker's usable recordings are not complete, recordings have another
        rate or are not mono, or a number of strings is out of range.
    """
    if min(counts) < 1 or short < 0:
        raise ValueError(f"counts are {tuple(counts)} and short is {short}, but must be 1 or more and 0 or more.")
    root, recordings = Path(save_folder).absolute(), find_recordings(data_folder)
    manifests = {split: root / f"{split}.csv" for split in SPLITS}
    settings = {
        "fsdd": str(recordings), "sample_rate": sample_rate, "seed": seed, "counts": counts, "level": level,
        "short": short, **({"test_speakers": sorted(test_speakers)} if test_speakers else {}),
    }  # fmt: skip
    stamp = Stamp(root / "prepared.json", settings)
    if stamp.is_done(manifests.values()):
        return manifests
    with one_at_a_time(root):
        if not stamp.is_done(manifests.values()):  # by a process that this one waited for
            if root.exists():
                remove_temporaries(root)  # of a process that was killed
            _prepare(stamp, manifests, recordings)
    return manifests


def _prepare(stamp: Stamp, manifests: dict[str, Path], recordings: Path) -> None:
    settings, root, skipped = stamp.settings, stamp.path.parent, SkippedFiles()
    rate, level, seed, short = (settings[name] for name in ("sample_rate", "level", "seed", "short"))
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    folder = root / f"strings-{digest[:8]}"
    takes, rng = _find_takes(recordings, settings.get("test_speakers", ()), skipped), np.random.default_rng(seed)
    known: set[tuple[int, ...]] = set()
    rows = {}
    with _replacing(folder) as temporary:
        for split, count in zip(SPLITS, settings["counts"]):
            strings = list(_draw_strings(takes[split], count, rng, excluded=known))
            if split == "train":
                known = {string.digits for string in strings}
                strings += _draw_strings(takes[split], short, np.random.default_rng((seed, short)), sizes=(1, 2))
            write = functools.partial(_write_string, temporary / split, folder / split, rate, level)
            rows[split] = parallel_map(write, list(enumerate(strings)), f"Writing digits for {split}", "string")
    stamp.begin()
    for split, path in manifests.items():
        write_manifest(path, rows[split])
    skipped.write(root / "skipped.csv")
    stamp.finish()


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Write a folder under a temporary name. Only when it is complete, an old one goes."""
    with atomic_path(folder) as temporary:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)

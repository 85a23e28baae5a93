"""FSDD, the Free Spoken Digit Dataset: its takes, and strings of digits made of them.

FSDD is a git repository of Zohar Jackson and contributors (Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0) with
recordings ``recordings/{digit}_{speaker}_{take}.wav`` at 8 kHz. As its authors have it, takes 0 to 4 are for the test
only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor

from speechbrain_mamba.corpora.mini.sentences import DIGITS
from speechbrain_mamba.corpora.mixtures import is_prepared, mark_prepared
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.transcripts import write_transcripts
from speechbrain_mamba.dataio.utterances import parallel_map

FSDD_RATE = 8000
"""Samples per second."""

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>.+)_(?P<take>\d+)")
_TAKES = {"train": range(10, 1000), "valid": range(5, 10), "test": range(5)}
_PAUSE = (0.05, 0.25)  # seconds
_PEAK = 0.99


class Take(NamedTuple):
    """What the name of a recording says."""

    digit: int
    speaker: str
    number: int


def parse_take(path: str | os.PathLike) -> Take | None:
    """What the name of a recording says; None where it is not FSDD's.

    Example
    -------
    >>> parse_take("recordings/7_jackson_32.wav")
    Take(digit=7, speaker='jackson', number=32)
    """
    match = _NAME.fullmatch(Path(path).stem)
    return match and Take(int(match["digit"]), match["speaker"], int(match["take"]))


def find_recordings(data_folder: str | os.PathLike) -> Path:
    """The folder of the recordings: ``recordings`` in the dataset's folder, or that folder itself.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    """
    folder = Path(data_folder).absolute()
    folder = folder / "recordings" if (folder / "recordings").is_dir() else folder
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The data folder '{folder}' does not exist: it should be a clone of free-spoken-digit-dataset, with "
            "recordings/{digit}_{speaker}_{take}.wav."
        )
    return folder


def _find_takes(folder: Path) -> dict[str, dict[str, list[list[Path]]]]:
    """The files by split, speaker and digit."""
    takes: dict[str, dict[str, list[list[Path]]]] = {split: {} for split in _TAKES}
    for path in sorted(folder.glob("*.wav")):
        take = parse_take(path)
        if take is not None:
            split = next(split for split, numbers in _TAKES.items() if take.number in numbers)
            takes[split].setdefault(take.speaker, [[] for _ in DIGITS])[take.digit].append(path)
    for split, speakers in takes.items():
        for speaker, digits in speakers.items():
            if not all(digits):
                raise ValueError(
                    f"'{folder}' has no recording of {speaker}'s digit {digits.index([])} for {split}, whose takes are "
                    f"{_TAKES[split].start} to {_TAKES[split].stop - 1}: give the whole of FSDD."
                )
        if not speakers:
            raise FileNotFoundError(
                f"'{folder}' has no file like 7_jackson_{_TAKES[split].start}.wav for {split}: give the folder of FSDD."
            )
    return takes


def _draw_strings(
    speakers: dict[str, list[list[Path]]],
    count: int,
    rng: np.random.Generator,
    sizes: tuple[int, int] = (3, 7),
    but: Container[tuple[int, ...]] = (),
) -> Iterator[tuple]:
    """Draw speakers, some digits, but not certain strings, a take of each digit and the pauses around them."""
    while count:
        speaker = sorted(speakers)[rng.integers(len(speakers))]
        digits = tuple(rng.integers(10, size=rng.integers(sizes[0], sizes[1] + 1)).tolist())
        files = [speakers[speaker][digit][rng.integers(len(speakers[speaker][digit]))] for digit in digits]
        pauses = rng.uniform(*_PAUSE, size=len(digits) + 1)
        if digits not in but:
            count -= 1
            yield speaker, digits, files, pauses


def _at_level(signal: Tensor, level: float | None) -> Tensor:
    """A recording at a root mean square, unless it would clip, and an untouched one where that is None."""
    if level is None or not signal.any():
        return signal
    return signal * min(level / float(signal.square().mean().sqrt()), _PEAK / float(signal.abs().max()))


def prepare_fsdd_digits(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    sample_rate: int = FSDD_RATE,
    seed: int = 1234,
    counts: tuple[int, int, int] = (2000, 100, 300),
    level: float | None = None,
    short: int = 0,
) -> dict[str, Path]:
    """Write strings of 3 to 7 digits, takes of one speaker one after the other, and a CSV file per split.

    Takes 0 to 4 are for the test, 5 to 9 for validation, and no string of theirs occurs in training. All splits have
    the same speakers. What an earlier call with the same arguments wrote is kept.

    Arguments
    ---------
    data_folder : str or Path
        FSDD, with its folder ``recordings``.
    save_folder : str or Path
        Where the CSV files and, in ``strings/``, the audio go.
    sample_rate : int
        Of the strings, in Hz.
    seed : int
        Of all draws.
    counts : tuple of int
        Strings for training, validation and test.
    level : float, optional
        Root mean square that every recording is brought to (full scale is 1); the speakers of FSDD differ by 18 dB. As
        recorded by default.
    short : int
        Further strings for training, of 1 or 2 digits.

    Returns
    -------
    dict of str to Path
        The files, with the columns ID, duration (seconds), wav, wrd and spk_id.

    Raises
    ------
    FileNotFoundError
        When there is no such folder, or nothing of FSDD in it.
    ValueError
        When a speaker's recordings are not complete.
    """
    save_folder = Path(save_folder).absolute()
    manifests = {split: save_folder / f"{split}.csv" for split in _TAKES}
    folder = find_recordings(data_folder)
    settings = {"fsdd": str(folder), "sample_rate": sample_rate, "seed": seed, "counts": counts, "level": level}
    settings |= {"short": short} if short else {}
    if is_prepared(save_folder, settings, all(path.is_file() for path in manifests.values())):
        return manifests
    takes, rng, known = _find_takes(folder), np.random.default_rng(seed), set()
    for split, count in zip(_TAKES, counts):
        strings = list(_draw_strings(takes[split], count, rng, but=known))
        if split == "train":
            known = {digits for _, digits, *_ in strings}
            strings += _draw_strings(takes[split], short, np.random.default_rng((seed, short)), sizes=(1, 2))

        def write(task: tuple[int, tuple], split: str = split) -> dict:
            index, (speaker, digits, files, pauses) = task
            parts = [torch.zeros(round(pauses[0] * FSDD_RATE))]
            for file, pause in zip(files, pauses[1:]):
                parts += [_at_level(read_audio(file, FSDD_RATE), level), torch.zeros(round(pause * FSDD_RATE))]
            signal = torchaudio.functional.resample(torch.cat(parts), FSDD_RATE, sample_rate)
            path = save_folder / "strings" / split / f"{split}-{index:05d}.wav"
            write_audio(path, signal.clamp(-1, 1), sample_rate)
            words = " ".join(DIGITS[digit] for digit in digits).upper()
            return {"ID": path.stem, "duration": len(signal) / sample_rate, "wav": str(path), "wrd": words,
                    "spk_id": speaker}  # fmt: skip

        rows = parallel_map(write, list(enumerate(strings)), f"Writing digits for {split}", "string")
        write_transcripts(manifests[split], rows)
    mark_prepared(save_folder, settings)
    return manifests

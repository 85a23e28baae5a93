"""FSDD, the Free Spoken Digit Dataset: its takes, their splits, and mixtures of them.

FSDD is a git repository of Zohar Jackson and contributors (Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0) with
recordings ``recordings/{digit}_{speaker}_{take}.wav`` at 8 kHz. Its authors reserve takes 0 to 4 for the test; here
takes 5 to 9 are for validation, and the others for training. All splits have the same speakers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from speechbrain_mamba.corpora.mixtures import MixtureSettings, prepare_mixtures
from speechbrain_mamba.dataio.audio_files import SkippedFiles
from speechbrain_mamba.dataio.manifests import SPLITS
from speechbrain_mamba.dataio.utterances import Utterance, scan_speakers

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>.+)_(?P<take>\d+)")
_FIRST_TAKES = {"train": 10, "valid": 5, "test": 0}


class Take(NamedTuple):
    """The parts of a recording's name."""

    digit: int
    speaker: str
    number: int

    @property
    def split(self) -> str:
        """The split of the recording: ``test`` for takes 0 to 4, ``valid`` for 5 to 9, ``train`` from 10 on."""
        return next(split for split, first in _FIRST_TAKES.items() if self.number >= first)


def parse_take(path: str | os.PathLike) -> Take | None:
    """Take a recording's name apart; None if it is not one of FSDD.

    Example
    -------
    >>> parse_take("recordings/7_jackson_32.wav")
    Take(digit=7, speaker='jackson', number=32)
    >>> parse_take("recordings/7_jackson_3.wav").split
    'test'
    """
    match = _NAME.fullmatch(Path(path).stem)
    return match and Take(int(match["digit"]), match["speaker"], int(match["take"]))


def find_recordings(data_folder: str | os.PathLike) -> Path:
    """The folder of the recordings: ``recordings`` in the folder of the dataset, or that folder itself.

    Raises a FileNotFoundError when there is no such folder.
    """
    folder = Path(data_folder).absolute()
    folder = folder / "recordings" if (folder / "recordings").is_dir() else folder
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The data folder '{folder}' does not exist: it should be a clone of free-spoken-digit-dataset, with "
            "recordings/{digit}_{speaker}_{take}.wav."
        )
    return folder


def find_speech(data_folder: str | os.PathLike, sample_rate: int, skipped: SkippedFiles) -> dict[str, list[Utterance]]:
    """List the recordings of ``train``, ``valid`` and ``test``.

    Arguments and errors are those of :func:`find_recordings` and
    :func:`~speechbrain_mamba.dataio.utterances.scan_speakers`.
    """
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for utterance in scan_speakers(find_recordings(data_folder), sample_rate, _speaker, skipped):
        if take := parse_take(utterance.path):
            splits[take.split].append(utterance)
    return splits


def prepare_fsdd_mixtures(
    data_folder: str | os.PathLike, save_folder: str | os.PathLike, **options: Any
) -> dict[str, Path]:
    """Make mixtures of digit strings, with manifests.

    The data folder is that of the dataset, or its folder ``recordings``; the ``sample_rate`` is 8000. Options, results
    and errors are those of :func:`~speechbrain_mamba.corpora.folder.prepare_folder`.
    """
    recordings, settings, skipped = find_recordings(data_folder), MixtureSettings(**options), SkippedFiles()

    def find_splits() -> dict[str, list[Utterance]]:
        return find_speech(recordings, settings.sample_rate, skipped)

    return prepare_mixtures(save_folder, settings, {"fsdd": str(recordings)}, find_splits, skipped)


def _speaker(path: Path) -> str | None:
    take = parse_take(path)
    return take and take.speaker

"""Mixtures from any folder tree of clean speech, ``speaker/**/*.wav`` or ``.flac``.

The tree is either divided already, into folders such as ``train``, ``valid``, ``test`` (the embedded corpus) or
``train-clean-100``, ``dev-clean``, ``test-clean`` (LibriSpeech), each with a folder per speaker; or it has a folder per
speaker, and the speakers are divided here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from speechbrain_mamba.corpora.mixtures import MixtureSettings, prepare_mixtures
from speechbrain_mamba.dataio.audio_files import SkippedFiles
from speechbrain_mamba.dataio.manifests import SPLITS
from speechbrain_mamba.dataio.utterances import Utterance, scan_speakers

_SPLIT_NAMES = {"train": "train|tr", "valid": "valid|validation|val|dev|cv", "test": "test|tt|eval"}

_FRACTIONS = (0.8, 0.1, 0.1)


def split_speakers(
    utterances: list[Utterance], fractions: tuple[float, float, float], num_spks: int, seed: int
) -> dict[str, list[Utterance]]:
    """Divide the speakers at random among ``train``, ``valid`` and ``test``, which get these fractions of them.

    Each split gets ``num_spks`` speakers at least.

    Raises
    ------
    ValueError
        When the fractions do not add up to 1, or there are too few speakers.

    Example
    -------
    >>> utterances = [Utterance(f"{speaker}.wav", speaker, 8000) for speaker in "abcdefghij"]
    >>> splits = split_speakers(utterances, (0.6, 0.2, 0.2), num_spks=2, seed=0)
    >>> [len(splits[split]) for split in ("train", "valid", "test")]
    [6, 2, 2]
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"The fractions are {tuple(fractions)}, but must be three shares that add up to 1.")
    speakers = sorted({utterance.speaker for utterance in utterances})
    held_out = [max(num_spks, round(fraction * len(speakers))) for fraction in fractions[1:]]
    if len(speakers) - sum(held_out) < num_spks:
        raise ValueError(
            f"The data have {len(speakers)} speaker(s), but training, validation and test with mixtures of {num_spks} "
            f"speakers need at least {3 * num_spks}, and {num_spks} of them left for training."
        )
    order = [speakers[index] for index in np.random.default_rng(seed).permutation(len(speakers))]
    first, last = held_out[0], sum(held_out)
    chosen = {"train": set(order[last:]), "valid": set(order[:first]), "test": set(order[first:last])}
    return {split: [utterance for utterance in utterances if utterance.speaker in chosen[split]] for split in SPLITS}


def _split_folders(data_folder: Path) -> dict[str, list[Path]] | None:
    """The folders of each split, if the data are divided."""
    folders = sorted(entry for entry in data_folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {
        split: [folder for folder in folders if re.fullmatch(rf"({names})([-_].*)?", folder.name, re.IGNORECASE)]
        for split, names in _SPLIT_NAMES.items()
    }
    missing = [split for split in SPLITS if not found[split]]
    if 0 < len(missing) < len(SPLITS):
        names = ", ".join(folder.name for split in SPLITS for folder in found[split])
        raise ValueError(
            f"The data folder '{data_folder}' has {names}, but no folder for {' and '.join(missing)}: give it one for "
            "each of train, valid and test, or folders of speakers only."
        )
    return None if missing else found


def find_folder(data_folder: str | os.PathLike) -> Path:
    """The folder of the speech, absolute. Raises a FileNotFoundError when there is none."""
    root = Path(data_folder).absolute()
    if not root.is_dir():
        raise FileNotFoundError(
            f"The data folder '{root}' does not exist: it should hold speaker/**/*.wav or .flac, or folders train, "
            "valid and test with that inside."
        )
    return root


def find_speech(
    data_folder: str | os.PathLike,
    sample_rate: int,
    skipped: SkippedFiles,
    num_spks: int = 2,
    seed: int = 1234,
    fractions: tuple[float, float, float] = _FRACTIONS,
) -> dict[str, list[Utterance]]:
    """List the speech of ``train``, ``valid`` and ``test``, by their folders or with the speakers divided here.

    Arguments and errors are those of :func:`~speechbrain_mamba.dataio.utterances.scan_speakers` and
    :func:`split_speakers`.
    """
    root = find_folder(data_folder)
    divided = _split_folders(root)
    if divided is None:
        return split_speakers(scan_speakers(root, sample_rate, skipped=skipped), fractions, num_spks, seed)
    return {
        split: [found for folder in folders for found in scan_speakers(folder, sample_rate, skipped=skipped)]
        for split, folders in divided.items()
    }


def prepare_folder(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    fractions: tuple[float, float, float] = _FRACTIONS,
    **options: Any,
) -> dict[str, Path]:
    """Turn a folder of clean speech into mixtures with manifests.

    Arguments
    ---------
    data_folder : str or Path
        The speech: ``speaker/**/*.wav`` or ``.flac``, or folders for training, validation and test with that inside.
    save_folder : str or Path
        Where ``train.csv``, ``valid.csv``, ``test.csv`` and ``mixtures/`` go, and, if files cannot be used,
        ``skipped.csv`` with their paths and the reasons.
    fractions : tuple of float
        Shares of the speakers in training, validation and test, if the data are not divided yet.
    **options
        Those of :class:`~speechbrain_mamba.corpora.mixtures.MixtureSettings`; the files must have its ``sample_rate``.

    Returns
    -------
    dict
        The manifests of ``train``, ``valid`` and ``test``.

    Raises
    ------
    FileNotFoundError
        When there is no such data folder.
    ValueError
        When the folder has no usable speech or too few speakers, a file has another sample rate or is not mono, or a
        setting is out of range.
    """
    root, settings, skipped = find_folder(data_folder), MixtureSettings(**options), SkippedFiles()

    def find_splits() -> dict[str, list[Utterance]]:
        return find_speech(root, settings.sample_rate, skipped, settings.num_spks, settings.seed, fractions)

    source = {"data_folder": str(root), "fractions": list(fractions)}
    return prepare_mixtures(save_folder, settings, source, find_splits, skipped)

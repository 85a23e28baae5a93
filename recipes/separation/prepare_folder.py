"""Mixtures from any folder tree of clean speech, ``speaker/**/*.wav`` or ``.flac``.

The tree is either divided already, into folders such as ``train``, ``valid``, ``test`` (the embedded corpus) or
``train-clean-100``, ``dev-clean``, ``test-clean`` (LibriSpeech), each with a folder per speaker; or it has a folder per
speaker, and the speakers are shared out here.

    python recipes/separation/prepare_folder.py DATA_FOLDER SAVE_FOLDER --num_spks 2 --sample_rate 8000
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from speechbrain_mamba.corpora.mixtures import (
    SPLITS,
    MixtureSettings,
    add_mixture_options,
    prepare_mixtures,
    run_preparation,
    split_speakers,
)
from speechbrain_mamba.dataio.utterances import Utterance, scan_speakers

_SPLIT_NAMES = {"train": "train|tr", "valid": "valid|validation|val|dev|cv", "test": "test|tt|eval"}


def _split_folders(data_folder: Path) -> dict[str, list[Path]] | None:
    """The folders of each split, if the data are divided."""
    folders = sorted(entry for entry in data_folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {
        split: [folder for folder in folders if re.fullmatch(rf"({names})([-_].*)?", folder.name, re.IGNORECASE)]
        for split, names in _SPLIT_NAMES.items()
    }
    if not any(found.values()):
        return None
    missing = [split for split in SPLITS if not found[split]]
    if missing:
        names = ", ".join(folder.name for split in SPLITS for folder in found[split])
        raise ValueError(
            f"The data folder '{data_folder}' has {names}, but no folder for {' and '.join(missing)}: give it one for "
            "each of train, valid and test, or folders of speakers only."
        )
    return found


def prepare_folder(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    **settings,
) -> dict[str, Path]:
    """Turn a folder of clean speech into mixtures with manifests.

    Arguments
    ---------
    data_folder : str or Path
        The speech: ``speaker/**/*.wav`` or ``.flac``, or folders for training, validation and test with that inside.
    save_folder : str or Path
        Where ``train.csv``, ``valid.csv``, ``test.csv`` and ``mixtures/`` go.
    fractions : tuple of float
        Shares of the speakers in training, validation and test, where the data are not divided.
    **settings
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
    data_folder = Path(data_folder).absolute()
    if not data_folder.is_dir():
        raise FileNotFoundError(
            f"The data folder '{data_folder}' does not exist: it should hold speaker/**/*.wav or .flac, or folders "
            "train, valid and test with that inside."
        )

    settings = MixtureSettings(**settings)
    rate = settings.sample_rate

    def find_splits() -> dict[str, list[Utterance]]:
        divided = _split_folders(data_folder)
        if divided is None:
            return split_speakers(scan_speakers(data_folder, rate), tuple(fractions), settings.num_spks, settings.seed)
        return {
            split: [utterance for folder in folders for utterance in scan_speakers(folder, rate)]
            for split, folders in divided.items()
        }

    source = {"data_folder": str(data_folder), "fractions": list(fractions)}
    return prepare_mixtures(save_folder, settings, source, find_splits)


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", help="folder of the speech")
    parser.add_argument("save_folder", help="where the manifests and mixtures go")
    add_mixture_options(parser)
    parser.add_argument("--fractions", type=float, nargs=3, default=(0.8, 0.1, 0.1), help="shares of the speakers")
    run_preparation(parser, prepare_folder, arguments)


if __name__ == "__main__":
    main()

"""Mixtures of digit strings from the Free Spoken Digit Dataset (FSDD), 8 kHz recordings of six speakers.

Its recordings are joined at random to strings of one speaker. Takes 0 to 4 are in the test data only; takes 5 to 7 are
for validation, the others for training. All splits have the same speakers.

    python recipes/separation/prepare_fsdd.py DATA_FOLDER SAVE_FOLDER --dynamic_mixing
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from speechbrain_mamba.corpora.fsdd import find_recordings, parse_take
from speechbrain_mamba.corpora.mixtures import (
    SPLITS,
    MixtureSettings,
    add_mixture_options,
    prepare_mixtures,
    run_preparation,
)
from speechbrain_mamba.dataio.utterances import Utterance, scan_speakers


def fsdd_speaker(path: Path) -> str | None:
    """The speaker of a recording, from its name; None where the name is not FSDD's."""
    take = parse_take(path)
    return take and take.speaker


def fsdd_split(path: str | os.PathLike) -> str:
    """The split of a recording, from its take: 0 to 4 ``test``, 5 to 7 ``valid``, others ``train``."""
    number = parse_take(path).number
    return "test" if number < 5 else "valid" if number < 8 else "train"


def prepare_fsdd(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    **settings,
) -> dict[str, Path]:
    """Make mixtures of digit strings, with manifests.

    Arguments
    ---------
    data_folder : str or Path
        The dataset's folder, with ``recordings/`` in it, or that folder itself.
    save_folder : str or Path
        Where ``train.csv``, ``valid.csv``, ``test.csv`` and ``mixtures/`` go.
    **settings
        Those of :class:`~speechbrain_mamba.corpora.mixtures.MixtureSettings`; FSDD has a ``sample_rate`` of 8000.

    Returns
    -------
    dict
        The manifests of ``train``, ``valid`` and ``test``.

    Raises
    ------
    FileNotFoundError
        When there is no such data folder.
    ValueError
        When the folder has no usable recording or too few speakers, a file has another sample rate or is not mono, or
        a setting is out of range.
    """
    recordings = find_recordings(data_folder)
    settings = MixtureSettings(**settings)

    def find_splits() -> dict[str, list[Utterance]]:
        splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
        for utterance in scan_speakers(recordings, settings.sample_rate, speaker=fsdd_speaker):
            splits[fsdd_split(utterance.path)].append(utterance)
        return splits

    return prepare_mixtures(save_folder, settings, {"fsdd": str(recordings)}, find_splits)


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", help="the clone of free-spoken-digit-dataset")
    parser.add_argument("save_folder", help="where the manifests and mixtures go")
    add_mixture_options(parser)
    run_preparation(parser, prepare_fsdd, arguments)


if __name__ == "__main__":
    main()

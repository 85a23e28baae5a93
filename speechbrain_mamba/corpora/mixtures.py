"""From single-speaker utterances to the manifests of a separation experiment."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from speechbrain_mamba.dataio.mixing import MixtureSampler, is_complete, write_mixtures
from speechbrain_mamba.dataio.utterances import Utterance, write_utterances
from speechbrain_mamba.utils.files import write_json

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
_STAMP = "prepared.json"


@dataclass(frozen=True)
class MixtureSettings:
    """What mixtures a preparation makes.

    Arguments
    ---------
    num_spks : int
        Speakers per mixture.
    sample_rate : int
        Samples per second of the speech and of the mixtures.
    seconds : tuple of float, optional
        Shortest and longest mixture; None makes a mixture as long as the shortest of one utterance of each speaker.
    train_mixtures, valid_mixtures, test_mixtures : int
        Mixtures to write. With dynamic mixing no training mixtures are written.
    dynamic_mixing : bool
        Whether the training mixtures are drawn on the fly.
    seed : int
        The seed of all draws.

    Example
    -------
    >>> MixtureSettings(num_spks=3).seconds
    (2.0, 4.0)
    """

    num_spks: int = 2
    sample_rate: int = 8000
    seconds: tuple[float, float] | None = (2.0, 4.0)
    train_mixtures: int = 2000
    valid_mixtures: int = 200
    test_mixtures: int = 200
    dynamic_mixing: bool = False
    seed: int = 1234

    def __post_init__(self):
        if self.seconds is not None:
            object.__setattr__(self, "seconds", tuple(self.seconds))


def manifest_paths(save_folder: str | os.PathLike, dynamic_mixing: bool) -> dict[str, Path]:
    """Where the manifests of a preparation are.

    Arguments
    ---------
    save_folder : str or Path
        The preparation's output folder.
    dynamic_mixing : bool
        Whether the training mixtures are drawn on the fly.

    Returns
    -------
    dict
        The CSV files of ``train``, ``valid`` and ``test``; with dynamic mixing ``train`` is the list of utterances
        ``train_utterances.csv``.

    Example
    -------
    >>> manifest_paths("out", dynamic_mixing=True)["train"].name
    'train_utterances.csv'
    """
    names = {split: f"{split}.csv" for split in SPLITS}
    if dynamic_mixing:
        names["train"] = "train_utterances.csv"
    return {split: Path(save_folder) / name for split, name in names.items()}


def split_speakers(
    utterances: list[Utterance], fractions: tuple[float, float, float], num_spks: int, seed: int
) -> dict[str, list[Utterance]]:
    """Share the speakers out among training, validation and test.

    Arguments
    ---------
    utterances : list of Utterance
        The speech of all speakers.
    fractions : tuple of float
        Shares of the speakers in training, validation and test; they add up to 1.
    num_spks : int
        The least number of speakers per share.
    seed : int
        Chooses who goes where.

    Returns
    -------
    dict
        The utterances of ``train``, ``valid`` and ``test``; no speaker is in two of them.

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
    valid, test = set(order[: held_out[0]]), set(order[held_out[0] : sum(held_out)])
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for utterance in utterances:
        splits["valid" if utterance.speaker in valid else "test" if utterance.speaker in test else "train"].append(
            utterance
        )
    return splits


def is_prepared(save_folder: str | os.PathLike, parameters: dict, whole: bool = True) -> bool:
    """Whether a preparation with these parameters was completed. If not, an old mark is removed.

    Arguments
    ---------
    save_folder : str or Path
        The preparation's output folder.
    parameters : dict
        All that decides the outcome, as values for JSON.
    whole : bool
        Whether the files that it makes are there.

    Returns
    -------
    bool
        True after :func:`mark_prepared` with equal parameters.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> mark_prepared(folder, {"num_spks": 2})
    >>> is_prepared(folder, {"num_spks": 2}), is_prepared(folder, {"num_spks": 3}), is_prepared(folder, {"num_spks": 2})
    (True, False, False)
    """
    stamp = Path(save_folder) / _STAMP
    if not stamp.is_file():
        return False
    if not whole or json.loads(stamp.read_text(encoding="utf-8")) != json.loads(json.dumps(parameters)):
        stamp.unlink()
        return False
    logger.info("The data in %s are prepared already; remove %s to prepare them anew.", save_folder, stamp.name)
    return True


def mark_prepared(save_folder: str | os.PathLike, parameters: dict) -> None:
    """Leave the mark of a completed preparation.

    Arguments
    ---------
    save_folder : str or Path
        The preparation's output folder.
    parameters : dict
        All that decides the outcome, as values for JSON.

    Example
    -------
    See :func:`is_prepared`.
    """
    write_json(Path(save_folder) / _STAMP, parameters)


def prepare_mixtures(
    save_folder: str | os.PathLike,
    settings: MixtureSettings,
    source: dict,
    find_splits: Callable[[], dict[str, list[Utterance]]],
) -> dict[str, Path]:
    """Make the mixtures and manifests of an experiment, or find them made.

    Arguments
    ---------
    save_folder : str or Path
        Where the manifests and, in ``mixtures/``, the mixtures go.
    settings : MixtureSettings
        What mixtures to make.
    source : dict
        What else decides the outcome, as values for JSON: the data folder, how it is split.
    find_splits : callable
        Lists the utterances of ``train``, ``valid`` and ``test``. It is called when there is something to make.

    Returns
    -------
    dict
        The manifests, as :func:`manifest_paths` names them.

    Raises
    ------
    ValueError
        When a split has too few speakers, or a setting is out of range.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> folder, speech = getfixture("tmp_path"), []
    >>> for speaker in ("anna", "ben"):
    ...     write_audio(folder / f"{speaker}.wav", torch.randn(8000) / 10, sample_rate=8000)
    ...     speech.append(Utterance(str(folder / f"{speaker}.wav"), speaker, 8000))
    >>> settings = MixtureSettings(seconds=(0.5, 0.5), valid_mixtures=1, test_mixtures=1, dynamic_mixing=True)
    >>> manifests = prepare_mixtures(folder / "out", settings, {}, lambda: dict.fromkeys(SPLITS, speech))
    >>> [manifests[split].name for split in SPLITS]
    ['train_utterances.csv', 'valid.csv', 'test.csv']
    """
    save_folder = Path(save_folder).absolute()
    manifests, parameters = manifest_paths(save_folder, settings.dynamic_mixing), {**source, **asdict(settings)}
    whole = all(path.is_file() if "utterances" in path.name else is_complete(path) for path in manifests.values())
    if is_prepared(save_folder, parameters, whole):
        return manifests
    utterances = find_splits()
    counts = (settings.train_mixtures, settings.valid_mixtures, settings.test_mixtures)
    for offset, (split, count) in enumerate(zip(SPLITS, counts)):
        dynamic = split == "train" and settings.dynamic_mixing
        try:
            sampler = MixtureSampler(
                utterances[split],
                settings.num_spks,
                settings.sample_rate,
                settings.seconds,
                settings.seed + offset,
                cache_bytes=0 if dynamic else 2**29,
            )
        except ValueError as error:
            raise ValueError(f"The data for {split} cannot be mixed: {error}") from error
        if dynamic:
            write_utterances(manifests[split], utterances[split], settings.sample_rate)
        else:
            write_mixtures(sampler, count, save_folder / "mixtures" / split, manifests[split])
    mark_prepared(save_folder, parameters)
    return manifests


def add_mixture_options(parser: argparse.ArgumentParser) -> None:
    """Give a script the settings of :class:`MixtureSettings` as options.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        The script's parser.

    Example
    -------
    >>> parser = argparse.ArgumentParser()
    >>> add_mixture_options(parser)
    >>> parser.parse_args(["--num_spks", "3"]).num_spks
    3
    """
    default = MixtureSettings()
    parser.add_argument("--num_spks", type=int, default=default.num_spks, help="speakers per mixture")
    parser.add_argument("--sample_rate", type=int, default=default.sample_rate, help="samples per second of the speech")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=default.seconds, help="shortest and longest mixture in seconds"
    )
    for split in SPLITS:
        name = f"{split}_mixtures"
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name), help=f"mixtures for {split}")
    parser.add_argument("--dynamic_mixing", action="store_true", help="draw the training mixtures on the fly")
    parser.add_argument("--seed", type=int, default=default.seed, help="seed of all draws")


def run_preparation(
    parser: argparse.ArgumentParser, prepare: Callable[..., dict[str, Path]], arguments: list[str] | None = None
) -> None:
    """Run a preparation as a script: what is wrong with the data is said in one line, and what was made is listed.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Its options have the names of the preparation's arguments.
    prepare : callable
        The preparation.
    arguments : list of str, optional
        The command line; that of the process by default.

    Raises
    ------
    SystemExit
        When the arguments or the data are wrong.

    Example
    -------
    >>> parser = argparse.ArgumentParser()
    >>> _ = parser.add_argument("save_folder")
    >>> run_preparation(parser, lambda save_folder: {"test": Path(save_folder) / "test.csv"}, ["out"])
    """
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        manifests = prepare(**options)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")
    for split, path in manifests.items():
        logger.info("%s: %s", split, path)

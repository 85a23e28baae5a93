"""From single-speaker utterances to the manifests of a separation experiment."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechbrain_mamba.dataio.audio_files import SkippedFiles
from speechbrain_mamba.dataio.manifests import SPLITS
from speechbrain_mamba.dataio.mixing import MixtureSampler
from speechbrain_mamba.dataio.mixture_files import manifest_files, write_mixtures
from speechbrain_mamba.dataio.utterances import Utterance, write_utterances
from speechbrain_mamba.utils.stamps import Stamp
from speechbrain_mamba.utils.waiting import one_at_a_time


@dataclass(frozen=True)
class MixtureSettings:
    """The settings of the mixtures that a preparation makes.

    Arguments
    ---------
    num_spks, sample_rate, seconds, seed
        As in :class:`~speechbrain_mamba.dataio.mixing.MixtureSampler`.
    train_mixtures, valid_mixtures, test_mixtures : int
        Numbers of mixtures to write. With dynamic mixing no training mixtures are written.
    dynamic_mixing : bool
        Whether the training mixtures are drawn on the fly.
    """

    num_spks: int = 2
    sample_rate: int = 8000
    seconds: tuple[float, float] | None = (2.0, 4.0)
    train_mixtures: int = 2000
    valid_mixtures: int = 200
    test_mixtures: int = 200
    dynamic_mixing: bool = False
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.seconds is not None:
            object.__setattr__(self, "seconds", tuple(self.seconds))


def manifest_paths(save_folder: str | os.PathLike, dynamic_mixing: bool) -> dict[str, Path]:
    """The manifests of a preparation by split; with dynamic mixing that of ``train`` is a list of utterances."""
    names = {split: f"{split}.csv" for split in SPLITS}
    if dynamic_mixing:
        names["train"] = "train_utterances.csv"
    return {split: Path(save_folder) / name for split, name in names.items()}


def prepare_mixtures(
    save_folder: str | os.PathLike,
    settings: MixtureSettings,
    source: Mapping[str, Any],
    find_splits: Callable[[], dict[str, list[Utterance]]],
    skipped: SkippedFiles | None = None,
) -> dict[str, Path]:
    """Make the mixtures and manifests of an experiment. If they were made already, they are kept.

    Arguments
    ---------
    save_folder : str or Path
        Where the manifests and, in ``mixtures/``, the mixtures go.
    settings : MixtureSettings
        The settings of the mixtures.
    source : mapping
        What else decides the outcome, as values for JSON: the data folder, how it is split.
    find_splits : callable
        Lists the utterances of ``train``, ``valid`` and ``test``. It is called only if there is something to make.
    skipped : SkippedFiles, optional
        What ``find_splits`` leaves out: ``skipped.csv`` in the folder lists it.

    Returns
    -------
    dict
        The manifests by split; with dynamic mixing that of ``train``, ``train_utterances.csv``, lists utterances.

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
    folder = Path(save_folder).absolute()
    manifests = manifest_paths(folder, settings.dynamic_mixing)
    stamp = Stamp(folder / "prepared.json", {**source, **asdict(settings)})
    written = [path for split, path in manifests.items() if not (split == "train" and settings.dynamic_mixing)]

    def is_done() -> bool:
        return stamp.is_done(itertools.chain(manifests.values(), *map(manifest_files, written)))

    if not is_done():
        with one_at_a_time(folder):
            if not is_done():  # by a process that this one waited for
                _make(folder, settings, stamp, manifests, find_splits(), SkippedFiles() if skipped is None else skipped)
    return manifests


def _make(
    folder: Path,
    settings: MixtureSettings,
    stamp: Stamp,
    manifests: Mapping[str, Path],
    utterances: Mapping[str, list[Utterance]],
    skipped: SkippedFiles,
) -> None:
    """Make mixtures and manifests. What can fail because of the data fails before anything is replaced."""
    written = [split for split in SPLITS if not (split == "train" and settings.dynamic_mixing)]
    counts = dict(zip(SPLITS, (settings.train_mixtures, settings.valid_mixtures, settings.test_mixtures)))

    def make_sampler(split: str, cache_bytes: int = 2**29) -> MixtureSampler:
        speakers, rate, seed = settings.num_spks, settings.sample_rate, settings.seed + SPLITS.index(split)
        return MixtureSampler(utterances[split], speakers, rate, settings.seconds, seed, cache_bytes=cache_bytes)

    for split in SPLITS:
        try:
            make_sampler(split, cache_bytes=0)
        except ValueError as error:
            raise ValueError(f"The data for {split} cannot be mixed: {error}") from error
        if split in written and counts[split] < 1:
            raise ValueError(f"{split}_mixtures is {counts[split]}, but must be at least 1.")
    stamp.begin()
    for split in SPLITS:
        if split in written:
            write_mixtures(make_sampler(split), counts[split], folder / "mixtures" / split, manifests[split])
        else:
            write_utterances(manifests[split], utterances[split], settings.sample_rate)
    skipped.write(folder / "skipped.csv")
    stamp.finish()


def add_mixture_options(parser: argparse.ArgumentParser) -> None:
    """Give a script the settings of :class:`MixtureSettings` as options."""
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

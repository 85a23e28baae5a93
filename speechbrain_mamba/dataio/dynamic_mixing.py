"""Datasets of mixtures that are drawn on the fly ("dynamic mixing")."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.dataio.augmentation import MixtureAugmentation
from speechbrain_mamba.dataio.level_laws import LevelLaw, Wsj0MixLaw
from speechbrain_mamba.dataio.mixing import MixtureSampler
from speechbrain_mamba.dataio.mixture_dataset import source_keys
from speechbrain_mamba.dataio.utterances import Utterance, read_utterances


class _DrawItems:
    """Sampler and epoch, which copies of a dataset share. Running workers see the epoch change in shared memory."""

    def __init__(self, sampler: MixtureSampler) -> None:
        self.sampler = sampler
        self.epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    def __deepcopy__(self, memo: dict[int, Any]) -> _DrawItems:
        return self

    def draw(self, index: int) -> Iterator[Tensor]:
        mixture = self.sampler.draw(index, int(self.epoch))
        yield mixture.mix
        yield from mixture.sources


class DynamicMixtures(DynamicItemDataset):
    """A dataset of mixtures that are drawn when they are read, new ones in each epoch: see :func:`dynamic_mixtures`.

    An item is a pure function of (seed, epoch, index): a run that is interrupted and resumed sees the same mixtures.
    It has the keys ``id``, ``mix_sig``, ``s1_sig``, ``s2_sig``, ... (tensors (samples,)).
    """

    def __init__(self, sampler: MixtureSampler, count: int) -> None:
        if count < 1:
            raise ValueError(f"The number of mixtures per epoch is {count}, but must be at least 1.")
        super().__init__({f"mixture_{index:06d}": {"index": index} for index in range(count)})
        self._items = _DrawItems(sampler)
        keys = ["mix_sig", *(f"{key}_sig" for key in source_keys(sampler.num_spks))]
        self.add_dynamic_item(self._items.draw, takes=["index"], provides=keys)
        self.set_output_keys(["id", *keys])

    def set_epoch(self, epoch: int) -> None:
        """Choose the mixtures of an epoch. Call it before the first batch; workers that already run follow."""
        self._items.epoch.fill_(epoch)


def dynamic_mixtures(
    utterances: list[Utterance] | str | os.PathLike,
    count: int,
    num_spks: int,
    sample_rate: int,
    seconds: tuple[float, float] | None = (2.0, 4.0),
    seed: int = 0,
    law: LevelLaw = Wsj0MixLaw(),  # noqa: B008  # it never changes
    augmentation: MixtureAugmentation | None = None,
) -> DynamicMixtures:
    """The dataset of mixtures of some utterances, drawn on the fly. Call its ``set_epoch`` before each epoch.

    Arguments
    ---------
    utterances : list of Utterance, str or Path
        The speech, or the CSV file that lists it: ``train_utterances.csv`` of the preparation.
    count : int
        Mixtures per epoch.
    num_spks, sample_rate, seconds, seed, law, augmentation
        Those of :class:`~speechbrain_mamba.dataio.mixing.MixtureSampler`.

    Raises
    ------
    FileNotFoundError
        When the CSV file or a speech file does not exist.
    ValueError
        When there are too few speakers, or a value is out of range.

    Example
    -------
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> for speaker in ("anna", "ben"):
    ...     write_audio(folder / f"{speaker}.wav", torch.randn(8000) / 10, sample_rate=8000)
    >>> utterances = [Utterance(str(folder / f"{speaker}.wav"), speaker, 8000) for speaker in ("anna", "ben")]
    >>> dataset = dynamic_mixtures(utterances, count=4, num_spks=2, sample_rate=8000, seconds=(0.5, 0.5))
    >>> dataset.set_epoch(1)
    >>> sorted(dataset[3])
    ['id', 'mix_sig', 's1_sig', 's2_sig']
    """
    speech = utterances if isinstance(utterances, list) else read_utterances(utterances, sample_rate)
    return DynamicMixtures(MixtureSampler(speech, num_spks, sample_rate, seconds, seed, law, augmentation), count)

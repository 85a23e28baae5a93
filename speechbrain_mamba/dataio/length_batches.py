"""Batches of similar length for millions of examples: those of SpeechBrain's DynamicBatchSampler, in arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from torch.utils.data import Sampler

from speechbrain_mamba.dataio.tables import ManifestTable
from speechbrain_mamba.utils._compat import bucket_plan


class LengthBatches(Sampler[list[int]]):
    """The batches of SpeechBrain's ``DynamicBatchSampler``, at 20 bytes per example instead of some hundreds.

    Shuffled examples fill buckets of similar length, and a bucket that is full becomes a batch. Batches are the same as
    SpeechBrain's, in each epoch, for random ``batch_ordering``.

    Arguments
    ---------
    lengths : numpy.ndarray
        The length of each example, (examples,).
    max_batch_length, num_buckets, max_batch_ex, seed
        Those of ``DynamicBatchSampler``.

    Example
    -------
    >>> sampler = LengthBatches(np.array([1.0, 2.0, 1.5, 9.0]), max_batch_length=4, num_buckets=2)
    >>> sampler.set_epoch(1)
    >>> sorted(sorted(batch) for batch in sampler), len(sampler)
    ([[0, 2], [1], [3]], 3)
    """

    def __init__(
        self,
        lengths: np.ndarray,
        max_batch_length: float,
        num_buckets: int,
        max_batch_ex: int | None = None,
        seed: int = 42,
    ) -> None:
        self.seed = seed
        boundaries, self._sizes = bucket_plan(max_batch_length, num_buckets, max_batch_ex)
        self._buckets = np.searchsorted(boundaries, lengths).astype(np.int32)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Make the batches of an epoch."""
        shuffled = torch.randperm(len(self._buckets), generator=self._generator(epoch)).numpy()
        buckets = self._buckets[shuffled]
        by_bucket = np.argsort(buckets, kind="stable")  # places in the shuffled order, bucket after bucket
        counts = np.bincount(buckets, minlength=len(self._sizes))
        firsts, lasts, filled = [], [], []  # of each batch, and when it is full; one that never is comes last
        offset = 0
        for bucket, (count, size) in enumerate(zip(counts.tolist(), self._sizes)):
            starts = np.arange(offset, offset + count, size)
            ends = np.minimum(starts + size, offset + count)
            firsts.append(starts)
            lasts.append(ends)
            filled.append(np.where(ends - starts == size, by_bucket[ends - 1], len(buckets) + bucket))
            offset += count
        starts, ends, when = (np.concatenate(parts) for parts in (firsts, lasts, filled))
        made = np.argsort(when, kind="stable")
        made = made[torch.randperm(len(made), generator=self._generator(epoch)).numpy()]
        self._order = shuffled[by_bucket].astype(np.int32)
        self._spans = np.stack([starts[made], ends[made]], 1)

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + epoch)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> list[int]:
        first, end = self._spans[number]
        return self._order[first:end].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[number] for number in range(len(self)))


def length_sampler(
    dataset: DynamicItemDataset,
    max_batch_length: float,
    num_buckets: int,
    max_batch_ex: int | None,
    seed: int,
    shuffle: bool = True,
) -> Any:
    """Make the sampler of batches limited in seconds: SpeechBrain's, or :class:`LengthBatches` for a large manifest.

    Without ``shuffle`` the batches are always the same ones, the shortest first.
    """
    if shuffle and isinstance(dataset.data, ManifestTable):
        return LengthBatches(dataset.data.durations, max_batch_length, num_buckets, max_batch_ex, seed)
    return DynamicBatchSampler(
        dataset,
        max_batch_length,
        num_buckets,
        length_func=lambda item: item["duration"],
        shuffle=shuffle,
        batch_ordering="random" if shuffle else "ascending",
        max_batch_ex=max_batch_ex,
        seed=seed,
    )

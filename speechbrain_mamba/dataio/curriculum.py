"""Batches of short utterances first, and of longer ones from epoch to epoch."""

from __future__ import annotations

import itertools
from typing import Any

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from speechbrain_mamba.utils._compat import BatchesOfEpoch


class LengthCurriculumSampler(BatchesOfEpoch, DynamicBatchSampler):
    """SpeechBrain's DynamicBatchSampler, with a limit on the utterances' length that grows linearly over some epochs.

    An epoch has as many batches as without a limit, since the batches within the limit are repeated. ``set_epoch`` has
    to be called before each epoch, as SpeechBrain's ``Brain.fit`` does for its ``train_sampler``.

    Arguments
    ---------
    dataset, max_batch_length, num_buckets, **options
        Arguments of DynamicBatchSampler.
    first_length : float
        The limit in epoch 1, in the unit of the lengths. If all batches are longer, the shortest is the limit.
    curriculum_epochs : int
        Number of epochs with a limit, which reaches the longest utterance in the epoch after them; 0 for no limit.

    Example
    -------
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> dataset = DynamicItemDataset({str(i): {"duration": float(i)} for i in range(1, 10)})
    >>> sampler = LengthCurriculumSampler(dataset, 10, 3, max_batch_ex=1, first_length=1.0, curriculum_epochs=4)
    >>> for epoch in (1, 3, 5):
    ...     sampler.set_epoch(epoch)
    ...     len(sampler), max(sum(sampler.get_durations(batch)) for batch in sampler)
    (9, 1.0)
    (9, 5.0)
    (9, 9.0)
    """

    def __init__(
        self,
        dataset: DynamicItemDataset,
        max_batch_length: float,
        num_buckets: int | None,
        first_length: float = 0.0,
        curriculum_epochs: int = 0,
        **options: Any,
    ) -> None:
        self.first_length, self.curriculum_epochs = first_length, curriculum_epochs
        super().__init__(dataset, max_batch_length, num_buckets, **options)

    def select_batches(self, batches: list[list[int]], epoch: int) -> list[list[int]]:
        """Repeat the batches within the limit of an epoch."""
        longest = [max(self.get_durations(batch)) for batch in batches]
        done = (max(epoch, 1) - 1) / max(self.curriculum_epochs, 1)
        if not self.curriculum_epochs or done >= 1:
            return batches
        limit = self.first_length + (max(longest) - self.first_length) * done
        allowed = [batch for batch, length in zip(batches, longest) if length <= max(limit, min(longest))]
        return list(itertools.islice(itertools.cycle(allowed), len(batches)))

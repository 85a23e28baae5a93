"""Batches of short utterances first, and of longer ones from epoch to epoch."""

from __future__ import annotations

import itertools

from speechbrain.dataio.sampler import DynamicBatchSampler


class LengthCurriculumSampler(DynamicBatchSampler):
    """SpeechBrain's DynamicBatchSampler, with a limit to the utterances' length that grows linearly over some epochs.

    An epoch has as many batches as without a limit: those that it allows come again. ``set_epoch`` has to be called
    before each epoch, as SpeechBrain's ``Brain.fit`` does for its ``train_sampler``.

    Arguments
    ---------
    dataset, max_batch_length, num_buckets, **options
        As of DynamicBatchSampler.
    first_length : float
        The limit in epoch 1, in the unit of the lengths; or the shortest batch, if that is longer.
    curriculum_epochs : int
        So many epochs have a limit, that of the last one is just below the longest utterance; 0 for no limit.

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

    def __init__(self, dataset, max_batch_length, num_buckets, first_length=0.0, curriculum_epochs=0, **options):
        self.first_length, self.curriculum_epochs = first_length, curriculum_epochs
        super().__init__(dataset, max_batch_length, num_buckets, **options)

    def _generate_batches(self):
        super()._generate_batches()
        longest = [max(self.get_durations(batch)) for batch in self._batches]
        done = (max(self._epoch, 1) - 1) / max(self.curriculum_epochs, 1)
        if not self.curriculum_epochs or done >= 1:
            return
        limit = self.first_length + (max(longest) - self.first_length) * done
        allowed = [batch for batch, length in zip(self._batches, longest) if length <= max(limit, min(longest))]
        self._batches = list(itertools.islice(itertools.cycle(allowed), len(self._batches)))

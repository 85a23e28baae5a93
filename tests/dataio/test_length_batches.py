"""Batches of similar length in arrays."""

import numpy as np
import pytest
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from speechbrain_mamba.dataio.length_batches import LengthBatches, length_sampler


@pytest.mark.parametrize("max_batch_ex", [None, 3])
@pytest.mark.parametrize(("num_buckets", "count"), [(1, 40), (5, 200), (20, 30), (200, 3)])
def test_they_are_those_of_speechbrain(num_buckets, count, max_batch_ex):
    lengths = np.random.default_rng(count).uniform(0.1, 25, count)
    dataset = DynamicItemDataset({str(i): {"duration": float(length)} for i, length in enumerate(lengths)})
    theirs = length_sampler(dataset, 20, num_buckets, max_batch_ex, seed=5)
    assert isinstance(theirs, DynamicBatchSampler)
    ours = LengthBatches(lengths, 20, num_buckets, max_batch_ex, seed=5)
    for epoch in (1, 2):
        theirs.set_epoch(epoch)
        expected = list(theirs)
        ours.set_epoch(epoch)
        assert list(ours) == expected and len(ours) == len(expected) and ours[0] == expected[0]

"""Batches of short utterances first."""

import pytest
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DistributedSamplerWrapper, DynamicBatchSampler

from speechbrain_mamba.dataio.curriculum import LengthCurriculumSampler

LENGTHS = [3, 4, 5, 6, 7, 9, 11, 14, 18, 23, 29, 30]


@pytest.fixture
def dataset():
    return DynamicItemDataset({str(i): {"duration": length} for i, length in enumerate(LENGTHS)})


def lengths_in(sampler, epoch):
    sampler.set_epoch(epoch)
    return [max(sampler.get_durations(batch)) for batch in sampler]


@pytest.mark.parametrize(("first", "epochs"), [(3, 1), (3, 4), (10, 4), (7.5, 3), (0.5, 5), (0, 7), (30, 2), (99, 3)])
def test_each_epoch_has_all_that_its_limit_allows(dataset, first, epochs):
    sampler = LengthCurriculumSampler(dataset, 30, 3, max_batch_ex=1, first_length=first, curriculum_epochs=epochs)
    for epoch in range(1, epochs + 3):
        limit = first + (30 - first) * min(1, (epoch - 1) / epochs)
        allowed = {length for length in LENGTHS if length <= limit} or {3}  # the shortest, if it is longer
        assert set(lengths_in(sampler, epoch)) == allowed
        assert len(sampler) == len(LENGTHS)


def test_what_is_allowed_comes_again_equally_often(dataset):
    sampler = LengthCurriculumSampler(dataset, 30, 3, max_batch_ex=1, first_length=7, curriculum_epochs=4)
    lengths = lengths_in(sampler, 1)
    counts = {length: lengths.count(length) for length in lengths}
    assert sorted(counts) == [3, 4, 5, 6, 7]
    assert max(counts.values()) - min(counts.values()) == 1  # 12 batches of 5


def test_a_batch_counts_by_its_longest_utterance(dataset):
    options = {"shuffle": False, "bucket_boundaries": [5, 100], "max_batch_ex": 3}
    sampler = LengthCurriculumSampler(dataset, 300, None, first_length=5, curriculum_epochs=2, **options)
    # 3 4 5 | 6 7 9 | 11 14 18 | 23 29 30, and half way from 5 to 30 is 17.5
    assert [set(lengths_in(sampler, epoch)) for epoch in (1, 2, 3)] == [{5}, {5, 9}, {5, 9, 18, 30}]


def test_before_the_first_epoch_is_told_its_limit_holds(dataset):
    sampler = LengthCurriculumSampler(dataset, 30, 3, max_batch_ex=1, first_length=9, curriculum_epochs=2)
    assert max(max(sampler.get_durations(batch)) for batch in sampler) == 9


@pytest.mark.parametrize("options", [{"shuffle": False, "batch_ordering": "descending"}, {"seed": 3}])
@pytest.mark.parametrize(("epochs", "epoch"), [(0, 1), (0, 2), (2, 3), (2, 7)])
def test_without_a_limit_batches_are_those_of_speechbrain(dataset, epochs, epoch, options):
    sampler = LengthCurriculumSampler(dataset, 40, 4, first_length=5, curriculum_epochs=epochs, **options)
    reference = DynamicBatchSampler(dataset, 40, 4, **options)
    sampler.set_epoch(epoch)
    reference.set_epoch(epoch)
    assert list(sampler) == list(reference)


def test_the_limit_begins_at_0_by_default():
    dataset = DynamicItemDataset({str(i): {"duration": i / 4} for i in range(1, 41)})
    sampler = LengthCurriculumSampler(dataset, 30, 3, max_batch_ex=1, curriculum_epochs=4)
    assert [max(lengths_in(sampler, epoch)) for epoch in range(1, 6)] == [0.25, 2.5, 5, 7.5, 10]


def test_there_is_no_limit_by_default(dataset):
    assert set(lengths_in(LengthCurriculumSampler(dataset, 30, 3, max_batch_ex=1), 1)) == set(LENGTHS)


def test_a_resumed_run_has_the_batches_of_an_uninterrupted_one(dataset):
    def make():
        return LengthCurriculumSampler(dataset, 30, 4, first_length=6, curriculum_epochs=5, seed=1)

    def batches(sampler, epoch):
        sampler.set_epoch(epoch)
        return list(sampler)

    whole, resumed = make(), make()
    seen = [batches(whole, epoch) for epoch in range(1, 6)]
    assert [batches(resumed, epoch) for epoch in (4, 5)] == seen[3:]
    assert len({str(epoch) for epoch in seen}) == 5


def test_ranks_share_the_batches_of_the_epoch_under_its_limit(dataset):
    options = {"max_batch_ex": 1, "first_length": 15, "curriculum_epochs": 3}

    def ranks(epoch):
        samplers = [LengthCurriculumSampler(dataset, 30, 3, **options) for _ in range(2)]
        wrapped = [DistributedSamplerWrapper(samplers[rank], num_replicas=2, rank=rank) for rank in (0, 1)]
        for sampler in wrapped:
            sampler.set_epoch(epoch)
        return [[batch[0] for batch in sampler] for sampler in wrapped]

    for epoch, limit in ((1, 15), (2, 20), (3, 25)):
        shares = ranks(epoch)
        assert [len(share) for share in shares] == [6, 6]
        assert {LENGTHS[index] for share in shares for index in share} == {x for x in LENGTHS if x <= limit}
    first, second = ranks(4)
    assert sorted(first + second) == list(range(12))

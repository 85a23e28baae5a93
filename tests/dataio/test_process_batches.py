"""Which process gets which batches, before and after a resume."""

import itertools
import logging

import pytest
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_mamba.dataio import process_batches
from speechbrain_mamba.dataio.process_batches import EvaluationShare, TrainingBatches, batches_of_options


@pytest.fixture
def be(monkeypatch):
    """Be one of several processes."""

    def become(rank, count):
        monkeypatch.setattr(process_batches, "process_rank", lambda: rank)
        monkeypatch.setattr(process_batches, "count_processes", lambda: count)
        monkeypatch.setenv("RANK", str(rank))

    return become


DATA = list(range(23))


def sampler(kind):
    """Seven batches or more, in another order in each epoch."""
    if kind == "shuffled":
        return batches_of_options(DATA, {"batch_size": 3, "shuffle": True})
    dataset = DynamicItemDataset({str(i): {"duration": 1.0 + i % 5} for i in DATA})
    length = {"length_func": lambda item: item["duration"], "batch_ordering": "random"}
    return DynamicBatchSampler(dataset, 9, 3, **length)


def train(batches, epoch, steps=None):
    """The batches of one process in an epoch, or in its first steps, and their numbers."""
    batches.set_epoch(epoch)
    return [(batches.advance(), batch) for _, batch in zip(range(steps or 99), batches)]


@pytest.mark.parametrize("kind", ["shuffled", "by length"])
def test_processes_take_turns_with_the_batches_of_one(be, kind):
    for epoch in (1, 2):
        be(0, 1)
        alone = train(TrainingBatches(sampler(kind)), epoch)
        assert [number for number, _ in alone] == list(range(1, len(alone) + 1))
        assert sorted(example for _, batch in alone for example in batch) == DATA
        together = []
        for rank in range(3):
            be(rank, 3)
            together.append(train(TrainingBatches(sampler(kind)), epoch))
        assert {len(part) for part in together} == {len(alone) // 3}  # so that none waits for the others
        assert sorted(itertools.chain(*together)) == alone[: len(alone) // 3 * 3]


@pytest.mark.parametrize("kind", ["shuffled", "by length"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2), (2, 2), (1, 3)])
def test_a_resumed_epoch_trains_on_what_is_left_whoever_trains(be, tmp_path, kind, before, after):
    be(0, 1)
    alone = train(TrainingBatches(sampler(kind)), 2)
    first, rest = [], []
    for rank in range(before):
        be(rank, before)
        batches = TrainingBatches(sampler(kind))
        first += train(batches, 2, steps=1)
        if rank == 0:
            Checkpointer(tmp_path, {"batches": batches}).save_checkpoint(end_of_epoch=False)
    for rank in range(after):
        be(rank, after)
        batches = TrainingBatches(sampler(kind))
        Checkpointer(tmp_path, {"batches": batches}).recover_if_possible()
        rest += train(batches, 2)
        assert batches.position == before + len(alone[before:]) // after * after
        following = train(batches, 3)
        assert following[0][0] == rank + 1 and len(following) == len(batches)
    assert sorted(first + rest) == alone[: len(first + rest)] and len(alone) - len(first + rest) < after


def test_checkpoints_after_an_epoch_begin_a_whole_one(be, tmp_path):
    batches = TrainingBatches(sampler("shuffled"))
    train(batches, 1)
    Checkpointer(tmp_path, {"batches": batches}).save_checkpoint(end_of_epoch=True)
    resumed = TrainingBatches(sampler("shuffled"))
    Checkpointer(tmp_path, {"batches": resumed}).recover_if_possible()
    assert len(train(resumed, 2)) == 8


@pytest.mark.parametrize(("text", "position"), [("3", 6), ("None", 0)])
def test_checkpoints_of_earlier_versions_count_the_batches_of_a_process(be, tmp_path, text, position):
    (tmp_path / "old").write_text(text)
    be(1, 2)
    batches = TrainingBatches(sampler("shuffled"))
    batches.load(tmp_path / "old", end_of_epoch=False)
    assert batches.position == position


@pytest.mark.parametrize(("processes", "accumulation", "warned"), [(4, 1, False), (1, 4, False), (2, 1, True)])
def test_a_step_of_another_size_is_a_warning(be, tmp_path, caplog, processes, accumulation, warned):
    be(0, 2)
    TrainingBatches(sampler("shuffled"), accumulation=2).save(tmp_path / "place")
    be(0, processes)
    with caplog.at_level(logging.WARNING):
        TrainingBatches(sampler("shuffled"), accumulation).load(tmp_path / "place", end_of_epoch=False)
    assert ("was 4 in this run, and is 2 now" in caplog.text) is warned


def test_every_example_is_evaluated_once_and_in_order(be):
    every = [[0, 1], [2], [3, 4], [5], [6]]
    for count in (1, 2, 3, 7):
        found, firsts = [], []
        for rank in range(count):
            be(rank, count)
            share = EvaluationShare(iter(every))
            firsts.append((share.first_example, sum(map(len, found))))
            assert list(share) == list(share) and len(list(share)) == len(share)
            found += share
        assert found == every and all(first == before for first, before in firsts)

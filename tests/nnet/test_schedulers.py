"""Learning rates, step by step."""

import math

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_mamba.nnet.schedulers import LinearWarmupCosineScheduler


def make_optimizer(*groups):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], **group} for group in groups or [{}]], 9.0)


def torchs_rates(lr, warmup, total, ratio, steps):
    """The same schedule from PyTorch's own two, whose first step is number 0."""
    optimizer = make_optimizer()
    optimizer.param_groups[0]["lr"] = lr
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / warmup)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup, lr * ratio)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [warmup - 1])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warmup, total, ratio", [(3, 17, 0.25), (2, 8, 0.0), (5, 6, 0.01)])
def test_every_step_is_pytorchs(warmup, total, ratio):
    scheduler, optimizer = LinearWarmupCosineScheduler(0.3, warmup, total, ratio), make_optimizer()
    rates = [scheduler(optimizer) for _ in range(total)]
    assert rates == pytest.approx(torchs_rates(0.3, warmup, total, ratio, total), rel=1e-5, abs=1e-9)


def test_lowest_rate_stays():
    scheduler, optimizer = LinearWarmupCosineScheduler(0.3, 3, 9, 0.25), make_optimizer()
    assert [scheduler(optimizer) for _ in range(30)][8:] == pytest.approx([0.3 * 0.25] * 22)


def test_lowest_rate_is_a_hundredth_by_default():
    assert LinearWarmupCosineScheduler(0.3, 3, 9).learning_rate(9) == pytest.approx(0.003)


@pytest.mark.parametrize("warmup", [0, 1])
def test_hardly_a_warmup(warmup):
    scheduler = LinearWarmupCosineScheduler(0.3, warmup, warmup + 4, 0.0)
    expected = [0.3] * warmup + [0.15 * (1 + math.cos(math.pi * step / 4)) for step in range(1, 5)]
    assert [scheduler(make_optimizer()) for _ in range(warmup + 4)] == pytest.approx(expected)


def test_warmup_alone():
    scheduler = LinearWarmupCosineScheduler(0.3, 4, 4, 0.25)
    assert [scheduler(make_optimizer()) for _ in range(6)] == pytest.approx([0.075, 0.15, 0.225, 0.3, 0.075, 0.075])


def test_all_groups_get_the_rate_that_is_returned():
    scheduler, optimizer = LinearWarmupCosineScheduler(0.3, 3, 9), make_optimizer({}, {"lr": 5.0}, {"lr": 0.1})
    for _ in range(9):
        rate = scheduler(optimizer)
        assert [group["lr"] for group in optimizer.param_groups] == [rate] * 3


def test_accumulated_batches_share_a_step():
    """The optimizer steps once per two batches, and the schedule with it: five steps of ten batches end the decay."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer, scheduler = torch.optim.SGD([parameter], 9.0), LinearWarmupCosineScheduler(0.3, 2, 5, 0.25)
    moved = []
    for batch in range(1, 11):
        (-parameter / 2).sum().backward()
        if batch % 2 == 0:
            before = parameter.item()
            scheduler(optimizer)
            optimizer.step()
            optimizer.zero_grad()
            moved.append(parameter.item() - before)
    assert moved == pytest.approx(torchs_rates(0.3, 2, 5, 0.25, 5), rel=1e-4)


def test_a_rate_asked_for_is_no_step():
    scheduler = LinearWarmupCosineScheduler(0.3, 3, 9)
    scheduler.learning_rate(7)
    assert scheduler(make_optimizer()) == pytest.approx(0.1)


@pytest.mark.parametrize("steps", [2, 5])
def test_resumed_run_has_the_rates_of_an_uninterrupted_one(steps, tmp_path):
    scheduler = LinearWarmupCosineScheduler(0.3, 3, 9)
    expected = [scheduler(make_optimizer()) for _ in range(10)]
    first, second = LinearWarmupCosineScheduler(0.3, 3, 9), LinearWarmupCosineScheduler(0.3, 3, 9)
    rates = [first(make_optimizer()) for _ in range(steps)]
    Checkpointer(tmp_path, {"scheduler": first}).save_checkpoint()
    second(make_optimizer())
    Checkpointer(tmp_path, {"scheduler": second}).recover_if_possible()
    assert rates + [second(make_optimizer()) for _ in range(10 - steps)] == expected


def test_total_steps_set_later():
    scheduler = LinearWarmupCosineScheduler(0.3, 3)
    with pytest.raises(ValueError, match="n_total_steps of the scheduler is None: set it before training"):
        scheduler.learning_rate(1)
    scheduler.n_total_steps = 9
    assert scheduler.learning_rate(6) == pytest.approx(0.3 * (0.01 + 0.99 / 2))


def test_less_steps_than_those_of_the_warmup():
    with pytest.raises(ValueError, match="n_total_steps is 2, but must not be less than n_warmup_steps, 3"):
        LinearWarmupCosineScheduler(0.3, n_warmup_steps=3, n_total_steps=2)

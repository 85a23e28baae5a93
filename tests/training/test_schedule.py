"""The length of a schedule."""

import pytest
import torch
from speechbrain.nnet.schedulers import LinearWarmupScheduler, NoamScheduler

from speechbrain_mamba.nnet.schedulers import LinearWarmupCosineScheduler
from speechbrain_mamba.training.schedule import count_steps, set_schedule_length


@pytest.mark.parametrize(
    ("batches", "accumulation", "epochs", "steps"), [(7, 1, 5, 35), (7, 3, 5, 10), (6, 3, 5, 10), (3, 3, 1, 1)]
)
def test_the_incomplete_last_step_of_an_epoch_is_not_counted(batches, accumulation, epochs, steps):
    assert count_steps(batches, accumulation, epochs) == steps


@pytest.mark.parametrize("batches", [0, 3])
def test_an_epoch_without_a_step_is_refused(batches):
    with pytest.raises(ValueError, match=f"An epoch has {batches} batches, but grad_accumulation_factor is 4"):
        count_steps(batches, 4, 10)


@pytest.mark.parametrize(("chosen", "steps", "length"), [(None, 20, 20), (None, 5, 8), (9, 20, 9), (99, 20, 99)])
def test_both_schedules_have_the_length_of_the_run_unless_it_is_chosen(chosen, steps, length):
    cosine, linear = LinearWarmupCosineScheduler(0.1, 8, chosen), LinearWarmupScheduler(0.1, 8, chosen)
    set_schedule_length(cosine, steps)
    set_schedule_length(linear, steps)
    assert (cosine.n_total_steps, linear.num_training_steps) == (length, length)


def test_a_schedule_without_an_end_is_left_alone():
    scheduler = NoamScheduler(0.1, 8)
    before = dict(vars(scheduler))
    set_schedule_length(scheduler, 20)
    assert vars(scheduler) == before
    set_schedule_length(lambda optimizer: torch.zeros(()), 20)

"""The length of a schedule."""

import pytest
import torch
from speechbrain.nnet.schedulers import LinearWarmupScheduler, NewBobScheduler, NoamScheduler, ReduceLROnPlateau

from speechbrain_mamba.nnet.schedulers import LinearWarmupCosineScheduler
from speechbrain_mamba.training.brain import TrainingBrain
from speechbrain_mamba.training.schedule import (
    count_steps,
    goes_by_loss,
    set_schedule_length,
    step_by_loss,
    take_over_rate,
)
from tests.training.test_run import table


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


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        (ReduceLROnPlateau(patience=1, dont_halve_until_epoch=2), [0.1, 0.1, 0.1, 0.05, 0.05]),
        (NewBobScheduler(0.1), [0.1, 0.05, 0.025, 0.0125, 0.0125]),
        (NoamScheduler(0.1, 8), [0.1] * 5),
    ],
)
def test_schedules_that_go_by_the_loss_are_stepped_after_epochs(scheduler, rates):
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.ones(1)]}], lr=0.1)
    for epoch, (loss, lr) in enumerate(zip([4.0, 5.0, 6.0, 7.0, 1.0], rates), start=1):
        step_by_loss(scheduler, optimizer, epoch, loss)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr, lr])
    assert goes_by_loss(scheduler) is not isinstance(scheduler, NoamScheduler)


@pytest.fixture
def plateau(toy, tmp_path, monkeypatch):
    """The toy recipe with SpeechBrain's ReduceLROnPlateau, and validation losses by script."""
    path = tmp_path / "toy.yaml"
    text = path.read_text()
    old = text[text.index("lr_scheduler: !new:") : text.index("epoch_counter:")]
    new = "lr_scheduler: !new:speechbrain.nnet.schedulers.ReduceLROnPlateau\n    patience: 0\n"
    path.write_text(text.replace(old, new + "    dont_halve_until_epoch: 2\n"))
    finish, losses = TrainingBrain.on_stage_end, {1: 3.0, 2: 4.0, 3: 5.0, 4: 6.0, 5: 5.5, 6: 5.6}

    def on_stage_end(brain, stage, loss, epoch=None):
        finish(brain, stage, losses[epoch] if stage.name == "VALID" else loss, epoch)

    monkeypatch.setattr(toy.Brain, "on_stage_end", on_stage_end)
    return toy


def test_epochs_are_trained_at_the_rate_that_the_loss_has_set(plateau):
    run = plateau(number_of_epochs=5)
    assert [float(row["lr"]) for row in table(run.folder)] == [0.1, 0.1, 0.1, 0.05, 0.025]
    assert run.brain.optimizer.param_groups[0]["lr"] == 0.1  # of the best epoch, which was loaded for the test


@pytest.mark.parametrize("place", ["3:1", "4:2", "5:3"])
@pytest.mark.parametrize("flags", [[], ["--ckpt_interval_steps", "1"]])
def test_a_run_that_goes_by_the_loss_resumes_exactly(plateau, monkeypatch, place, flags):
    def weights(run):
        checkpoint = run.brain.checkpointer.find_checkpoint(max_key="epoch")
        return torch.load(checkpoint.path / "layer.ckpt")["weight"], table(run.folder)

    def kill(brain, loss):
        if brain.calls[-1] == place:
            raise KeyboardInterrupt
        return loss

    expected, rows = weights(plateau("whole", flags, number_of_epochs=5))
    with monkeypatch.context() as patch:
        patch.setattr(plateau.Brain, "disturb", staticmethod(kill))
        with pytest.raises(KeyboardInterrupt):
            plateau("killed", flags, number_of_epochs=5)
    resumed, again = weights(plateau("killed", flags, number_of_epochs=5))
    assert torch.equal(resumed, expected)
    assert [row["lr"] for row in again] == [row["lr"] for row in rows]


def test_another_rate_is_trained_at_from_the_resume_on(plateau, monkeypatch, caplog):
    """Also if the resumed run is killed before its first checkpoint, and only once: then the schedule lowers it."""

    def kill(brain, loss):
        raise KeyboardInterrupt

    plateau(number_of_epochs=4)
    assert "learning rate is" not in caplog.text
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(plateau.Brain, "disturb", staticmethod(kill))
        plateau(number_of_epochs=5, lr=0.3)
    run = plateau(number_of_epochs=5, lr=0.3)
    assert "learning rate is 0.3 from now on: the command asks for it, instead of 0.1. It was 0.025 in" in caplog.text
    caplog.clear()
    assert [float(row["lr"]) for row in table(plateau(number_of_epochs=6, lr=0.3).folder)][4:] == [0.3, 0.15]
    assert "learning rate is" not in caplog.text and run.folder.exists()


def test_newbob_goes_on_from_another_rate():
    scheduler, optimizer = NewBobScheduler(0.1), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    take_over_rate(scheduler, optimizer, 0.1)
    step_by_loss(scheduler, optimizer, 1, 2.0)
    take_over_rate(scheduler, optimizer, 0.4)
    step_by_loss(scheduler, optimizer, 2, 3.0)
    assert optimizer.param_groups[0]["lr"] == 0.2

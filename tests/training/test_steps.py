"""Steps of the frame that the recipes share."""

import math

import pytest
import torch

from speechbrain_mamba.training.steps import SteppingBrain
from tests.training.test_run import table


def spoil(*places, value=math.nan):
    """Disturb the losses of some batches, given as epoch:step."""
    return staticmethod(lambda brain, loss: loss * value if f"{brain.epoch}:{brain.step}" in places else loss)


class TestSkippedBatches:
    def test_they_are_counted_and_have_no_part_in_the_mean(self, toy, caplog):
        toy.Brain.disturb = spoil("1:2", "2:1", "2:3", value=math.inf)
        run = toy()
        assert [row["skipped"] for row in table(run.folder)] == ["1", "2"]
        assert all(math.isfinite(float(row["train_loss"])) for row in table(run.folder))
        assert "steps: 3" in (run.folder / "train_log.txt").read_text()
        assert "Epoch 2: 2 batches had no finite loss or gradient" in caplog.text

    def test_an_epoch_of_them_is_an_error(self, toy):
        toy.Brain.disturb = spoil("2:1", "2:2", "2:3")
        with pytest.raises(RuntimeError, match="No batch of epoch 2 had a finite loss"):
            toy()
        assert len(list(toy.brain.output_folder.glob("save/CKPT*"))) == 1

    def test_a_gradient_that_is_not_finite_moves_nothing(self, toy):
        class Steep(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient * math.nan

        weights = []

        def disturb(brain, loss):
            weights.append(brain.modules.layer.weight.detach().clone())
            return Steep.apply(loss) if brain.step == 2 else loss

        toy.Brain.disturb = staticmethod(disturb)
        run = toy(number_of_epochs=1)
        assert not torch.equal(weights[0], weights[1])
        assert torch.equal(weights[1], weights[2])
        assert table(run.folder)[0]["skipped"] == "1"

    def test_a_batch_left_out_is_not_counted(self, toy, caplog):
        toy.Brain.training_loss = lambda brain, losses: None if brain.step == 2 else losses
        run = toy()
        assert [row["skipped"] for row in table(run.folder)] == ["0", "0"]
        assert "steps: 4" in (run.folder / "train_log.txt").read_text()
        assert "skipped" not in caplog.text

    def test_a_step_waits_for_batches_with_a_loss(self, toy):
        toy.Brain.disturb = spoil("1:2")
        steps = []
        toy.Brain.optimizers_step = lambda brain: (steps.append(brain.step), SteppingBrain.optimizers_step(brain))
        toy(number_of_epochs=1, n_train=8, grad_accumulation_factor=2)
        assert steps == [3]


def test_the_rate_of_a_step_is_set_right_before_it(toy):
    rates = []

    def note(brain):
        rates.append(brain.optimizer.param_groups[0]["lr"])
        SteppingBrain.optimizers_step(brain)

    toy.Brain.optimizers_step = note
    run = toy(n_train=10, grad_accumulation_factor=2)  # of five batches one is left over
    assert run.brain.hparams.lr_scheduler.n_total_steps == 4
    cosine = [0.1 * (0.01 + 0.99 * (1 + math.cos(math.pi * step / 3)) / 2) for step in (1, 2, 3)]
    assert rates == pytest.approx([0.1, *cosine])
    assert [float(row["lr"]) for row in table(run.folder)] == pytest.approx([rates[1], rates[3]])


@pytest.mark.parametrize(("limit", "norm"), [(0.01, 0.01), (-1, None), (1e9, None)])
def test_gradients_are_clipped_to_the_norm_of_the_run(toy, limit, norm):
    moves = []

    def note(brain):
        before = brain.modules.layer.weight.detach().clone(), brain.modules.layer.bias.detach().clone()
        SteppingBrain.optimizers_step(brain)
        after = brain.modules.layer.weight, brain.modules.layer.bias
        moves.append(math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in zip(after, before))))

    toy.Brain.optimizers_step = note
    toy(flags=["--max_grad_norm", str(limit)], number_of_epochs=1, n_train=2)
    assert moves == [pytest.approx(0.1 * norm, rel=1e-3)] if norm else moves[0] > 0.002


def test_checkpoints_within_an_epoch_are_saved_between_steps(toy, monkeypatch):
    saved = []
    monkeypatch.setattr(toy.Brain, "_save_intra_epoch_ckpt", lambda brain: saved.append((brain.epoch, brain.step)))
    toy(n_train=10, grad_accumulation_factor=2, ckpt_interval_steps=1)
    assert saved == [(1, 2), (1, 4), (2, 2), (2, 4)]

"""Steps and epochs of the frame that the recipes share."""

import math

import pytest
import torch
import yaml

from speechbrain_mamba.training.brain import TrainingBrain
from tests.training.test_run import table, trained


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
        toy.Brain.optimizers_step = lambda brain: (steps.append(brain.step), TrainingBrain.optimizers_step(brain))
        toy(number_of_epochs=1, n_train=8, grad_accumulation_factor=2)
        assert steps == [3]


def test_the_rate_of_a_step_is_set_right_before_it(toy):
    rates = []

    def note(brain):
        rates.append(brain.optimizer.param_groups[0]["lr"])
        TrainingBrain.optimizers_step(brain)

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
        TrainingBrain.optimizers_step(brain)
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


class TestTheRecordOfAnEpoch:
    def test_a_picture_that_fails_loses_nothing(self, toy, monkeypatch, caplog):
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        run = toy()
        assert len(table(run.folder)) == 2 and (run.folder / "finished.json").exists()
        assert "training.png could not be drawn: full" in caplog.text

    def test_the_checkpoint_is_saved_before_the_table(self, toy, monkeypatch):
        monkeypatch.setattr(
            "speechbrain_mamba.training.brain.record_epoch", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        with pytest.raises(OSError, match="full"):
            toy()
        (meta,) = toy.brain.output_folder.glob("save/CKPT*/CKPT.yaml")
        assert yaml.safe_load(meta.read_text())["epoch"] == 1
        monkeypatch.undo()

    def test_checkpoints_have_the_scores_of_the_validation(self, toy):
        run = toy(avg_checkpoints=2)
        metas = [checkpoint.meta for checkpoint in run.brain.checkpointer.list_checkpoints()]
        losses = {int(row["epoch"]): float(row["valid_loss"]) for row in table(run.folder)}
        assert {meta["epoch"]: meta["loss"] for meta in metas} == pytest.approx(losses)

    def test_every_logger_has_the_epochs_and_the_test(self, toy):
        pytest.importorskip("tensorboard")
        run = toy(tensorboard=True)
        log = (run.folder / "train_log.txt").read_text().splitlines()
        assert [line.split(",")[0] for line in log[:2]] == ["epoch: 1", "epoch: 2"]
        best = min(table(run.folder), key=lambda row: float(row["valid_loss"]))["epoch"]
        assert len(log) == 3 and log[2].startswith(f"Epoch loaded: {best} - test loss: ")
        assert "steps: 3 - train loss" in log[0]
        assert list((run.folder / "tensorboard").iterdir())


def test_the_test_has_the_average_of_the_best_checkpoints(toy):
    weights = {}
    finish = TrainingBrain.on_stage_end

    def on_stage_end(brain, stage, loss, epoch=None):
        if stage.name == "VALID":
            weights[epoch] = brain.modules.layer.weight.detach().clone()
        finish(brain, stage, {1: 4.0, 2: 1.0, 3: 1.2}.get(epoch, loss), epoch)

    toy.Brain.on_stage_end = on_stage_end
    run = toy(avg_checkpoints=3, number_of_epochs=3)
    assert torch.allclose(run.weights, (weights[2] + weights[3]) / 2)
    single = toy("single", number_of_epochs=3)
    assert torch.equal(single.weights, weights[2])


def test_an_epoch_without_a_step_is_refused(toy):
    with pytest.raises(ValueError, match="has 3 batches, but grad_accumulation_factor is 4"):
        toy(grad_accumulation_factor=4)
    assert not trained(toy.Brain.calls)


def test_a_recipe_has_data():
    with pytest.raises(NotImplementedError):
        TrainingBrain.make_datasets(None, {})

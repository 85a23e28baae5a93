"""Steps of the frame that the recipes share."""

import math
from collections import Counter, defaultdict
from types import SimpleNamespace

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


class TestTotalsOfAnEpoch:
    """An epoch that was killed within has the scores of the whole epoch."""

    @pytest.fixture
    def counting(self, toy, monkeypatch):
        """A Brain that counts all that it trains on; its first batch has no loss."""
        brain = toy.Brain
        brain.epoch_totals = ("n_examples", "sums", "parts", "history", "report.total")
        start = brain.on_stage_start

        def on_stage_start(self, stage, epoch=None):
            start(self, stage, epoch)
            self.n_examples, self.sums, self.history = 0, torch.zeros(2, dtype=torch.double), []
            self.parts, self.report = defaultdict(int), SimpleNamespace(total=0.0)

        def disturb(self, loss):
            self.n_examples += 1
            self.sums += torch.tensor([1, loss.item()])
            self.parts[f"{self.step % 2}"] += self.step
            self.history.append(self.step)
            self.report.total += loss.item()
            return loss * math.nan if self.step == 1 else loss

        def stage_scores(self, stage, loss):
            parts = {f"part {name}": count for name, count in self.parts.items()}
            sums = {f"sum {i}": float(value) for i, value in enumerate(self.sums)}
            listed = {f"seen {i}": step for i, step in enumerate(self.history)}
            return {"loss": loss, "n": self.n_examples, "total": self.report.total, **parts, **sums, **listed}

        monkeypatch.setattr(brain, "on_stage_start", on_stage_start)
        monkeypatch.setattr(brain, "stage_scores", stage_scores)
        monkeypatch.setattr(brain, "panels", lambda self, row: {})
        brain.disturb = staticmethod(disturb)
        toy.options = {"n_train": 8, "number_of_epochs": 2, "dropout": 0.5, "ckpt_interval_steps": 1}
        return toy

    @pytest.mark.parametrize("place", ["1:2", "1:4", "2:3", "2:end"])
    def test_they_are_those_of_an_uninterrupted_epoch(self, counting, place, monkeypatch):
        toy = counting
        whole = toy("whole", **toy.options)

        def kill(brain):
            raise KeyboardInterrupt

        disturb = toy.Brain.disturb
        with monkeypatch.context() as patch:
            if place == "2:end":
                patch.setattr(toy.Brain, "check_skipped_batches", lambda b: b.epoch == 2 and kill(b))
            else:
                at_place = lambda b, loss: kill(b) if f"{b.epoch}:{b.step}" == place else disturb(b, loss)  # noqa: E731
                patch.setattr(toy.Brain, "disturb", staticmethod(at_place))
            with pytest.raises(KeyboardInterrupt):
                toy("broken", **toy.options)
        broken = toy("broken", **toy.options)
        assert broken.brain.train_scores == whole.brain.train_scores
        assert isinstance(broken.brain.parts, defaultdict)
        rows = [[{**row, "seconds": 0} for row in table(run.folder)] for run in (whole, broken)]
        assert rows[0] == rows[1] and [row["skipped"] for row in rows[0]] == ["1", "1"]

    def test_the_seconds_go_on(self, counting, monkeypatch):
        toy, clock = counting, Counter()
        monkeypatch.setattr("speechbrain_mamba.training.brain.time.monotonic", lambda: float(clock["now"]))
        disturb = toy.Brain.disturb

        def tick(brain, loss):
            clock["now"] += 10
            if killed and brain.step == 3:
                raise KeyboardInterrupt
            return disturb(brain, loss)

        toy.Brain.disturb, killed = staticmethod(tick), True
        with pytest.raises(KeyboardInterrupt):
            toy(**{**toy.options, "number_of_epochs": 1})
        clock["now"], killed = 5, False
        run = toy(**{**toy.options, "number_of_epochs": 1})
        assert [row["seconds"] for row in table(run.folder)] == ["40.0"]  # two steps before the kill, two after it

    def test_checkpoints_without_them_are_resumed(self, counting):
        toy = counting
        disturb = toy.Brain.disturb
        toy.Brain.disturb = staticmethod(lambda b, loss: disturb(b, loss) if b.step < 3 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            toy(**toy.options)
        folder = toy.brain.checkpointer.find_checkpoint().path
        (folder / "epoch_totals.ckpt").unlink()
        (folder / "CKPT.yaml").write_text("unixtime: 99999999999.0\nend-of-epoch: false\n")
        toy.Brain.disturb = staticmethod(disturb)
        with pytest.warns(UserWarning, match="epoch_totals"):
            assert toy(**{**toy.options, "number_of_epochs": 1}).brain.train_scores["n"] == 2

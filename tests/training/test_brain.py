"""Epochs and tests of the frame that the recipes share."""

import pytest
import torch
import yaml
from speechbrain.utils.train_logger import FileTrainLogger
from torch import nn

from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.training.brain import TrainingBrain
from speechbrain_mamba.training.record import record_epoch
from tests.training.test_run import table, trained


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

    def test_a_run_killed_between_the_table_and_the_picture_draws_it(self, toy, monkeypatch):
        def kill(path, *_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("speechbrain_mamba.training.record.plot_curves", kill)
            with pytest.raises(KeyboardInterrupt):
                toy(number_of_epochs=1)
        assert not (toy.brain.output_folder / "training.png").exists()
        run = toy(number_of_epochs=1)
        assert (run.folder / "training.png").exists() and len(table(run.folder)) == 1

    @pytest.mark.parametrize("lost", [1, 2])
    def test_a_run_killed_between_the_checkpoint_and_the_table_records_the_epoch(self, toy, monkeypatch, lost):
        record, whole = record_epoch, table(toy("whole").folder)

        def kill(folder, row, panels):
            if row["epoch"] == lost:
                raise KeyboardInterrupt
            record(folder, row, panels)

        with monkeypatch.context() as patch:
            patch.setattr("speechbrain_mamba.training.brain.record_epoch", kill)
            with pytest.raises(KeyboardInterrupt):
                toy()
        rows = table(toy().folder)
        assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in whole]

    @pytest.mark.parametrize("lost", [1, 2])
    def test_a_run_killed_between_the_checkpoint_and_the_log_logs_the_epoch(self, toy, monkeypatch, lost):
        whole, log = (toy("whole").folder / "train_log.txt").read_text(), FileTrainLogger.log_stats

        def kill(logger, facts=None, **stats):
            if (facts or stats["stats_meta"]).get("epoch") == lost:
                raise KeyboardInterrupt
            log(logger, facts, **stats) if facts else log(logger, **stats)

        with monkeypatch.context() as patch:
            patch.setattr(FileTrainLogger, "log_stats", kill)
            with pytest.raises(KeyboardInterrupt):
                toy(ckpt_interval_steps=1)
        for _ in range(2):
            path = toy(ckpt_interval_steps=1).folder / "train_log.txt"
            assert path.read_text() == whole

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


def test_a_run_says_which_mixers_it_has(caplog):
    nets = {"net": nn.Sequential(MambaBlocksSequential(2, False, 16), MambaBlocksSequential(2, False, 16))}
    with caplog.at_level("INFO"):
        TrainingBrain(modules=nets, run_opts={"device": "cpu"})
    said = [record.message for record in caplog.records if record.message.startswith("mixers of")]
    assert said == ["mixers of net.0 and 1 more: 2 x mamba of 3,360 parameters, +0.0%."]


def test_a_recipe_has_data():
    with pytest.raises(NotImplementedError):
        TrainingBrain.make_datasets(None, {})

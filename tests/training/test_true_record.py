"""What a command may do to the run in its output folder."""

import csv
import json
import os
import re
import shutil

import pytest
import torch

from speechbrain_mamba.training.record import FINISHED, RunFolder
from speechbrain_mamba.utils.locks import FolderInUseError, FolderLock
from tests.training.test_run import table, trained


def content(folder):
    """All files below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(folder):
    with open(folder / "changes.csv", newline="") as file:
        return [tuple(row.values())[1:] for row in csv.DictReader(file)]


def kill(*_, **__):
    raise KeyboardInterrupt


OTHER = [
    ({"dropout": 0.5}, "dropout was 0.0, is now 0.5"),
    ({"n_train": 8}, "n_train was 6, is now 8"),
    ({"corpus": "other"}, "corpus was 'none', is now 'other'"),
    ({"layer.bias": False}, "layer.bias was not set, is now False"),
    ({"batch_size": 1, "seed": 4}, "seed was 3, is now 4; batch_size was 2, is now 1"),
    ({"optimizer.momentum": 0.9, "lr": 1}, "optimizer.momentum was 0.5, is now 0.9. Choose"),
]


class TestOtherSettings:
    @pytest.fixture(params=["finished", "trained", "killed within the first epoch"])
    def run(self, toy, request, monkeypatch):
        """A run, and its content."""
        with monkeypatch.context() as patch:
            if request.param == "trained":
                patch.setattr(toy.Brain, "write_results", kill)
            if request.param == "killed within the first epoch":
                stop = staticmethod(lambda brain, loss: kill() if brain.step == 2 else loss)
                patch.setattr(toy.Brain, "disturb", stop)
            try:
                toy(ckpt_interval_steps=1)
            except KeyboardInterrupt:
                assert request.param != "finished"
        return content(toy.brain.output_folder)

    def test_they_are_refused_and_nothing_is_written(self, toy, run):
        folder = toy.brain.output_folder
        for options, text in OTHER:
            refusal = rf"'{re.escape(str(folder))}' holds a run with other settings: .*{re.escape(text)}"
            with pytest.raises(ValueError, match=refusal) as error:
                toy(ckpt_interval_steps=1, flags=["--debug"] if "dropout" in options else (), **options)
            assert "another --output_folder" in str(error.value) and "--resume_with_changes" in str(error.value)
            assert content(folder) == run and toy.Brain.calls == []

    def test_on_demand_the_run_goes_on_under_them(self, toy, run, caplog):
        result = toy(ckpt_interval_steps=1, n_train=8, flags=["--resume_with_changes"])
        assert "write_results test" in result.calls and "export" in result.calls
        assert "n_train: 8" in (result.folder / "hyperparams.yaml").read_text()
        (change,) = rows(result.folder)
        assert change[1:] == ("n_train", "6", "8") and int(change[0]) in (0, 2)
        assert "New settings in this run: n_train was 6, is now 8." in caplog.text
        assert toy(ckpt_interval_steps=1, n_train=8).calls == []  # it is finished under them


def test_nothing_trained_is_no_run(toy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(toy.Brain, "prepare_data", kill)
        with pytest.raises(KeyboardInterrupt):
            toy()
    run = toy(dropout=0.5)
    assert len(trained(run.calls)) == 6 and "dropout: 0.5" in (run.folder / "hyperparams.yaml").read_text()
    assert not (run.folder / "changes.csv").exists()


class TestSettingsThatMayChange:
    def test_they_are_taken_over_and_logged(self, toy, caplog):
        toy()
        run = toy(lr=0.5, number_of_epochs=3)
        assert trained(run.calls) == ["3:1", "3:2", "3:3"]
        assert "New settings in this run: number_of_epochs was 2, is now 3; lr was 0.1, is now 0.5." in caplog.text
        assert rows(run.folder) == [("2", "number_of_epochs", "2", "3"), ("2", "lr", "0.1", "0.5")]
        assert float(table(run.folder)[2]["lr"]) < 0.5 * 0.02 and run.brain.hparams.lr_scheduler.lr_initial == 0.5
        toy(lr=0.2, number_of_epochs=4)
        assert rows(run.folder)[2:] == [("3", "number_of_epochs", "3", "4"), ("3", "lr", "0.5", "0.2")]

    def test_a_brain_names_its_own(self, toy):
        toy()
        with pytest.raises(ValueError, match="corpus was"):
            toy(corpus="other", number_of_epochs=3)
        toy.Brain.may_change = frozenset({"corpus"})
        assert len(trained(toy(corpus="other", number_of_epochs=3).calls)) == 3

    def test_results_of_a_finished_run_are_shown_with_what_made_them(self, toy, caplog):
        before = content(toy().folder)
        run = toy(lr=0.5)
        assert f"The results in '{run.folder}' were made with other settings: lr was 0.1, is now 0.5." in caplog.text
        after = content(run.folder)
        assert {path.name for path in before if before[path] != after[path]} <= {"log.txt"}

    @pytest.mark.parametrize("place", ["prepare_data", "make_datasets", "set_up"])
    def test_a_command_that_fails_leaves_the_record(self, toy, monkeypatch, place):
        before = content(toy().folder)
        monkeypatch.setattr(toy.Brain, place, kill)
        with pytest.raises(KeyboardInterrupt):
            toy(lr=0.5, number_of_epochs=3)
        after = content(toy.brain.output_folder)
        assert {path.name for path in before if before[path] != after[path]} <= {"log.txt", "env.log", "run.py"}
        assert after.keys() == before.keys()

    def test_a_model_that_does_not_fit_the_checkpoint_leaves_the_record(self, toy):
        before = content(toy().folder)
        fault = r"CKPT.* does not fit the model .*\(size mismatch for weight.*\): give the settings that it was"
        with pytest.raises(ValueError, match=fault):
            toy(flags=["--resume_with_changes"], number_of_epochs=3, **{"layer.out_features": 2})
        after = content(toy.brain.output_folder)
        assert {path.name for path in before if before[path] != after[path]} <= {"log.txt", "env.log", "run.py"}
        assert after.keys() == before.keys()
        assert toy().calls == []  # it is still finished


class TestRecordsOfAnotherVersion:
    """Settings that only one of both versions knows are logged, unless the command gives them."""

    @pytest.fixture
    def old(self, toy):
        toy()
        path = toy.brain.output_folder / "hyperparams.yaml"
        heading, *lines = path.read_text().splitlines()
        assert heading.startswith("# speechbrain_mamba ")
        path.write_text("\n".join(line for line in [*lines, "gone: 3"] if not line.startswith("corpus")))
        return toy

    def test_the_run_goes_on(self, old, caplog):
        assert trained(old(number_of_epochs=3).calls) == ["3:1", "3:2", "3:3"]
        unknown = "corpus was not set, is now 'none'; gone was 3, is now not set."
        assert f"Unknown to one of both versions: {unknown}" in caplog.text
        with pytest.raises(ValueError, match="corpus was 'none', is now 'other'"):
            old(corpus="other", number_of_epochs=3)  # the record is of this version now

    def test_a_setting_of_the_command_counts(self, old):
        with pytest.raises(ValueError, match="corpus was not set, is now 'other'"):
            old(corpus="other")

    def test_without_a_record_the_run_goes_on(self, old):
        (old.brain.output_folder / "hyperparams.yaml").unlink()
        assert trained(old(number_of_epochs=3).calls) == ["3:1", "3:2", "3:3"]


class TestFinished:
    @pytest.mark.parametrize("place", ["write_results", "export"])
    def test_an_extended_run_killed_before_its_end_is_not_finished(self, toy, monkeypatch, place, capsys):
        toy()
        with monkeypatch.context() as patch:
            patch.setattr(toy.Brain, place, kill)
            with pytest.raises(KeyboardInterrupt):
                toy(number_of_epochs=3)
        assert not (toy.brain.output_folder / FINISHED).exists()
        calls = toy(number_of_epochs=2).calls  # not the old results under any name
        assert {"write_results test", "export"} <= set(calls) and not trained(calls)
        assert json.loads((toy.brain.output_folder / FINISHED).read_text()) == {"epochs": 3}

    def test_a_second_test_that_is_killed_is_done_again(self, toy, monkeypatch):
        toy()
        with monkeypatch.context() as patch:
            patch.setattr(toy.Brain, "write_results", kill)
            with pytest.raises(KeyboardInterrupt):
                toy(flags=["--test_only"])
        assert "write_results test" in toy().calls

    def test_a_run_without_its_checkpoints_says_that_it_starts_again(self, toy, caplog):
        shutil.rmtree(toy().folder / "save")
        assert len(trained(toy().calls)) == 6
        assert "There is no checkpoint in" in caplog.text and "starts again at epoch 1" in caplog.text


class TestUntrainedNetworks:
    @pytest.mark.parametrize("flags", [["--test_only"], ["--test_only", "--debug"]])
    def test_they_are_not_tested(self, toy, flags):
        with pytest.raises(FileNotFoundError, match=r"checkpoint.* from the end of an epoch"):
            toy(flags=flags)
        assert not {"write_results test", "export"} & set(toy.Brain.calls)

    def test_without_a_checkpoint_nothing_is_written(self, toy, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"--test_only needs a checkpoint .* train first"):
            toy(flags=["--test_only"])
        assert toy.Brain.calls == [] and not list((tmp_path / "out").rglob("*"))

    def test_a_checkpoint_within_the_first_epoch_is_not_enough(self, toy, monkeypatch):
        with monkeypatch.context() as patch:
            stop = staticmethod(lambda brain, loss: kill() if brain.step == 3 else loss)
            patch.setattr(toy.Brain, "disturb", stop)
            with pytest.raises(KeyboardInterrupt):
                toy(ckpt_interval_steps=1)
        before = content(toy.brain.output_folder)
        with pytest.raises(FileNotFoundError, match="--test_only needs a checkpoint from the end of an epoch"):
            toy(ckpt_interval_steps=1, flags=["--test_only"])
        assert content(toy.brain.output_folder) == before

    def test_no_epochs_are_no_training(self, toy):
        with pytest.raises(FileNotFoundError, match="an untrained network is not tested: train an epoch first"):
            toy(number_of_epochs=0)
        assert "export" not in toy.Brain.calls

    def test_the_best_is_exported_without_a_test_too(self, toy):
        toy.Brain.test_sets = ()
        exported = []
        toy.Brain.export = lambda brain: exported.append(brain.modules.layer.weight.detach().clone())
        finish = toy.Brain.on_stage_end
        toy.Brain.on_stage_end = lambda brain, stage, loss, epoch=None: finish(
            brain, stage, {1: 1.0, 2: 4.0}.get(epoch, loss) if stage.name == "VALID" else loss, epoch
        )
        run = toy()
        first = min(run.brain.checkpointer.list_checkpoints(), key=lambda checkpoint: checkpoint.meta["epoch"])
        assert torch.equal(exported[0], torch.load(first.paramfiles["layer"], weights_only=True)["weight"])


def test_debugging_leaves_the_results_of_a_run(toy):
    def write(brain, name):
        brain.output_folder.mkdir(exist_ok=True)
        (brain.output_folder / name).write_text(f"debug: {brain.debug}")

    toy.Brain.write_results = lambda brain, scores: write(brain, "scores")
    toy.Brain.export = lambda brain: write(brain, "model")
    before = content(toy().folder)
    run = toy(flags=["--debug"])
    after = content(toy.brain.output_folder.parent)
    assert trained(run.calls) and run.brain.output_folder.name == "debug"
    assert {path.name for path in before if before[path] != after[path]} <= {"log.txt", "env.log"}
    assert {str(path) for path in after.keys() - before.keys()} == {
        f"debug/{n}" for n in ("scores", "model", "train_log.txt")
    }


def test_one_command_works_in_a_folder(toy, tmp_path):
    with FolderLock(tmp_path / "out"), pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()}"):
        toy()
    assert toy.Brain.calls == [] and list((tmp_path / "out").iterdir()) == []
    locked = []
    toy.Brain.prepare_data = lambda brain, hparams: locked.append((tmp_path / "out" / ".lock").exists())
    run = toy()
    assert locked == [True] and not (run.folder / ".lock").exists()


def test_a_command_whose_folder_was_taken_over_saves_nothing_more(toy, tmp_path):
    def take_over(brain, loss):
        if brain.epoch == 2:
            (tmp_path / "out" / ".lock").unlink()
            FolderLock(tmp_path / "out").acquire()
        return loss

    toy.Brain.disturb = staticmethod(take_over)
    with pytest.raises(FolderInUseError, match="was taken over"):
        toy(n_train=2)
    assert RunFolder(tmp_path / "out", tmp_path / "out" / "save").last_epoch() == 1
    assert (tmp_path / "out" / ".lock").exists()  # of the other


def test_what_a_killed_command_was_writing_is_removed(toy, tmp_path, caplog):
    """At its next start, also if the run is finished by then."""
    left = tmp_path / "out" / "test" / ".examples.tmp-0123456789ab"
    for finished in (False, True):
        left.mkdir(parents=True)
        with caplog.at_level("INFO"):
            assert (toy().calls == []) is finished
        assert not left.exists() and "Removed what a killed run left" in caplog.text
        caplog.clear()


class TestDamagedCheckpoints:
    """The frame's part; ``tests/utils/test_checkpoints.py`` has all kinds of damage."""

    @pytest.fixture
    def killed(self, toy, monkeypatch):
        """A run killed in epoch 2 with checkpoints after steps, the newest last."""
        toy.options = {"ckpt_interval_steps": 1, "dropout": 0.5}
        with monkeypatch.context() as patch:
            stop = staticmethod(lambda brain, loss: kill() if (brain.epoch, brain.step) == (2, 3) else loss)
            patch.setattr(toy.Brain, "disturb", stop)
            with pytest.raises(KeyboardInterrupt):
                toy(**toy.options)
        toy.checkpoints = sorted(toy.brain.checkpointer.list_checkpoints(), key=lambda c: c.meta["unixtime"])
        return toy

    def test_the_run_goes_on_from_the_one_before(self, killed, caplog):
        (killed.checkpoints[-1].path / "layer.ckpt").write_bytes(b"")
        run = killed(**killed.options)
        assert trained(run.calls) == ["2:2", "2:3"] and "is damaged and is not used: layer.ckpt has 0" in caplog.text
        assert torch.equal(run.weights, killed("whole", **killed.options).weights)

    def test_without_a_whole_one_nothing_starts_again(self, killed):
        for checkpoint in killed.checkpoints:
            (checkpoint.path / "CKPT.yaml").write_bytes(b"")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="is whole, all are damaged"):
                killed(**killed.options)
            assert not trained(killed.Brain.calls)

    def test_damage_found_in_the_test_is_set_aside_too(self, toy, caplog):
        run = toy(number_of_epochs=3, avg_checkpoints=3)
        best = run.brain.checkpointer.find_checkpoint(min_key="loss")
        data = bytearray((best.path / "layer.ckpt").read_bytes())
        data[len(data) // 2] ^= 255
        (best.path / "layer.ckpt").write_bytes(data)
        toy(number_of_epochs=3, avg_checkpoints=3, flags=["--test_only"])
        assert "layer.ckpt was changed" in caplog.text and not best.path.exists()

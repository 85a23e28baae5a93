"""A recipe from its command line to its results."""

import csv
import shutil

import pytest
import torch

from speechbrain_mamba.training.run import parse_arguments


def table(folder):
    with open(folder / "training.csv", newline="") as file:
        return list(csv.DictReader(file))


def trained(calls):
    """The batches that were trained on, as epoch:step."""
    return [call for call in calls if ":" in call]


def test_a_recipe_is_asked_in_order(toy, capsys):
    run = toy()
    assert [call for call in run.calls if ":" not in call] == [
        "set_up", "prepare_data", "make_datasets", "write_results test", "export",
    ]  # fmt: skip
    assert trained(run.calls) == ["1:1", "1:2", "1:3", "2:1", "2:2", "2:3"]
    assert f"training curves: {run.folder / 'training.png'}" in capsys.readouterr().out
    assert (run.folder / "conftest.py").exists()  # the recipe
    assert "lr: 0.1" in (run.folder / "hyperparams.yaml").read_text()
    assert [row["epoch"] for row in table(run.folder)] == ["1", "2"]
    assert list(table(run.folder)[0]) == ["epoch", "lr", "train_loss", "valid_loss", "skipped", "seconds"]


def test_the_command_line_is_that_of_the_process(toy, monkeypatch, tmp_path):
    from speechbrain_mamba.training.run import run_recipe

    toy(number_of_epochs=1)
    arguments = ["--output_folder", str(tmp_path / "own"), "--device", "cpu", "--noprogressbar"]
    monkeypatch.setattr("sys.argv", ["train.py", str(tmp_path / "toy.yaml"), *arguments])
    run_recipe(toy.Brain)
    assert (tmp_path / "own" / "finished.json").exists()


def test_data_that_are_prepared_are_not_prepared_again(toy):
    assert "prepare_data" not in toy(skip_prep=True).calls


def test_each_test_set_has_its_results(toy):
    toy.Brain.test_sets = ("near", "far")
    run = toy()
    assert [call for call in run.calls if call.startswith("write")] == ["write_results near", "write_results far"]
    assert set(run.brain.test_scores) == {"near", "far"}
    log = (run.folder / "train_log.txt").read_text().splitlines()[-2:]
    assert [line.split(" - ")[0].split(", ")[1] for line in log] == ["test set: near", "test set: far"]


class TestFinishedRuns:
    def test_it_says_so_and_shows_its_results(self, toy, capsys, caplog):
        toy(lr=0.5)
        capsys.readouterr()
        with caplog.at_level("INFO"):
            run = toy(lr=0.25)
        assert run.calls == []
        assert "lr: 0.5" in (run.folder / "hyperparams.yaml").read_text()  # what made the results stays on record
        assert "training curves" in capsys.readouterr().out
        assert f"remove {run.folder} to start again" in caplog.text

    def test_more_epochs_are_trained(self, toy):
        toy()
        assert trained(toy(number_of_epochs=3).calls) == ["3:1", "3:2", "3:3"]
        assert toy(number_of_epochs=2).calls == []

    def test_testing_alone_tests_again(self, toy):
        toy()
        calls = toy(flags=["--test_only"]).calls
        assert "write_results test" in calls and not trained(calls)

    def test_testing_early_does_not_finish_it(self, toy, monkeypatch):
        toy(number_of_epochs=1)
        toy(flags=["--test_only"])
        with monkeypatch.context() as patch:
            patch.setattr(toy.Brain, "write_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                toy()
        assert "export" in toy().calls

    def test_debugging_leaves_nothing(self, toy):
        run = toy(flags=["--debug"])
        assert trained(run.calls) == ["1:1", "1:2", "2:1", "2:2"]
        assert not list(run.folder.rglob("CKPT*"))
        assert not {"training.csv", "training.png", "finished.json"} & {path.name for path in run.folder.iterdir()}
        toy()
        assert trained(toy(flags=["--debug"]).calls)

    def test_without_its_checkpoints_it_is_not_finished(self, toy):
        shutil.rmtree(toy().folder / "save")
        assert len(trained(toy().calls)) == 6

    @pytest.mark.parametrize("lost", ["write_results", "export"])
    def test_a_run_killed_after_its_last_epoch_is_tested(self, toy, monkeypatch, lost):
        with monkeypatch.context() as patch:
            patch.setattr(toy.Brain, lost, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                toy()
        calls = toy().calls
        assert not trained(calls) and {"write_results test", "export"} <= set(calls)

    def test_a_run_killed_while_it_trains_more_epochs_is_not_finished(self, toy, monkeypatch):
        toy(number_of_epochs=1)
        with monkeypatch.context() as patch:
            patch.setattr(toy.Brain, "write_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                toy()
        assert "export" in toy().calls


@pytest.mark.parametrize(
    ("options", "missing", "command"),
    [
        ({"wandb": True}, "wandb", "wandb"),
        ({"corpus": "spoken"}, "no_such_voice", "no_such_voice"),
        ({"tensorboard": True}, "tensorboard", '"speechbrain_mamba[recipes]"'),
    ],
)
def test_what_is_missing_is_said_before_anything_is_made(toy, monkeypatch, tmp_path, options, missing, command):
    gone = lambda name: None if name == missing else True  # noqa: E731
    monkeypatch.setattr("speechbrain_mamba.training.requirements.find_spec", gone)
    with pytest.raises(ModuleNotFoundError, match=f"needs {missing}, not installed here: pip install") as error:
        toy(**options)
    assert str(error.value).endswith(f"pip install {command}")
    assert toy.Brain.calls == [] and not (tmp_path / "out").exists()


def test_an_option_is_given_once():
    with pytest.raises(ValueError, match=r"^Give --lr once: it stands on the command line more often\.$"):
        parse_arguments(["toy.yaml", "--lr", "1", "--debug", "--size=3", "--debug", "--lr=2"])


def test_a_gpu_that_is_not_there_is_said_before_anything_is_made(toy, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^The device is cuda:1, but PyTorch sees no GPU: give --device cpu"):
        toy(flags=["--device=cuda:1"])
    assert not (tmp_path / "out").exists()


def test_a_package_that_the_file_names_is_needed(toy, tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(path.read_text().replace("!name:torch.optim.SGD", "!name:no_such_package.SGD"))
    with pytest.raises(ModuleNotFoundError, match="needs no_such_package"):
        toy()


def test_options_of_speechbrain_are_written_down_too(toy):
    run = toy(lr=0.2, flags=["--precision", "bf16", "--max_grad_norm=3"])
    text = (run.folder / "hyperparams.yaml").read_text().splitlines()
    assert {"precision: bf16", "max_grad_norm: 3.0", "lr: 0.2", "n_train: 6"} <= set(text)
    assert run.brain.text.count("precision: bf16") == 1


def test_an_interval_in_steps_replaces_one_in_minutes(toy):
    brain = toy(ckpt_interval_steps=2).brain
    assert (brain.ckpt_interval_steps, brain.ckpt_interval_minutes) == (2, 0)
    assert toy("other").brain.ckpt_interval_minutes == 15


@pytest.mark.parametrize("place", ["1:1", "1:3", "2:2", "2:4"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_killed_and_resumed_equals_uninterrupted(toy, place, accumulation):
    options = {
        "n_train": 8, "number_of_epochs": 3, "dropout": 0.5, "ckpt_interval_steps": 1,
        "grad_accumulation_factor": accumulation,
    }  # fmt: skip
    whole = toy("whole", **options)

    def kill(brain, loss):
        if f"{brain.epoch}:{brain.step}" == place:
            raise KeyboardInterrupt
        return loss

    toy.Brain.disturb = staticmethod(kill)
    with pytest.raises(KeyboardInterrupt):
        toy("broken", **options)
    toy.Brain.disturb = staticmethod(lambda brain, loss: loss)
    torch.manual_seed(99)
    broken = toy("broken", **options)
    assert torch.equal(broken.weights, whole.weights)
    rows = [[{**row, "seconds": 0} for row in table(run.folder)] for run in (whole, broken)]
    assert [row["epoch"] for row in rows[0]] == ["1", "2", "3"]
    for row, expected in zip(*rows, strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx({k: float(v) for k, v in expected.items()})


def test_accumulated_batches_equal_one_large_batch(toy):
    toy.Brain.fixed = True
    options = {"number_of_epochs": 3, "n_train": 8}
    large = toy("large", batch_size=4, **options)
    small = toy("small", batch_size=2, grad_accumulation_factor=2, **options)
    assert torch.allclose(large.weights, small.weights, atol=1e-6)
    assert large.brain.optimizer_step == small.brain.optimizer_step == 6


def test_mixed_precision(toy):
    seen = []
    toy.Brain.disturb = staticmethod(lambda brain, loss: (seen.append(torch.is_autocast_enabled("cpu")), loss)[1])
    toy("half", flags=["--precision", "bf16"])
    assert seen == [True] * 6
    toy("file", precision="bf16")
    toy("full", number_of_epochs=1)
    assert seen == [True] * 12 + [False] * 3


def test_data_are_prepared_alone(toy):
    """And once: the run that follows finds them."""
    run = toy(data_prep_only=True)
    assert run.calls == ["prepare_data", "make_datasets"]
    assert not (run.folder / "finished.json").exists() and not list(run.folder.glob("save/CKPT*"))
    assert "export" in toy(skip_prep=True).calls

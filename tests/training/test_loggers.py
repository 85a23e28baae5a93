"""Loggers of a run."""

import sys
from types import SimpleNamespace

import pytest
from speechbrain.utils.train_logger import FileTrainLogger

from speechbrain_mamba.training.loggers import make_loggers

STATS = {"train_stats": {"loss": 1.5}, "valid_stats": {"loss": 2.5}}


def test_a_text_file_is_always_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    hparams = {"output_folder": tmp_path, "train_log": tmp_path / "log.txt"}
    for extra in ({}, {"tensorboard": False, "wandb": False}):
        (logger,) = make_loggers(hparams | extra)
        logger.log_stats({"epoch": 1}, **STATS)
    assert (tmp_path / "log.txt").read_text() == "epoch: 1 - train loss: 1.50 - valid loss: 2.50\n" * 2


def test_the_logger_of_the_file_is_used(tmp_path):
    own = FileTrainLogger(tmp_path / "own.txt")
    assert make_loggers({"output_folder": tmp_path, "train_logger": own}) == [own]


def test_tensorboard_has_numbers_by_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = make_loggers({"output_folder": tmp_path, "train_log": tmp_path / "log.txt", "tensorboard": True})
    for epoch in (1, 2):
        for logger in loggers:
            logger.log_stats({"epoch": epoch, "test set": "clean"}, **STATS)
    loggers[1].writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"epoch", "loss/train", "loss/valid"}
    assert [(event.step, event.value) for event in events.Scalars("loss/valid")] == [(1, 2.5), (2, 2.5)]
    assert "test set: clean" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(("wanted", "project"), [(True, "speechbrain_mamba"), ({"project": "mine"}, "mine")])
def test_wandb_is_told_where_a_run_resumes(tmp_path, monkeypatch, wanted, project):
    calls = []
    run = SimpleNamespace(log=lambda stats, **options: calls.append((stats, options)))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **o: (calls.append(o), run)[1]))
    hparams = {"output_folder": tmp_path, "train_log": tmp_path / "log.txt", "wandb": wanted, "experiment_name": "toy"}
    _, logger = make_loggers(hparams)
    make_loggers(hparams)
    assert calls[0] == calls[1]
    assert {key: calls[0][key] for key in ("project", "name", "dir", "resume")} == {
        "project": project, "name": "toy", "dir": str(tmp_path), "resume": "allow",
    }  # fmt: skip
    logger.log_stats({"epoch": 3}, **STATS)
    assert calls[2] == ({"train": {"loss": 1.5}, "valid": {"loss": 2.5}, "epoch": 3}, {"step": 3})

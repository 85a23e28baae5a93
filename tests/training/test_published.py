"""Checkpoints of others: their scores, and where they are."""

import math

import pytest
import torch
from torch import nn

from speechbrain_mamba.training.init_source import find_init_source
from speechbrain_mamba.training.published import equivalent_score, find_inside, find_tokenizer
from tests.published_runs import write_published


@pytest.mark.parametrize(
    ("meta", "score", "expected"),
    [
        ({"TER": 7.0, "ACC": 0.1}, "TER", 7.0),
        ({"ACC": 0.1, "WER": 3.0}, "TER", 90.0),
        ({"WER": 3.0, "loss": 0.2}, "TER", 3.0),
        ({"loss": 0.2}, "greedy_WER", 0.2),
        ({"si-snr": -20.0, "loss": 1.0}, "si-snr", -20.0),
        ({"si-snr": math.nan, "loss": 1.0}, "si-snr", 1.0),
        ({"ACC": 0.9}, "si-snr", None),
        ({"ACC": "high"}, "TER", None),
        ({}, "loss", None),
    ],
)
def test_scores_of_others_are_turned_into_ours(meta, score, expected):
    assert equivalent_score(meta, score) == (expected if expected is None else pytest.approx(expected))


def test_runs_are_found_inside_folders(tmp_path):
    for place in ("a/save/CKPT+1", "a/save/CKPT+2", "b/deeper/CKPT+1", "c/empty"):
        (tmp_path / place).mkdir(parents=True)
        if not place.startswith("c"):
            (tmp_path / place / "CKPT.yaml").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert find_inside(tmp_path) == [tmp_path / "a", tmp_path / "b" / "deeper"]
    assert find_inside(tmp_path / "a" / "save") == [tmp_path / "a" / "save"]
    assert find_inside(tmp_path / "c") == [] == find_inside(tmp_path / "none")


def test_one_tokenizer_is_found_and_several_are_not(tmp_path):
    assert find_tokenizer(tmp_path) is None
    for name in ("31_char.model", "notes.model"):
        (tmp_path / name).touch()
    assert find_tokenizer(tmp_path) == tmp_path / "31_char.model"
    (tmp_path / "5000_unigram.model").touch()
    assert find_tokenizer(tmp_path) is None


def test_a_run_starts_from_the_best_checkpoint_of_others(tmp_path):
    scores = [{"ACC": 0.5}, {"ACC": 0.9}, {"ACC": 0.8}]
    folders = write_published(tmp_path / "run" / "save", {"model": nn.Linear(1, 1)}, scores)
    (tmp_path / "run" / "save" / "31_char.model").write_bytes(b"pieces")
    source = find_init_source(tmp_path / "run", "TER")
    assert source.folders[0] == folders[1]
    assert source.find_tokenizer().read_bytes() == b"pieces"
    (folders[1] / "tokenizer.ckpt").write_bytes(b"its own")
    assert source.find_tokenizer().read_bytes() == b"its own"
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*run'\?"):
        find_init_source(tmp_path, "TER")
    with pytest.raises(FileNotFoundError, match="no whole checkpoint with the score 'EER'"):
        find_init_source(tmp_path / "run", "EER")


def test_a_tokenizer_outside_of_its_folder_is_refused(tmp_path):
    write_published(tmp_path / "run" / "save", {"model": nn.Linear(1, 1)}, [{"ACC": 0.5}])
    (tmp_path / "elsewhere.model").write_bytes(b"pieces")
    (tmp_path / "run" / "save" / "31_char.model").symlink_to(tmp_path / "elsewhere.model")
    with pytest.raises(ValueError, match="is a link out of its folder"):
        find_init_source(tmp_path / "run", "TER").find_tokenizer()


def test_a_file_of_another_schedule_is_named(tmp_path):
    from speechbrain_mamba.nnet.schedulers import LinearWarmupCosineScheduler

    (folder,) = write_published(tmp_path, {"model": nn.Linear(1, 1)}, [{"si-snr": -1.0}])
    scheduler = LinearWarmupCosineScheduler(0.1, 1, 2)
    with pytest.raises(ValueError, match=r"lr_scheduler\.ckpt' is of another schedule .*losses.*convert-checkpoint"):
        scheduler.load(folder / "lr_scheduler.ckpt")
    torch.save(3, folder / "lr_scheduler.ckpt")
    with pytest.raises(ValueError, match="the type int in place of n_steps"):
        scheduler.load(folder / "lr_scheduler.ckpt")

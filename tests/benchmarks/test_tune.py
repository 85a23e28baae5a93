"""Tuning: the same draws for all systems, trials that succeed, fail, hang and are interrupted, and their table."""

from __future__ import annotations

import csv
import sys

import pytest

import tune

TRAINING = """
import os, sys, time
from pathlib import Path
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder, lr = Path(options["--output_folder"]), float(options.get("--lr", 0.5))
(folder / "options.txt").write_text(" ".join(sys.argv[2:]))
if lr > 5:
    sys.exit("error: the loss is not finite any more: take a lower lr.")
text = "epoch,valid_loss"
for epoch in range(1, int(options["--number_of_epochs"]) + 1):
    text += f"\\n{epoch},{(lr - 1) ** 2 + 1 / epoch}"
    (folder / "new").write_text(text)
    os.replace(folder / "new", folder / "training.csv")
time.sleep(60)  # the test
"""


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """A task whose training takes no time, and two of its systems."""
    monkeypatch.setattr(tune, "ROOT", tmp_path)
    monkeypatch.setattr(tune, "POLL", 0.02)
    (tmp_path / "recipes" / "toy").mkdir(parents=True)
    (tmp_path / "recipes" / "toy" / "train.py").write_text(TRAINING)
    hparams = tmp_path / "hparams" / "toy"
    hparams.mkdir(parents=True)
    for name in ("one", "two"):
        (hparams / f"{name}.yaml").write_text("lr: 0.5\ndropout: 0.1\n")
    monkeypatch.setattr(tune.sys, "executable", sys.executable)
    return [str(hparams / "one.yaml"), str(hparams / "two.yaml")]


def rows_of(folder):
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_systems_get_the_same_trials_and_the_best_is_found(recipes, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        *recipes,
        "--trials",
        "3",
        "--epochs",
        "2",
        "--space",
        "lr=0.9:2000:log",
        "dropout=0,0.2",
        "--out",
        str(out),
    ]
    tune.main([*command, "--", "--batch", "7"])
    rows = rows_of(out)
    assert [(row["trial"], row["system"]) for row in rows] == [(t, s) for t in "012" for s in ("one", "two")]
    for first, second in zip(rows[::2], rows[1::2]):
        assert (first["lr"], first["dropout"]) == (second["lr"], second["dropout"])
    assert (rows[0]["lr"], rows[0]["dropout"], rows[0]["score"], rows[0]["best_epoch"]) == ("0.5", "0.1", "0.75", "2")
    for row in rows:
        folder = out / row["system"] / f"trial_{row['trial']}" / "1234"
        if float(row["lr"]) > 5:
            assert row["status"] == "failed" and "the loss is not finite any more" in row["reason"] and not row["score"]
        else:
            options = (folder / "options.txt").read_text()
            assert row["status"] == "done" and "--batch 7" in options and float(row["seconds"]) < 50
            assert (f"--lr {row['lr']}" in options) == (row["trial"] != "0")
    assert {row["status"] for row in rows} == {"done", "failed"}
    best = min((row for row in rows if row["status"] == "done"), key=lambda row: float(row["score"]))
    printed = capsys.readouterr().out
    assert f"one: valid_loss {float(best['score']):.4g} with --lr {best['lr']} --dropout {best['dropout']}" in printed
    # the same command again runs nothing; more trials run the new ones; other values are refused
    stamp = (out / "one" / "trial_0" / "1234" / "trial.txt").stat().st_mtime_ns
    tune.main([*command, "--", "--batch", "7"])
    assert rows_of(out) == rows and (out / "one" / "trial_0" / "1234" / "trial.txt").stat().st_mtime_ns == stamp
    with pytest.raises(SystemExit, match="give another --out"):
        tune.main([part.replace("lr=0.9:", "lr=0.8:") for part in command])


def test_a_key_of_one_system_is_drawn_for_it_alone(recipes, tmp_path, capsys):
    (tmp_path / "hparams" / "toy" / "one.yaml").write_text("lr: 0.5\n")
    out = tmp_path / "out"
    command = [*recipes, "--trials", "2", "--epochs", "1", "--space", "lr=0.9:2:log", "dropout=0.2,0.3"]
    tune.main([*command, "--out", str(out)])
    rows = rows_of(out)
    assert [row["dropout"] for row in rows[:3]] == ["", "0.1", ""] and float(rows[3]["dropout"]) > 0.1
    assert rows[2]["lr"] == rows[3]["lr"]
    options = [(out / system / "trial_1" / "1234" / "options.txt").read_text() for system in ("one", "two")]
    assert "--dropout" not in options[0] and f"--dropout {rows[3]['dropout']}" in options[1]
    one, two = capsys.readouterr().out.splitlines()[-2:]
    assert "--lr" in one and "--dropout" not in one and "--dropout" in two
    tune.main([*command, "--out", str(out)])  # an empty value is the same value
    assert rows_of(out) == rows


def test_the_time_ends_trials(recipes, tmp_path, capsys):
    command = [recipes[0], "--trials", "2", "--epochs", "2", "--space", "lr=0.6,0.7", "--out", str(tmp_path / "out")]
    tune.main([*command, "--minutes", "0"])
    assert "the same command goes on" in capsys.readouterr().out and not (tmp_path / "out" / "trials.csv").exists()
    tune.main([*command, "--trial_minutes", "0"])
    assert all("It took longer than 0 minutes" in row["reason"] for row in rows_of(tmp_path / "out"))


def test_seeds_count_together(recipes, tmp_path, capsys):
    command = [recipes[0], "--trials", "1", "--epochs", "1", "--space", "lr=1,2", "--seeds", "3", "4"]
    tune.main([*command, "--out", str(tmp_path / "out")])
    assert [row["seed"] for row in rows_of(tmp_path / "out")] == ["3", "4"]
    assert "one: valid_loss 1.25 with --lr 0.5 (trial 0; 1 trials, 0 failed runs)" in capsys.readouterr().out


def test_equal_scores_are_told_apart_by_the_loss(tmp_path):
    (tmp_path / "training.csv").write_text("epoch,valid_loss,greedy_WER\n1,9,100\n2,7,100\n3,nan,100\n4,8,100\n")
    assert tune.read_best(tmp_path) == ("greedy_WER", 100, 2, 4)
    row = {"system": "a", "status": "done", "score_name": "greedy_WER", "score": "100"}
    trials = [row | {"trial": str(trial), "valid_loss": loss} for trial, loss in enumerate(("7", "5.5", "6", ""))]
    assert tune.best_trial(trials, "a", 1)[1]["trial"] == "1"
    better = row | {"trial": "4", "score": "99", "valid_loss": "8"}
    assert tune.best_trial([*trials, better], "a", 1) == (99, better)
    assert tune.best_trial(trials, "b", 1) is None


@pytest.mark.parametrize(
    ("text", "law", "whole"),
    [
        ("a=1:10", "even", True),
        ("a=0.1:10:log", "log", False),
        ("a=0,0.5", "choice", False),
        ("a=50:800:log", "log", True),
    ],
)
def test_ranges(text, law, whole):
    part = tune.Range.parse(text)
    assert (part.key, part.law, part.whole) == ("a", law, whole)
    values = [part.at(place / 100) for place in range(101)]
    low, high = min(part.values), max(part.values)
    assert all(low <= value <= high for value in values) and len(set(values)) > (1 if law == "choice" else 5)
    assert all(isinstance(value, int) == whole for value in values)


def test_trials_fill_the_space():
    space = [tune.Range.parse(text) for text in ("lr=1e-4:1e-2:log", "n_warmup_steps=0:100", "dropout=0,0.1")]
    assert tune.trial_values(space, 0) == {}
    # a high rate with a long warm-up and a low one with a short one, then all quarters of each range
    assert tune.trial_values(space, 1) == {"lr": 0.00316, "n_warmup_steps": 75, "dropout": 0.1}
    assert tune.trial_values(space, 2) == {"lr": 0.000316, "n_warmup_steps": 25, "dropout": 0}
    trials = [tune.trial_values(space, trial) for trial in range(1, 7)]
    assert trials == [tune.trial_values(space, trial) for trial in range(1, 7)]
    for quarter in range(4):
        low, high = 10 ** (-4 + quarter / 2), 10 ** (-3.5 + quarter / 2)
        assert any(low <= trial["lr"] <= high for trial in trials[-4:])
        assert any(25 * quarter <= trial["n_warmup_steps"] <= 25 * (quarter + 1) for trial in trials[-4:])


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=2:1", "a=0:1:log", "a=1:2:3:4", "a=x,y", "a=1:2:linear"])
def test_mistakes_in_ranges(text):
    with pytest.raises(tune.argparse.ArgumentTypeError, match="is no range: give KEY=LOW:HIGH"):
        tune.Range.parse(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--space", "warmth=1,2"], "there is no key warmth in"),
        (["--trials", "0"], "must be at least 1"),
        (["nothing.yaml"], "nothing.yaml is no hyper-parameter file"),
    ],
)
def test_mistakes(recipes, tmp_path, change, words, capsys):
    command = [recipes[0], "--trials", "1", "--epochs", "1", "--out", str(tmp_path / "out"), "--space", "lr=1,2"]
    with pytest.raises(SystemExit) as error:
        tune.main([*change, *command] if change[0].endswith("yaml") else [*command, *change])
    assert words in f"{error.value}{capsys.readouterr().err}"

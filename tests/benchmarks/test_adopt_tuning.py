"""The files have the values of the best trials, and the page lists these."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import adopt_tuning
from tests.conftest import HPARAMS

DOCS = Path(__file__).parents[2] / "docs"
BASE = "lr: 0.002\nn_warmup_steps: 300\ndropout: 0.1\n"


def test_files_have_the_values_of_the_best_trials():
    for path in (DOCS / "tuning").glob("*.csv"):
        for system, values in adopt_tuning.best_values(adopt_tuning.read_rows(path)).items():
            own = adopt_tuning.settings(HPARAMS / path.stem / f"{system}.yaml")
            assert {key: float(value) for key, value in values.items()} == own, (path.stem, system)


def test_the_page_lists_the_best_trials():
    page = (DOCS / "tuning.md").read_text(encoding="utf-8")
    assert adopt_tuning.page_with_table(page, DOCS / "tuning") == page


@pytest.fixture
def house(tmp_path):
    """A task of two systems, of which one has no dropout, with a bundled model and a page."""
    folder = tmp_path / "hparams" / "asr"
    folder.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tuning.md").write_text(f"# Tuning\n\n{adopt_tuning.BEGIN}{adopt_tuning.END}\nThe end.\n")
    (folder / "base.yaml").write_text(BASE)
    (folder / "one.yaml").write_text("!include:base.yaml\nlr: 0.004  # found by hand\n")
    (folder / "bundled_one.yaml").write_text("!include:one.yaml\nname: bundled\n")
    (folder / "two.yaml").write_text("lr: 0.001\nn_warmup_steps: 100\n")
    rows = [
        {"system": system, "trial": trial, "seed": 1, "lr": lr, "n_warmup_steps": warmup, "dropout": dropout,
         "status": "done", "score_name": "greedy_WER", "score": score, "valid_loss": 1.0}
        for system, trial, lr, warmup, dropout, score in (
            ("one", 0, 0.004, 300, 0.1, 50), ("two", 0, 0.001, 100, "", 40),
            ("one", 1, 0.003, 50, 0.0, 30), ("two", 1, 0.003, 50, "", 45),
        )
    ]  # fmt: skip
    trials = tmp_path / "results" / "asr" / "trials.csv"
    trials.parent.mkdir(parents=True)
    adopt_tuning.write_csv(trials, rows, list(rows[0]))
    return tmp_path


def test_the_best_trials_are_taken_over(house, capsys):
    folder = house / "hparams" / "asr"
    adopt_tuning.main([str(house / "results" / "asr" / "trials.csv")], house)
    assert capsys.readouterr().out == "asr: one.yaml, bundled_one.yaml changed\n"
    assert adopt_tuning.settings(folder / "one.yaml") == {"lr": 0.003, "n_warmup_steps": 50, "dropout": 0.0}
    assert adopt_tuning.settings(folder / "bundled_one.yaml") == {"lr": 0.004, "n_warmup_steps": 300, "dropout": 0.1}
    assert adopt_tuning.settings(folder / "two.yaml") == {"lr": 0.001, "n_warmup_steps": 100}
    assert "lr: 0.003  # found by hand" in (folder / "one.yaml").read_text()
    assert (folder / "base.yaml").read_text() == BASE
    with open(house / "docs" / "tuning" / "asr.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    page = (house / "docs" / "tuning.md").read_text()
    assert "| asr | `one` | 2 | `greedy_WER` | 30, 50 | 0.003 | 50 | 0.0 |\n" in page and page.endswith("The end.\n")
    assert "| asr | `two` | 2 | `greedy_WER` | 40, 40 | 0.001 | 100 |  |\n" in page
    adopt_tuning.main([str(house / "results" / "asr" / "trials.csv")], house)  # once more changes nothing
    assert capsys.readouterr().out == "asr: nothing changed\n"
    assert (house / "docs" / "tuning.md").read_text() == page


def test_a_table_of_no_task_is_refused(house, capsys):
    with pytest.raises(SystemExit):
        adopt_tuning.main([str(house / "nothing" / "trials.csv")], house)
    assert "is not a table of trials in a folder named by a task" in capsys.readouterr().err

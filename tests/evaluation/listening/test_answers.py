"""Answers of listeners: what is read, who is left out, and what they say of the systems."""

from __future__ import annotations

import json

import numpy as np
import pytest

from speechbrain_mamba.evaluation.listening.answers import Answer, compare_systems, inattentive, read_answers
from speechbrain_mamba.evaluation.listening.plan import Trial
from speechbrain_mamba.utils.files import write_csv, write_json

COLUMNS = ["page", "sheet", "listener", "trial", "answer"]
TRIALS = [{"item": "i", "first": "old", "second": "new"}, {"item": "j", "first": "new", "second": "old"}]


@pytest.fixture
def folder(tmp_path):
    write_json(
        tmp_path / "key.json",
        {"page": "p", "kind": "cmos", "subject": "naturalness", "systems": ["old", "new"],
         "sheets": {"01": TRIALS, "02": TRIALS}},
    )  # fmt: skip
    return tmp_path


def sheet(folder, name, **changes):
    """A file of two answers."""
    rows = [
        {"page": "p", "sheet": "01", "listener": "anna", "trial": 1, "answer": 2, **changes},
        {"page": "p", "sheet": "01", "listener": "anna", "trial": 2, "answer": -1},
    ]
    write_csv(folder / name, rows, COLUMNS)
    return folder / name


def test_answers_are_those_of_the_trials(folder):
    first = sheet(folder, "a.csv")
    answers = read_answers(folder, [first, first])
    assert answers == [Answer("01 anna", Trial(**TRIALS[0]), 2), Answer("01 anna", Trial(**TRIALS[1]), -1)]
    other = sheet(folder, "b.csv", sheet="02")
    assert len(read_answers(folder, [first, other])) == 3
    with pytest.raises(FileNotFoundError, match=r"has no key\.json"):
        read_answers(folder / "none", [first])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page": "q"}, "Line 2 of '.*a.csv' is of the test 'q', not of 'p'"),
        ({"sheet": "03"}, "answers trial 1 of sheet 03, which there is not"),
        ({"trial": 3}, "answers trial 3 of sheet 01, which there is not"),
        ({"trial": "x"}, "answers trial x"),
        ({"answer": 4}, "has the answer '4', but the page offers -3, -2, -1, 0, 1, 2, 3"),
        ({"trial": 2}, "has another answer of the same listener to the same trial"),
    ],
)
def test_answers_that_cannot_be_are_named(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        read_answers(folder, [sheet(folder, "a.csv", **changes)])


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe\x00", b"page,sheet,listener,trial,answer\np,01,x,1\n"])
def test_files_of_something_else_are_named(folder, content):
    (folder / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.csv' is not a file of answers: it must be a CSV file with page, sheet"):
        read_answers(folder, [folder / "x.csv"])


def answers_of(values, listener="anna", first="old", second="new"):
    return [Answer(listener, Trial(str(item), first, second), value) for item, value in enumerate(values)]


def test_the_mean_does_not_depend_on_the_order_of_a_pair():
    answers = answers_of([2, 1, 0, 3]) + answers_of([-2, -1, 0, -3], "ben", "new", "old")
    answers += answers_of([3], "ben", "new", "new")  # a check
    (row,) = compare_systems(answers, ["old", "new"])
    assert (row["system"], row["baseline"], row["answers"], row["listeners"], row["items"]) == ("new", "old", 8, 2, 4)
    assert row["mean"] == 1.5
    assert (row["system_preferred"], row["baseline_preferred"], row["no_preference"]) == (75, 0, 25)
    (row,) = compare_systems(answers, ["new", "old"])
    assert (row["system"], row["mean"], row["baseline_preferred"]) == ("old", -1.5, 75)


def test_the_interval_covers_the_mean_of_all_listeners_and_items():
    """Answers have effects of listener and item; intervals that know of answers alone would be too short."""
    source, covered, rounds = np.random.default_rng(0), 0, 60
    for _ in range(rounds):
        who, what = source.normal(0, 1, 8), source.normal(0, 1, 10)
        answers = []
        for number, tendency in enumerate(who):
            values = np.rint(0.5 + tendency + what + source.normal(0, 0.5, 10)).astype(int)
            answers += answers_of(values.tolist(), f"l{number}")
        (row,) = compare_systems(answers, ["old", "new"], draws=300)
        assert row["low"] < row["mean"] < row["high"]
        covered += row["low"] <= 0.5 <= row["high"]
    assert covered >= 0.85 * rounds


def test_listeners_who_fail_most_checks_are_named():
    check = [("old", "old"), ("new", "new"), ("new", "new")]

    def checks(listener, *values):
        return [Answer(listener, Trial("i", *pair), value) for pair, value in zip(check, values)]

    answers = [*checks("anna", 0, 1, -1), *checks("ben", 2, -2, 0), *checks("eve", 0, 3, 0), *answers_of([3], "ida")]
    assert inattentive(answers) == ["ben"]


def test_the_scripts_make_pages_and_score_them(tmp_path, monkeypatch, capsys):
    import importlib
    import sys

    import torch

    from speechbrain_mamba.dataio.audio import write_audio
    from tests.conftest import HPARAMS

    monkeypatch.syspath_prepend(str(HPARAMS.parent / "recipes" / "tts"))
    for name in ("old", "new"):
        rows = []
        for item in "abc":
            wav = tmp_path / name / f"{item}.wav"
            write_audio(wav, 0.1 * torch.randn(800), 8000)
            rows.append({"ID": item, "wav": wav, "wrd": "ONE", "prompt": wav, "reference": wav})
        write_csv(tmp_path / name / "synthesis.csv", rows, list(rows[0]))
    make, score = (importlib.import_module(name) for name in ("make_listening_page", "score_listening"))
    systems = [part for name in ("old", "new") for part in ("--system", f"{name}={tmp_path / name}")]
    make.main([str(tmp_path / "out"), *systems, "--listeners", "2", "--checks", "1", "--kind", "ab"])
    assert "2 sheets of 4 comparisons of 3 texts" in capsys.readouterr().out
    key = json.loads((tmp_path / "out" / "key.json").read_text())
    for number, trials in key["sheets"].items():
        rows = [
            {"page": key["page"], "sheet": number, "listener": number, "trial": i,
             "answer": 0 if trial["first"] == trial["second"] else 1 if trial["second"] == "new" else -1}
            for i, trial in enumerate(trials, 1)
        ]  # fmt: skip
        write_csv(tmp_path / f"{number}.csv", rows, COLUMNS)
    files = [str(tmp_path / f"{number}.csv") for number in key["sheets"]]
    score.main([str(tmp_path / "out"), *files, "--csv", str(tmp_path / "scores.csv")])
    told = capsys.readouterr().out
    assert "new against old: +1.00 [+1.00, +1.00], preferred 100 % to 0 % (6 answers, 2 listeners, 3 texts)" in told
    assert (tmp_path / "scores.csv").read_text().startswith("system,baseline,answers")
    with pytest.raises(ValueError, match="There is no system 'x' in this test"):
        score.main([str(tmp_path / "out"), *files, "--baseline", "x"])
    sys.modules.pop("make_listening_page"), sys.modules.pop("score_listening")

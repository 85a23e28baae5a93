"""Combinations of system, mixer, layout and form, drawn once and for all: each trains, computes the same in pieces as
in one go, and is exported and loaded. ``python -m tests.combinations`` tries all of them."""

import csv

import pytest

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.nnet.cross_mamba import CROSS_KINDS
from speechbrain_mamba.nnet.mixers import BIDIRECTIONAL, MIXERS
from tests.combinations.__main__ import COLUMNS, everything, main
from tests.combinations.choices import draw, name_of
from tests.combinations.decoders import ALL_DECODERS, DECODERS, make_decoder, try_decoder
from tests.combinations.outcome import Outcome, train
from tests.combinations.recognizers import RECOGNIZERS, make_encoder, try_recognizer
from tests.combinations.separators import SEPARATORS, make_separator, try_separator
from tests.combinations.synthesizers import ALL_SYNTHESIZERS, SYNTHESIZERS, make_synthesizer, try_synthesizer

QUICK = {"mini_mambatasnet_streaming", "mini_conmamba_ctc_streaming", "mini_conmambamamba_s2s_fsdd", "mini_vallm"}
"""Systems of which one combination is tried in every run."""
STEPS = 4
LONG = 50
"""Steps of a training long enough to fit one batch."""


def combinations(systems):
    """Parameters for tests: a system's name and the changes drawn for it."""
    for system, options in systems.items():
        for number, changes in enumerate(draw(system, **options)):
            if number == 2 and system not in QUICK:
                break
            marks = pytest.mark.slow if number or system not in QUICK else ()
            yield pytest.param(system, changes, id=name_of(system, changes), marks=marks)


@pytest.mark.parametrize(("name", "changes"), list(combinations(SEPARATORS)))
def test_separators(name, changes, tmp_path):
    outcome = try_separator(name, changes, tmp_path, STEPS)
    assert not outcome.faults()
    assert (outcome.pieces is not None) == ("streaming" in name)


@pytest.mark.parametrize(("name", "changes"), list(combinations(RECOGNIZERS)))
def test_recognizers(name, changes, tmp_path):
    outcome = try_recognizer(name, changes, tmp_path, STEPS)
    assert not outcome.faults()
    assert (outcome.pieces is not None) == ("streaming" in name or "causal" in name)


@pytest.mark.parametrize(("name", "changes"), list(combinations(DECODERS)))
def test_recognizers_with_a_decoder(name, changes, tmp_path):
    assert not try_decoder(name, changes, tmp_path, STEPS).faults()


@pytest.mark.parametrize(("name", "changes"), list(combinations(SYNTHESIZERS)))
def test_synthesizers(name, changes, tmp_path):
    assert not try_synthesizer(name, changes, tmp_path, STEPS).faults()


def test_every_reading_is_drawn():
    """Each way to read, and mimetic initialization of each that has states."""
    for systems, kinds in ((DECODERS, CROSS_KINDS), (SYNTHESIZERS, [*CROSS_KINDS[:-1], None])):
        drawn = [changes for system, options in systems.items() for changes in draw(system, **options)]
        assert {changes.get("cross") for changes in drawn} == {*kinds}
        mimetic = {changes["cross"] for changes in drawn if "init" in changes.get("cross_config", {})}
        assert mimetic == {kind for kind in kinds if kind not in ("attention", None)}
        assert {changes["mixer"] for changes in drawn} == {*MIXERS}


def test_all_combinations_are_listed_once_with_what_is_drawn_among_them():
    systems = {**SEPARATORS, **RECOGNIZERS, **ALL_DECODERS, **ALL_SYNTHESIZERS}
    listed = everything()
    assert len({name_of(*key) for key in listed}) == len(listed)
    for system in systems:
        changes = [changes for name, changes in listed if name == system]
        mixtures = {(one["mixer"], one["attention_layers"], one["attention_window"]) for one in changes}
        assert len(mixtures) == 8, "mamba and mamba2, each alone or with attention, all or a window of it; attention"
        forms = {one["bidirectional"] for one in changes if "bidirectional" in one}
        assert forms == ({*BIDIRECTIONAL} if systems[system].get("forms", True) else set())
    for system, options in {**DECODERS, **SYNTHESIZERS}.items():
        readings = {name_of(system, one) for one in ALL_DECODERS.get(system, ALL_SYNTHESIZERS.get(system))["others"]}
        assert {name_of(system, one) for one in options["others"]} <= readings


def outcome_of(**changes):
    return Outcome(**{"parameters": 1, "losses": [2.0, 1.0], "untrained": [], "padding": 0.0, "pieces": None,
                      "loaded": 0.0, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"losses": [1.0, 2.0]}, "the loss went from 1 to 2"),
        ({"losses": [1.0, float("nan")]}, "the loss went from 1 to nan"),
        ({"untrained": ["a"]}, "not trained: a"),
        ({"padding": 1e-3}, "padding differs by 0.001"),
        ({"pieces": float("nan")}, "pieces differs by nan"),
        ({"loaded": float("inf")}, "loaded differs by inf"),
    ],
)
def test_faults_of_an_outcome(changes, fault):
    assert outcome_of(pieces=1e-6).faults() == []
    assert outcome_of(**changes).faults() == [fault]


def test_the_command_writes_what_came_of_each_and_does_not_try_it_again(tmp_path, monkeypatch, capsys):
    tried = []

    def attempt(system, changes, folder, steps):
        assert folder.is_dir()
        tried.append(name_of(system, changes))
        if changes["attention_window"]:
            raise ValueError("no window,\nsorry")
        return outcome_of(losses=[2.0, 0.5], pieces=1e-6)

    monkeypatch.setattr("tests.combinations.__main__.attempt", attempt)
    table = tmp_path / "table.csv"
    chosen = ["--steps", "7", "--out", str(table), "--only", "causal*"]
    assert main(chosen) == 1
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [*COLUMNS] and len(rows) == len(tried) == 8
    good, bad = rows[0], next(row for row in rows if row["attention_window"])
    assert (good["loss_first"], good["loss_last"], good["faults"], good["steps"]) == ("2", "0.5", "", "7")
    assert bad["faults"] == "ValueError: no window, sorry" and bad["parameters"] == ""
    assert "| causal mini_conmamba_ctc_fsdd | 8 | 5 |" in capsys.readouterr().out
    assert main(chosen) == 1 and len(tried) == 8 + 3, "only those that failed"
    assert main([*chosen, "--steps", "8"]) == 1 and len(tried) == 8 + 3 + 8


@pytest.mark.slow
def test_some_learn_a_batch(tmp_path):
    """One combination of each task: in many steps the loss falls to a share of what it was at first."""

    def drawn(systems, name):
        return name, next(draw(name, **systems[name]))

    made = {
        0.9: make_separator(*drawn(SEPARATORS, "mini_mambatasnet")),
        0.3: make_encoder(*drawn(RECOGNIZERS, "mini_conmamba_ctc_fsdd"), tmp_path / "encoder"),
        0.1: make_decoder(*drawn(DECODERS, "mini_conmambamamba_s2s_fsdd"), tmp_path / "decoder"),
        0.5: make_synthesizer(*drawn(SYNTHESIZERS, "mini_vallm")),
    }
    for share, one in made.items():
        losses = train(one.trained, one.loss, LONG).losses
        assert losses[-1] < share * losses[0], losses[:: LONG // 5]

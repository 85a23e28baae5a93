"""The copying probe: its strings, equal sizes of all variants, and runs that are kept."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

import probe
from copying_task import CopyingTask

SMALL = ["--d_model", "32", "--layers", "1", "--phonemes", "4", "--longest", "5", "--batch", "4", "--strings", "6"]


def test_tokens_are_runs_of_the_phonemes_and_places_follow_them():
    task = CopyingTask(5, durations=(2, 4))
    text, tokens, places = task.draw(60, (1, 6), torch.Generator().manual_seed(0))
    assert {*text.lengths.tolist()} == set(range(1, 7))
    lasting = set()
    for i, (length, frames) in enumerate(zip(text.lengths.tolist(), tokens.lengths.tolist())):
        said, spoken = text.values[i, :length].tolist(), tokens.values[i, :frames].tolist()
        assert spoken[-1] == task.end and (tokens.values[i, frames - 1 :] == task.end).all()
        assert task.heard(spoken) == said
        begins = [t for t, token in enumerate(spoken[:-1]) if token % 3 == 0]
        assert len(begins) == length
        lasting |= {after - before for before, after in zip(begins, [*begins[1:], frames - 1])}
        expected = [sum(begin <= t for begin in begins) for t in range(frames - 1)] + [length]
        assert places[i, :frames].tolist() == expected
    assert lasting == {2, 3, 4}
    assert {*(tokens.values % 3).flatten().tolist()} == {0, 1, 2}


@pytest.mark.parametrize(
    ("tokens", "phonemes"),
    [([0, 1, 2, 3, 4], [0, 1]), ([0, 1, 0, 2], [0, 0]), ([1, 2, 4, 1], [0, 1, 0]), ([12, 0], []), ([3, 12, 0], [1])],
)
def test_phonemes_are_heard_in_tokens(tokens, phonemes):
    assert CopyingTask(4).heard(tokens) == phonemes


def test_errors_are_edits():
    assert probe._edit_distance([1, 2, 3], [1, 2, 3]) == 0
    assert probe._edit_distance([1, 2, 3], []) == 3 == probe._edit_distance([], [4, 4, 4])
    assert probe._edit_distance([1, 2, 3, 4], [1, 3, 9, 4]) == 2


def test_all_variants_have_as_many_parameters(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["probe.py"])
    arguments, task = probe.parse_arguments(), CopyingTask()
    with torch.device("meta"):
        wanted = sum(p.numel() for p in probe.make_copier(task, arguments, "attention", None).parameters())
        for variant in probe.VARIANTS:
            model = probe.make_copier(task, arguments, variant, wanted)
            assert abs(sum(p.numel() for p in model.parameters()) / wanted - 1) < 0.03, variant


def test_attention_and_hidden_attention_are_told_the_same_about_places():
    task, layers = CopyingTask(4), []
    for variant in ("attention, places, wide keys", "hidden_attention"):
        layers.append(probe.Copier(task, 32, 1, 8, probe.options_of(variant, 32)).decoder.layers[0].cross_mamba)
    attention, hidden = layers
    assert torch.equal(attention.frequencies, hidden.frequencies)
    assert attention.nhead == hidden.nheads == 2
    for name in ("memory_advance", "target_advance"):
        assert getattr(attention, name).weight.shape == getattr(hidden, name).weight.shape


def test_speaking_is_what_the_whole_model_finds_likeliest():
    task = CopyingTask(4)
    text, tokens, places = task.draw(5, (2, 5), torch.Generator().manual_seed(0))
    for variant in ("attention, places, wide keys", "hidden_attention", "interleaved by given durations"):
        torch.manual_seed(0)
        model = probe.Copier(task, 32, 1, 8, probe.options_of(variant, 32))
        spoken = model.speak(text, places, tokens.values.shape[1])
        assert torch.equal(model(text, tokens._replace(values=spoken), places).argmax(-1), spoken)


def test_runs_are_kept(tmp_path, monkeypatch, capsys):
    out = tmp_path / "runs.csv"
    command = ["probe.py", *SMALL, "--steps", "3", "--variants", "concat", "attention", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "1", "--lrs", "0.001", "0.1"])
    probe.main()
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"], row["steps_done"]) for row in rows] == [
        ("concat", "0", "3"),
        ("attention", "0", "3"),
    ]
    assert all(float(row["longer_error"]) > 0 and row["lr"] in ("0.001", "0.1") for row in rows)
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "2"])
    probe.main()
    with open(out, newline="") as file:
        again = list(csv.DictReader(file))
    assert again[:2] == rows and [row["seed"] for row in again] == ["0", "0", "1", "1"]
    table = capsys.readouterr().out
    assert table.count("| variant |") == 2 and "| concat | 2 |" in table and "±" in table
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "1", "--seconds", "0.05"])
    probe.main()  # other settings: nothing of before counts
    with open(out, newline="") as file:
        assert sum(row["seconds"] == "0.05" for row in csv.DictReader(file)) == 2
    out.write_text(out.read_text().replace("longer_error", "other"))
    with pytest.raises(SystemExit, match="columns of another version"):
        probe.main()

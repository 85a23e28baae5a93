"""RESULTS.md: what it says is what the published tables say."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import results
from quality import results_page, study_file, tables

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/summary.csv"))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_page_agrees_with_the_tables():
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert page == results.make_page(), "run python benchmarks/results.py"


def test_every_table_and_figure_of_the_page_is_there():
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    linked = {target for target in re.findall(r"\]\(([^)#]+)", page) if not target.startswith("http")}
    assert linked and not [target for target in linked if not (ROOT / target).exists()]


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_tables_follow_from_their_items(folder, tmp_path):
    """Means, intervals and lengths can be computed again from what is published."""
    study = study_file.read_study(study_file.find_study(folder.name), tmp_path)
    for name in ("items.csv", "runs.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for table in tables.make_tables(study, tmp_path):
        ours, theirs = rows_of(table), rows_of(folder / table.name)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            numbers = [name for name in one if name in ("mean", "spread", "difference", "low", "high", "p")]
            for name in numbers:  # the items are published in four digits
                assert float(one[name] or 0) == pytest.approx(float(other[name] or 0), rel=0.01, abs=0.005)
            assert {k: v for k, v in one.items() if k not in numbers} == {
                k: v for k, v in other.items() if k not in numbers
            }


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_systems_were_trained_alike(folder):
    runs = [row for row in rows_of(folder / "runs.csv") if row["comparison"] == "equal steps"]
    assert len({row["epochs"] for row in runs}) == 1
    if (folder / "trials.csv").is_file():
        trials = rows_of(folder / "trials.csv")
        by_system = {}
        for row in trials:
            by_system.setdefault(row["system"], []).append(row["trial"])
        assert len({tuple(numbers) for numbers in by_system.values()}) == 1


def test_places_are_filled_from_tables(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.csv").write_text("system,mean\nours,1.234\ntheirs,\n")
    text = "{{value a/b.csv mean system=ours}} dB\n{{csv a/b.csv}}\n{{csv a/c.csv}}\n{{text a/d.md}}"
    filled = results_page.fill_page(text, tmp_path, "docs/results")
    assert filled.startswith("1.23 dB\n| system | mean |\n|---|---|\n| ours | 1.234 |")
    assert "[docs/results/a/b.csv](docs/results/a/b.csv)" in filled and filled.endswith(
        "Not measured yet.\nNot measured yet."
    )
    assert "Not measured yet. Command:" in results_page.fill_page("{{study separation_real_voices}}", tmp_path, "x")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{{value a.csv mean system=nobody}}", "has 0 rows"),
        ("{{value a.csv median system=ours}}", "with the column median"),
        ("{{picture a.png}}", "is not one of study, value, csv, text"),
    ],
)
def test_mistakes_in_places(tmp_path, place, words):
    (tmp_path / "a.csv").write_text("system,mean\nours,1\n")
    with pytest.raises(ValueError, match=words):
        results_page.fill_page(place, tmp_path, "x")


def test_the_check_finds_another_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "page.md.in").write_text("# Results\n")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results.make_page, "__defaults__", (tmp_path,))
    assert results.main(["--check"]) == 1
    assert results.main([]) == 0 and results.main(["--check"]) == 0
    (tmp_path / "RESULTS.md").write_text("# Results\n\n99.9 dB\n")
    assert results.main(["--check"]) == 1
    assert "does not agree" in capsys.readouterr().out

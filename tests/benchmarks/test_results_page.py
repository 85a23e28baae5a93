"""RESULTS.md: what it says is what the published tables say."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

import results
from quality import results_page, study_file, tables
from quality.written_texts import read_block
from speechbrain_mamba.utils.files import write_csv

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/summary.csv"))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_page_agrees_with_the_tables():
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert page == results.make_page(), "run python benchmarks/results.py"


def test_readme_has_its_figures_from_the_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == results.make_readme(), "run python benchmarks/results.py"
    sentences = read_block(ROOT / "README.md", "results")
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    figures = [line for line in sentences.splitlines() if line.startswith("- ")]
    assert figures and all(line in page for line in figures)


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
            numbers = [
                name for name in one if name in ("mean", "spread", "difference") or name.endswith(("low", "high", "p"))
            ]
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


def test_nothing_is_said_without_its_evidence(tmp_path):
    text = "a\n{{if b.csv}}\nb {{value b.csv mean system=ours}}\n{{else}}\nno b\n{{end}}\n{{if c.csv}}\nc\n{{end}}\nd\n"
    assert results_page.fill_page(text, tmp_path, "x") == "a\nno b\nd\n"
    (tmp_path / "b.csv").write_text("system,mean\nours,1.5\n")
    assert results_page.fill_page(text, tmp_path, "x") == "a\nb 1.50\nd\n"
    (tmp_path / "b.csv").write_text("system,mean\nours,16\n")
    assert results_page.fill_page("{{value b.csv mean system=ours}}", tmp_path, "x") == "16"
    assert results_page.fill_page("{{figure a.png An alt}}|{{machine a.csv}}", tmp_path, "x") == "|"
    for kind in ("thresholds t.csv task=layer", "law t.csv", "differences decoders"):
        assert results_page.fill_page(f"{{{{{kind}}}}}", tmp_path, "x") == "Not measured yet."
    (tmp_path / "a.png").touch()
    (tmp_path / "a.csv").write_text("machine,torch,date\nM,2.11,2026-11-26\nM,2.11,2026-11-25\n")
    assert results_page.fill_page("{{figure a.png An alt}}", tmp_path, "x") == "![An alt](x/a.png)"
    made = results_page.fill_page("{{machine a.csv}}", tmp_path, "x")
    assert made == "Made on 2026-11-25 to 2026-11-26 with M; torch 2.11."


@pytest.mark.parametrize(
    ("dearer", "cheaper", "said"),
    [
        ("4", "16", "between 4 and 16 s"),
        ("0", "0.0625", "at all lengths from 0.0625 s"),
        ("32", "inf", "not up to 32 s"),
    ],
)
def test_measured_lengths_between_which_times_cross(tmp_path, dearer, cheaper, said):
    row = {"comparison": "a against b", "pass": "inference", "measure": "time", "token_ms": "0.5", "unit": "s",
           "longest_dearer": dearer, "next_cheaper": cheaper, "longest": "32"}  # fmt: skip
    step = row | {
        "pass": "training step",
        "longest_dearer": "4096",
        "next_cheaper": "1.638e+04",
        "unit": "tokens",
        "token_ms": "0",
    }
    write_csv(tmp_path / "t.csv", [row, row | {"measure": "peak memory"}, step], list(row))
    lines = results_page.fill_page("{{brackets t.csv}}", tmp_path, "x").splitlines()
    assert lines[0] == "| comparison | token | inference | training step |"
    assert lines[2:] == [
        f"| a against b | 0.5 ms | {said} | - |",
        "| a against b | - | - | between 4096 and 16384 tokens |",
    ]
    assert results_page.fill_page("{{brackets none.csv}}", tmp_path, "x") == "Not measured yet."


def test_thresholds_and_laws_are_told_as_people_read_them(tmp_path):
    row = {"task": "asr", "comparison": "a against b", "attention": "sdpa", "pass": "inference", "measure": "time",
           "token_ms": 40.0, "unit": "s", "threshold": 8.2, "low": 7.9, "high": 8.8, "tokens": 205.0, "shortest": 0.5,
           "longest": 32.0, "longest_dearer": 8.0, "next_cheaper": "inf"}  # fmt: skip
    layer = row | {"task": "layer", "token_ms": 0.0, "unit": "tokens", "threshold": 500.0, "low": 400, "high": "inf"}
    layer |= {"longest": 4096.0, "pass": "training step"}
    write_csv(
        tmp_path / "t.csv",
        [row, row | {"token_ms": 80.0, "threshold": 99.0, "measure": "peak memory"}, layer],
        list(row),
    )
    page = results_page.fill_page("{{thresholds t.csv task=asr}}", tmp_path, "x")
    assert page.splitlines()[0] == "| comparison | token | time, inference | peak memory, inference |"
    assert "| a against b | 40 ms | 8.2 s (7.9 to 8.8), 205 tokens | - |" in page
    assert "| a against b | 80 ms | - | none up to 32 s: Mamba is not cheaper |" in page
    page = results_page.fill_page("{{thresholds t.csv task=layer}}", tmp_path, "x")
    assert page.splitlines()[::2] == [
        "| comparison | time, training step |", "| a against b | 500 tokens (400 to no crossing) |"
    ]  # fmt: skip
    words = results_page.fill_page("{{threshold t.csv task=layer}}", tmp_path, "x")
    assert words == "500 tokens (400 to no crossing)"
    page = results_page.fill_page("{{brackets t.csv task=asr}}", tmp_path, "x")
    assert page.splitlines()[::2] == ["| comparison | token | inference |", "| a against b | 40 ms | not up to 32 s |"]
    law = {"task": "asr", "comparison": "a against b", "attention": "sdpa", "pass": "inference", "measure": "time",
           "points": 3, "slope": 0.9, "low": 0.7, "high": 1.1}  # fmt: skip
    laws = [
        law,
        law | {"task": "all", "low": 1.05, "high": 1.3},
        law | {"measure": "peak memory"},
        law | {"low": "nan"},
        law | {"comparison": "a against b, sdpa", "low": -0.2, "high": 1.5},
    ]
    write_csv(tmp_path / "l.csv", laws, list(law))
    first, second, third, last = results_page.fill_page("{{law l.csv}}", tmp_path, "x").splitlines()
    assert first.endswith("slope 0.90 over 3 thresholds, 95 % interval 0.70 to 1.10, which agrees with a slope of 1.")
    assert second.startswith("- all pairs of systems, sdpa") and "does not agree" in second and "no interval" in third
    assert last == (
        "- a against b, sdpa, inference: slope 0.90 over 3 thresholds, 95 % interval -0.20 to 1.50, which is too wide "
        "to tell."
    )


@pytest.mark.parametrize(
    ("better", "interval", "holm", "words"),
    [
        ("higher", ("0.1", "2"), "0.01", "95 % interval 0.10 to 2.00: better."),
        ("lower", ("0.1", "2"), "0.01", "95 % interval 0.10 to 2.00: worse."),
        ("lower", ("0.1", "2"), "0.09", "worse, but not surely so among several comparisons."),
        ("higher", ("-0.1", "2"), "0.01", "which does not tell which is better."),
        ("higher", ("", ""), "", "one run, which tells nothing of others."),
    ],
)
def test_sentences_go_by_the_wide_interval(better, interval, holm, words, tmp_path):
    study = study_file.read_study(study_file.find_study("recognition_digits"), tmp_path)
    measure = study_file.Measure("wer", "WER, %", better)
    low, high = interval
    row = {"comparison": "equal steps", "measure": "wer", "system": "conmamba", "baseline": "conformer"}
    row |= {"difference": "1", "low": "0.9", "high": "1.1", "student_low": low, "student_high": high, "holm_p": holm}
    write_csv(tmp_path / "differences.csv", [row, row | {"measure": "cer"}], list(row))
    said = tables.sentences_of_differences(replace(study, measures=(measure,)), tmp_path)
    assert said.startswith("- ConMamba minus Conformer, equal steps: 1.00 % WER, ") and said.endswith(words)
    assert len(said.splitlines()) == 1
    assert tables.sentences_of_differences(replace(study, measures=(measure,)), tmp_path, ["conformer"]) == ""
    write_csv(tmp_path / "differences.csv", [row, row | {"comparison": "equal time"}], list(row))
    twice = tables.sentences_of_differences(replace(study, measures=(measure,)), tmp_path)
    assert twice == said.replace("equal steps", "equal steps and equal time")  # the same runs
    write_csv(tmp_path / "differences.csv", [row, row | {"comparison": "equal time", "difference": "2"}], list(row))
    assert len(tables.sentences_of_differences(replace(study, measures=(measure,)), tmp_path).splitlines()) == 2


def test_costs_stand_beside_what_systems_reach(tmp_path):
    study = study_file.read_study(study_file.find_study("recognition_digits"), tmp_path)
    assert tables.costs_markdown(study, tmp_path) == ""
    summary = {"comparison": "equal steps", "measure": "wer", "system": "conmamba", "mean": "3", "spread": "0.5"}
    write_csv(tmp_path / "summary.csv", [summary], list(summary))
    cost = {
        "system": "conmamba",
        "pass": "inference",
        "length": 2.0,
        "status": "done",
        "seconds": 0.05,
        "tokens": 50,
        "peak_mb": 20,
    }
    rows = [cost, cost | {"length": 10.0, "seconds": 0.2, "tokens": 250, "peak_mb": 60}]
    rows.append(cost | {"pass": "training step", "seconds": 0.3})
    rows.append(cost | {"system": "conformer", "length": 10.0, "status": "too long"})
    write_csv(tmp_path / "costs.csv", rows, list(cost))
    lines = tables.costs_markdown(study, tmp_path).splitlines()
    assert lines[0] == (
        "| system | WER, % | 2 s of speech, s | 10 s of speech, s | tokens per second, 10 s | peak at 10 s, MB |"
    )
    assert lines[2] == "| ConMamba | 3.00 ± 0.50 | 0.05 / 0.3 | 0.2 / - | 1250 | 60 / - |"
    assert lines[3] == "| Conformer | - | - / - | - / - | - | - / - |"


def test_rates_at_the_end_of_what_was_tried_are_named(tmp_path):
    own = tmp_path / "recognition_digits"
    own.mkdir()
    trials = [{"system": name, "lr": lr} for lr in ("0.002", "0.001", "0.0005") for name in ("conmamba", "conformer")]
    write_csv(own / "trials.csv", trials, ["system", "lr"])
    summary = {
        "comparison": "equal steps",
        "measure": "wer",
        "mean": "3",
        "spread": "1",
        "items": "9",
        "runs": "2",
        "parameters": "",
    }
    summary |= {"epochs": "6", "minutes": "1", "clock": "CPU time"}
    rows = [summary | {"system": "conmamba", "settings": "lr=0.001 dropout=0.0"}]
    rows.append(summary | {"system": "conformer", "settings": "lr=0.0005 dropout=0.0"})
    write_csv(own / "summary.csv", rows, list(rows[0]))
    write_csv(own / "runs.csv", [], ["status", "system", "seed"])
    length = {
        "comparison": "equal steps",
        "measure": "wer",
        "system": "conmamba",
        "length": "all",
        "mean": "3",
        "spread": "1",
        "items": "9",
    }
    write_csv(own / "by_length.csv", [length], list(length))
    page = results_page.fill_page("{{study recognition_digits}}", tmp_path, "x")
    assert "Conformer chose the lowest of the rates tried, 0.0005: a lower one may be better." in page
    assert "ConMamba chose" not in page


def test_published_costs_are_of_the_systems_of_their_study():
    for path in sorted((ROOT / "docs" / "results").glob("*/costs.csv")):
        study = study_file.read_study(study_file.find_study(path.parent.name), Path("out"))
        assert {row["system"] for row in rows_of(path)} == {system.name for system in study.systems}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{{if a.csv}} and no end", "has {{if}} without what belongs to it"),
        ("{{value a.csv mean system=nobody}}", "has 0 rows"),
        ("{{threshold a.csv mean=2}}", "has 0 rows with mean=2, but must have one"),
        ("{{value a.csv median system=ours}}", "has no column median, but system, mean"),
        ("{{differences decoders nobody}}", "has no system nobody"),
        ("{{differences decoders measure=beauty}}", "has no measure beauty"),
        ("{{picture a.png}}", "is not one of study, differences, value"),
    ],
)
def test_mistakes_in_places(tmp_path, place, words):
    (tmp_path / "a.csv").write_text("system,mean\nours,1\n")
    with pytest.raises(ValueError, match=words):
        results_page.fill_page(place, tmp_path, "x")


def test_the_check_finds_another_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "page.md.in").write_text("# Results\n")
    (tmp_path / "docs" / "results" / "readme.md.in").write_text("{{csv a.csv}}\n")
    (tmp_path / "README.md").write_text("# Us\n<!-- results: x -->\n9 dB\n<!-- end of results -->\nmore\n")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.main(["--check"]) == 1
    assert results.main([]) == 0 and results.main(["--check"]) == 0
    readme = "# Us\n<!-- results: x -->\nNot measured yet.\n<!-- end of results -->\nmore\n"
    assert (tmp_path / "README.md").read_text() == readme
    for name, text in (("RESULTS.md", "# Results\n\n99.9 dB\n"), ("README.md", readme.replace("Not", "Well"))):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text)
        assert results.main(["--check"]) == 1
        assert f"{name} does not agree" in capsys.readouterr().out
        (tmp_path / name).write_text(before)
    (tmp_path / "README.md").write_text("# Us\n")
    with pytest.raises(ValueError, match="has no place for the results"):
        results.make_readme()

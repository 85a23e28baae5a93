"""docs/performance.md: what it says is what the benchmarks measured."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import report

ROOT = Path(__file__).parents[2]
FACTS = {"command": "python benchmarks/scan.py", "minutes": 1.5, "date": "2026-11-26", "processor": "P", "cores": "2",
         "torch": "2.11"}  # fmt: skip


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout with a plan of two benchmarks, one of which was run, and one for another machine."""
    folder = tmp_path / report.FOLDER
    folder.mkdir(parents=True)
    (folder / "plan.yaml").write_text('scan: ""\nmodel: "--rounds 2 --models a"\nmodel.small: "--rounds 1"\n')
    (folder / "page.md.in").write_text("# Performance\n")
    (folder / "readme.md.in").write_text("{{value scan median_ms where name=ours threads=2}} ms\n")
    (tmp_path / "README.md").write_text("# Us\n<!-- performance: x -->\n<!-- end of performance -->\n")
    (folder / "scan.md.in").write_text("## Scan\n\n{{value scan median_ms where name=ours threads=1}} ms\n")
    (folder / "model.md.in").write_text("## Model\n")
    (folder / "scan.csv").write_text("name,threads,median_ms,note\nours,1,12.3456,\nours,2,7,fast\ntheirs,1,12345.6,\n")
    (folder / "scan.json").write_text(json.dumps(FACTS))
    monkeypatch.setattr(report, "ROOT", tmp_path)
    for make in (report.make_page, report.make_readme):
        monkeypatch.setattr(make, "__defaults__", (tmp_path,))
    return tmp_path


def test_the_page_agrees_with_the_figures():
    page = (ROOT / report.PAGE).read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page == report.make_page() and readme == report.make_readme(), "run python benchmarks/report.py"
    assert report.MISSING not in page + readme


def test_every_table_of_the_page_and_benchmark_of_the_plan_is_there():
    page = (ROOT / report.PAGE).read_text(encoding="utf-8")
    linked = {target for target in re.findall(r"\]\(([^)#]+)", page) if not target.startswith("http")}
    assert linked and not [target for target in linked if not (ROOT / "docs" / target).exists()]
    folder = ROOT / report.FOLDER
    measured = {path.stem.removesuffix("_quality") for path in folder.glob("*.csv")}
    assert measured <= {path.stem for path in folder.glob("*.json")} & {
        path.name.removesuffix(".md.in") for path in folder.glob("*.md.in")
    }
    plan = report.read_plan(folder)
    assert measured <= plan.keys()


def test_places_are_filled_and_sections_that_were_not_run_are_left_out(root):
    assert report.make_page(root) == "# Performance\n\n## Scan\n\n12.3 ms\n"
    (root / report.FOLDER / "scan.md.in").write_text(
        '{{table scan name "median_ms=time, ms" note where threads=1}}\n\n{{command scan}} {{value model ms}}\n'
    )
    assert report.make_page(root).split("\n", 2)[2] == (
        "| name | time, ms | note |\n|---|---|---|\n| ours | 12.3 | - |\n| theirs | 12 346 | - |\n\n"
        "`python benchmarks/scan.py`, 1.5 min on 2026-11-26: P, 2 cores, torch 2.11. "
        "[Table](performance/scan.csv). not measured yet\n"
    )


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{{value scan median_ms where name=ours}}", "finds 2 rows"),
        ("{{value scan note where name=theirs}}", "finds 1 rows, but must find a value"),
        ("{{value scan mean where name=theirs}}", "has no column mean: name, threads"),
        ("{{table scan name where threads=8}}", "has no row"),
        ("{{table scan name where cores=8}}", "has no column cores"),
        ("{{picture scan}}", "is not one of table, value, command"),
    ],
)
def test_mistakes_in_places(root, place, words):
    (root / report.FOLDER / "scan.md.in").write_text(place)
    with pytest.raises(ValueError, match=words):
        report.make_page(root)


def test_a_plan_of_another_form(root):
    (root / report.FOLDER / "plan.yaml").write_text("- scan\n")
    with pytest.raises(ValueError, match="must have a line 'NAME: ARGUMENTS'"):
        report.make_page(root)


def test_the_check_finds_another_page(root, capsys):
    assert report.main(["--check"]) == 1
    assert report.main([]) == 0 and report.main(["--check"]) == 0
    readme = (root / "README.md").read_text()
    assert readme == "# Us\n<!-- performance: x -->\n7 ms\n<!-- end of performance -->\n"
    for path, text in ((root / report.PAGE, "# Performance\n\n1 ms\n"), (root / "README.md", readme.replace("7", "6"))):
        before = path.read_text()
        path.write_text(text)
        assert report.main(["--check"]) == 1
        assert f"{path.name} does not agree" in capsys.readouterr().out
        path.write_text(before)


def test_benchmarks_are_run_with_the_arguments_of_the_plan(root, monkeypatch, capsys):
    """One that fails leaves the figures as they were, and the others are run."""
    commands = []

    def run(command, check, cwd):
        commands.append(command[1:])
        if "scan.py" in command[1]:
            raise subprocess.CalledProcessError(3, command)
        out = Path(command[-1])
        out.write_text("name,median_ms\nours,1.5\n")
        out.with_name(f"{out.stem}_quality.csv").write_text("name,score\nours,3\n")

    monkeypatch.setattr(report.subprocess, "run", run)
    folder = root / report.FOLDER
    before = (folder / "scan.csv").read_text()
    assert report.main(["--run"]) == 1
    assert "benchmarks/scan.py ended with exit code 3" in capsys.readouterr().out
    assert (folder / "scan.csv").read_text() == before
    assert commands[1][1:-1] == ["--rounds", "2", "--models", "a", "--out"]
    facts = json.loads((folder / "model.json").read_text())
    assert facts["command"] == "python benchmarks/model.py --rounds 2 --models a"
    assert report.make_page(root).endswith("## Model\n")
    assert sorted(path.name for path in folder.glob("*model*")) == [
        "model.csv", "model.json", "model.md.in", "model_quality.csv",
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        report.main(["--run", "nothing"])
    assert len(commands) == 2
    assert report.main(["--run", "model.small"]) == 0
    assert commands[2][0].endswith("model.py") and commands[2][1:-1] == ["--rounds", "1", "--out"]
    assert (folder / "model.small.csv").is_file() and (folder / "model.small.json").is_file()

#!/usr/bin/env python3
"""Write docs/performance.md and README.md's figures of speed from what the benchmarks measured, and run them.

    python benchmarks/report.py                      # write both
    python benchmarks/report.py --check              # end with exit code 1 if they do not agree with the figures
    python benchmarks/report.py --run                # run all benchmarks of the plan, then write: half an hour
    python benchmarks/report.py --run scan memory    # run some

The plan is docs/performance/plan.yaml. A benchmark NAME gives NAME.csv; ``--run`` puts it there with NAME.json, its
command and machine. NAME.WHERE is the same benchmark on another machine, which is run only if it is asked for. The page
is page.md.in, then NAME.md.in of each that was run, in the plan's order. README.md gets readme.md.in, between two
comments. Their places are filled in:

- ``{{table NAME COLUMN=HEADING ... where COLUMN=VALUE ...}}``: rows of NAME.csv as a table;
- ``{{value NAME COLUMN where COLUMN=VALUE ...}}``: a number of the one row in which the columns have the values;
- ``{{command NAME}}``: the command, the day and the machine.

A place of another benchmark that was not run says so.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quality.machine import describe_machine
from quality.tables import markdown, read_rows
from quality.written_texts import fill_block, write_or_check
from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.yaml_text import parse_yaml

ROOT = Path(__file__).parents[1]
FOLDER, PAGE, PLAN = Path("docs", "performance"), Path("docs", "performance.md"), "plan.yaml"
MISSING = "not measured yet"

_PLACE = re.compile(r"\{\{(\w+) ([^{}]*)\}\}")


def read_plan(folder: Path) -> dict[str, list[str]]:
    """The arguments of each benchmark by its name, in the order of the page.

    Raises
    ------
    ValueError
        When the plan is not of that form.
    """
    path = folder / PLAN
    plan = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(plan, dict) or not all(isinstance(given, str) for given in plan.values()):
        raise ValueError(f"{path} must have a line 'NAME: ARGUMENTS' for each benchmark; '' are none.")
    return {name: shlex.split(given) for name, given in plan.items()}


def make_page(root: Path = ROOT) -> str:
    """The text of the page as the figures are now."""
    folder = root / FOLDER
    measured = [name for name in read_plan(folder) if (folder / f"{name}.csv").is_file()]
    parts = [folder / "page.md.in", *(folder / f"{name}.md.in" for name in measured)]
    text = "\n\n".join(path.read_text(encoding="utf-8").strip() for path in parts if path.is_file())
    if not measured:
        text += "\n\nNothing is measured yet: `python benchmarks/report.py --run` does it."
    return _PLACE.sub(lambda match: _fill(folder, match), text) + "\n"


def make_readme(root: Path = ROOT) -> str:
    """The text of README.md as the figures are now."""
    folder = root / FOLDER
    text = (folder / "readme.md.in").read_text(encoding="utf-8").strip() + "\n"
    return fill_block(root / "README.md", "performance", _PLACE.sub(lambda match: _fill(folder, match), text))


def _fill(folder: Path, place: re.Match[str]) -> str:
    words = shlex.split(place[2])
    if place[1] not in _KINDS or not words:
        raise ValueError(f"The place {place[0]} is not one of {', '.join(_KINDS)} with its words.")
    name, *words = words
    if not (folder / f"{name}.csv").is_file():
        return MISSING
    return _KINDS[place[1]](folder, name, words)


def shown(text: str) -> str:
    """A cell for people: three digits of a number, a dash for nothing, words as they are.

    Example
    -------
    >>> shown("12345.6"), shown("0.01234"), shown("8"), shown(""), shown("int8")
    ('12 346', '0.0123', '8', '-', 'int8')
    """
    try:
        number = float(text)
    except ValueError:
        return text or "-"
    if text.lstrip("-").isdigit() or not math.isfinite(number):
        return text
    return f"{number:,.0f}".replace(",", " ") if abs(number) >= 100 else f"{number:.3g}"


def _chosen(folder: Path, name: str, words: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """The words before ``where``, and the rows that have the values behind it."""
    cut = words.index("where") if "where" in words else len(words)
    wanted = dict(word.split("=", 1) for word in words[cut + 1 :])
    rows = read_rows(folder / f"{name}.csv")
    unknown = {word.split("=", 1)[0] for word in words[:cut]} | wanted.keys()
    if rows and (unknown := unknown - rows[0].keys()):
        raise ValueError(f"{name}.csv has no column {', '.join(sorted(unknown))}: {', '.join(rows[0])} are there.")
    return list(words[:cut]), [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _table(folder: Path, name: str, words: Sequence[str]) -> str:
    columns, rows = _chosen(folder, name, words)
    if not rows:
        raise ValueError(f"{name}.csv has no row for 'table {name} {' '.join(words)}'.")
    keys, headings = zip(*(column.split("=", 1) if "=" in column else (column, column) for column in columns))
    return markdown(list(headings), [[shown(row[key]) for key in keys] for row in rows])


def _value(folder: Path, name: str, words: Sequence[str]) -> str:
    columns, rows = _chosen(folder, name, words)
    if len(columns) != 1 or len(rows) != 1 or not rows[0][columns[0]]:
        raise ValueError(f"'value {name} {' '.join(words)}' finds {len(rows)} rows, but must find a value of one.")
    return shown(rows[0][columns[0]])


def _command(folder: Path, name: str, words: Sequence[str]) -> str:
    path = folder / f"{name}.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return (
        f"`{facts['command']}`, {facts['minutes']} min on {facts['date']}: {facts['processor']}, {facts['cores']} "
        f"cores, torch {facts['torch']}. [Table](performance/{name}.csv)."
    )


_KINDS = {"table": _table, "value": _value, "command": _command}


def run_benchmark(name: str, arguments: Sequence[str], folder: Path) -> None:
    """Run a benchmark into a folder, and note its command and the machine."""
    script = name.partition(".")[0]
    shown = " ".join(["python", f"benchmarks/{script}.py", *arguments])
    print(shown, flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        out = Path(made, f"{name}.csv")
        command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments, "--out", str(out)]
        subprocess.run(command, check=True, cwd=ROOT)
        for table in out.parent.glob(f"{name}*.csv"):  # some write another one, NAME_quality.csv, beside it
            with atomic_path(folder / table.name) as temporary:
                shutil.copyfile(table, temporary)
    facts = describe_machine() | {"command": shown, "minutes": round((time.monotonic() - start) / 60, 1)}
    with atomic_path(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main(given: Sequence[str] | None = None) -> int:
    """Run benchmarks, and write or check both texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a text is another one")
    what.add_argument("--run", nargs="*", metavar="NAME", help="run these benchmarks first; all of the plan by default")
    arguments = parser.parse_args(given)
    folder = ROOT / FOLDER
    failed = []
    if arguments.run is not None:
        plan = read_plan(folder)
        if unknown := set(arguments.run) - plan.keys():
            parser.error(f"{', '.join(sorted(unknown))} is not in the plan, which has {', '.join(plan)}.")
        for name in arguments.run or (name for name in plan if "." not in name):
            try:
                run_benchmark(name, plan[name], folder)
            except subprocess.CalledProcessError as error:
                failed.append(name)
                print(f"benchmarks/{name}.py ended with exit code {error.returncode}: its figures stay as they were.")
    texts = {ROOT / PAGE: make_page(), ROOT / "README.md": make_readme()}
    return write_or_check(texts, folder, arguments.check) or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

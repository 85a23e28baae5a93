#!/usr/bin/env python3
"""Take over what a tuning has found: keep its trials, set the files to the best ones, and list these on the page.

    python benchmarks/adopt_tuning.py results/tuning/tts/trials.csv results/tuning/asr/trials.csv

The trials of each task go to docs/tuning/TASK.csv, the best values of each system into hparams/TASK/SYSTEM.yaml, and a
table into docs/tuning.md. Files of models that come with the package (bundled_*.yaml) keep the values that these were
trained with. Without arguments only the table is written.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from speechbrain_mamba.utils.files import atomic_path, write_csv
from speechbrain_mamba.utils.hparams import read_hparams
from tune import ROOT, best_trial, read_rows

KEYS = ("lr", "n_warmup_steps", "dropout")
"""What is tuned; a file need not have all of them."""
BEGIN, END = "<!-- best trials -->\n", "<!-- end -->\n"


def seeds_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """The seeds that each trial was run with."""
    return len({row["seed"] for row in rows})


def best_values(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Of each system with a whole trial, the values of the best one."""
    found = {system: best_trial(rows, system, seeds_of(rows)) for system in dict.fromkeys(r["system"] for r in rows)}
    return {
        system: {key: best[1][key] for key in KEYS if best[1].get(key, "") != ""}
        for system, best in found.items()
        if best is not None
    }


def settings(file: Path) -> dict[str, Any]:
    """What a file, with those that it includes, says of the keys that it has."""
    found = YAML().load(read_hparams(file))
    return {key: found[key] for key in KEYS if key in found}


def write_text(path: Path, text: str) -> None:
    """Write a file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def set_values(file: Path, values: Mapping[str, Any]) -> None:
    """State values in a file: in place of those that it states, or at its end."""
    text = file.read_text(encoding="utf-8")
    for key, value in values.items():
        text, count = re.subn(rf"(?m)^{key}: *[^ #\n]+", f"{key}: {value}", text)
        if not count:
            text = f"{text.rstrip()}\n{key}: {value}\n"
    write_text(file, text)


def adopt(task: str, rows: Sequence[Mapping[str, Any]], hparams: Path) -> list[str]:
    """Set the files of a task to the best trials; returns the names of the files that changed."""
    bundled = {file: settings(file) for file in sorted((hparams / task).glob("bundled_*.yaml"))}
    changed = []
    for system, values in best_values(rows).items():
        file = hparams / task / f"{system}.yaml"
        now = settings(file)
        new = {key: value for key, value in values.items() if float(value) != float(now[key])}
        if new:
            set_values(file, new)
            changed.append(file.name)
    for file, before in bundled.items():
        lost = {key: value for key, value in before.items() if settings(file)[key] != value}
        if lost:
            set_values(file, lost)
            changed.append(file.name)
    return changed


def table(folder: Path) -> Iterator[str]:
    """The lines of the table of best trials, of all tasks of a folder."""
    if not any(folder.glob("*.csv")):
        yield "No tuning has been kept yet.\n"
        return
    yield "| task | system | trials | score | best, before | lr | warm-up steps | dropout |\n"
    yield "|---|---|---|---|---|---|---|---|\n"
    for path in sorted(folder.glob("*.csv")):
        rows = read_rows(path)
        for system, values in best_values(rows).items():
            own = [row for row in rows if row["system"] == system]
            first = best_trial([row for row in own if row["trial"] == "0"], system, seeds_of(rows))
            score, best = best_trial(rows, system, seeds_of(rows)) or (float("nan"), {})
            before = "failed" if first is None else f"{first[0]:.4g}"
            cells = [path.stem, f"`{system}`", str(len({row["trial"] for row in own})), f"`{best['score_name']}`"]
            cells += [f"{score:.4g}, {before}", *(values.get(key, "") for key in KEYS)]
            yield f"| {' | '.join(cells)} |\n"


def page_with_table(page: str, folder: Path) -> str:
    """The page with the table of what a folder holds."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{''.join(table(folder))}\n{END}{after}"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """Keep trials, set files, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", type=Path, help="tables of benchmarks/tune.py, in folders named by tasks")
    folder = root / "docs" / "tuning"
    for path in parser.parse_args(arguments).trials:
        task, rows = path.resolve().parent.name, read_rows(path)
        if not rows or not (root / "hparams" / task).is_dir():
            parser.error(f"{path} is not a table of trials in a folder named by a task, such as results/tuning/asr.")
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / f"{task}.csv", rows, list(rows[0]))
        changed = adopt(task, rows, root / "hparams")
        print(f"{task}: {', '.join(changed) or 'nothing'} changed")
    page = root / "docs" / "tuning.md"
    write_text(page, page_with_table(page.read_text(encoding="utf-8"), folder))


if __name__ == "__main__":
    main()

"""The tables of a study: CSV files made of its items, and the same as Markdown."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from quality.comparison import Scores, common, length_groups, paired_bootstrap, spread, table_of
from quality.study_file import Measure, Study
from speechbrain_mamba.utils.files import write_csv

Rows = list[dict[str, str]]

SUMMARY, DIFFERENCES, BY_LENGTH = "summary.csv", "differences.csv", "by_length.csv"


def read_rows(path: Path) -> Rows:
    """The rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(value: float) -> str:
    """A number as the tables have it: four digits, and nothing for one that is not defined."""
    return "" if not math.isfinite(value) else f"{value:.4g}"


def select(scores: Scores, members: np.ndarray) -> Scores:
    """The scores of some items."""
    return Scores(scores.above[:, members], scores.below[:, members])


class Evidence:
    """The items and runs of one comparison of a study, by measure and system."""

    def __init__(self, study: Study, items: Sequence[Mapping[str, str]], measure: Measure) -> None:
        self.seeds, self.items = common(items, measure)
        systems = {row["system"] for row in items}
        self.systems = [system.name for system in study.systems if system.name in systems]
        lengths = {row["item"]: float(row["length"]) for row in items if row.get("length")}
        self.lengths = [lengths.get(item, math.nan) for item in self.items]
        self.scores: dict[str, Scores] = {}
        if self.items:
            for name in self.systems:
                own = [row for row in items if row["system"] == name]
                self.scores[name] = table_of(own, measure, self.seeds, self.items)


def make_tables(study: Study, folder: Path) -> list[Path]:
    """Make the tables of a study of its ``items.csv`` and ``runs.csv``.

    Arguments
    ---------
    study : Study
        The study.
    folder : Path
        Where its results are, and where the tables go.

    Returns
    -------
    list of Path
        The tables; none before a run is done.
    """
    if not (folder / "items.csv").is_file():
        return []
    items, runs = read_rows(folder / "items.csv"), read_rows(folder / "runs.csv")
    summary, differences, by_length = [], [], []
    for comparison in dict.fromkeys(row["comparison"] for row in items):
        here = [row for row in items if row["comparison"] == comparison]
        if summary and len({row["system"] for row in here}) == 1:
            continue  # equal time, of the fastest system alone so far
        for measure in study.measures:
            evidence = Evidence(study, here, measure)
            key = {"comparison": comparison, "measure": measure.name}
            counts = {"seeds": len(evidence.seeds), "items": len(evidence.items)}
            for name, scores in evidence.scores.items():
                per_seed = scores.per_seed()
                summary.append(
                    {**key, "system": name, "mean": number(per_seed.mean()), "spread": number(spread(per_seed)),
                     **counts, **training_of(runs, comparison, name, evidence.seeds)}
                )  # fmt: skip
                for group, members in length_groups(evidence.lengths, study.length_edges):
                    part = select(scores, members).per_seed()
                    by_length.append(
                        {**key, "system": name, "length": group, "mean": number(part.mean()),
                         "spread": number(spread(part)), "seeds": len(evidence.seeds), "items": int(members.sum())}
                    )  # fmt: skip
                other = study.against(name)
                if name != other and other in evidence.scores:
                    found = paired_bootstrap(scores, evidence.scores[other])
                    differences.append(
                        {**key, "system": name, "baseline": other, "difference": number(found.value),
                         "low": number(found.low), "high": number(found.high), "p": number(found.p), **counts}
                    )  # fmt: skip
    written = []
    for name, rows in ((SUMMARY, summary), (DIFFERENCES, differences), (BY_LENGTH, by_length)):
        if rows:
            write_csv(folder / name, rows, list(rows[0]))
            written.append(folder / name)
    return written


def training_of(runs: Rows, comparison: str, system: str, seeds: Sequence[str]) -> dict[str, str]:
    """How a system was trained: parameters, epochs, and minutes of a training, the mean over the seeds."""
    own = [row for row in runs if (row["comparison"], row["system"]) == (comparison, system) and row["seed"] in seeds]
    minutes = [int(row["epochs"]) * float(row["seconds_per_epoch"]) / 60 for row in own if row["seconds_per_epoch"]]
    failed = sum(
        row["status"] == "failed" for row in runs if (row["comparison"], row["system"]) == (comparison, system)
    )
    first = own[0] if own else {}
    return {
        "parameters": first.get("parameters", ""), "epochs": first.get("epochs", ""),
        "minutes": number(float(np.mean(minutes))) if minutes else "", "clock": first.get("clock", ""),
        "settings": first.get("settings", ""), "failed": str(failed),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------- Markdown


def rounded(text: str, digits: int = 2) -> str:
    """A number of a table for people: ``digits`` digits behind the point, or a dash.

    Example
    -------
    >>> rounded("3.14159"), rounded("-0.001"), rounded("")
    ('3.14', '0.00', '-')
    """
    if text in ("", "nan"):
        return "-"
    shown = f"{float(text):.{digits}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    Example
    -------
    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    shown = ["| " + " | ".join(row) + " |" for row in (header, *lines)]
    return "\n".join([shown[0], "|" + "---|" * len(header), *shown[1:]])


def summary_markdown(study: Study, folder: Path) -> str:
    """The table of a study: each system in each comparison, mean ± spread of each measure."""
    rows = read_rows(folder / SUMMARY)
    lines = []
    for comparison, name in dict.fromkeys((row["comparison"], row["system"]) for row in rows):
        own = {row["measure"]: row for row in rows if (row["comparison"], row["system"]) == (comparison, name)}
        first = next(iter(own.values()))
        values = [
            f"{rounded(own[m.name]['mean'])} ± {rounded(own[m.name]['spread'])}" if m.name in own else "-"
            for m in study.measures
        ]
        size = f"{int(first['parameters']) / 1e6:.2f} M" if first["parameters"] else "-"
        lines.append(
            [
                comparison,
                study.system(name).label,
                size,
                first["seeds"],
                first["epochs"],
                rounded(first["minutes"], 1),
                *values,
            ]
        )
    header = ["comparison", "system", "parameters", "seeds", "epochs", "minutes", *(m.label for m in study.measures)]
    return markdown(header, lines)


def differences_markdown(study: Study, folder: Path) -> str:
    """The differences from the baseline with their intervals."""
    path = folder / DIFFERENCES
    if not path.is_file():
        return ""
    labels = {measure.name: measure.label for measure in study.measures}
    lines = [
        [row["comparison"], f"{study.system(row['system']).label} - {study.system(row['baseline']).label}",
         labels[row["measure"]], rounded(row["difference"]), f"{rounded(row['low'])} to {rounded(row['high'])}",
         rounded(row["p"], 4)]
        for row in read_rows(path)
    ]  # fmt: skip
    return markdown(["comparison", "difference", "measure", "mean", "95 % interval", "p"], lines)


def length_markdown(study: Study, folder: Path) -> str:
    """The first measure by length, of equal steps."""
    rows = read_rows(folder / BY_LENGTH)
    first = rows[0]["comparison"]
    measure = study.measures[0]
    rows = [row for row in rows if row["comparison"] == first and row["measure"] == measure.name]
    groups = list(dict.fromkeys(row["length"] for row in rows))
    lines = []
    for name in dict.fromkeys(row["system"] for row in rows):
        own = {row["length"]: row for row in rows if row["system"] == name}
        cells = [f"{rounded(own[g]['mean'])} ± {rounded(own[g]['spread'])}" for g in groups]
        lines.append([study.system(name).label, *cells])
    counts = {row["length"]: row["items"] for row in rows}
    return markdown([measure.label, *(f"{g} {study.length} ({counts[g]})" for g in groups)], lines)

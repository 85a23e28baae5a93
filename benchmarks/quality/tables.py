"""The tables of a study: CSV files made of its items, and the same as Markdown."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from quality.comparison import (
    Scores,
    by_group,
    common,
    has,
    holm,
    length_groups,
    paired_bootstrap,
    run_of,
    spread,
    student_interval,
    table_of,
)
from quality.items import with_people
from quality.study_file import Measure, Study
from speechbrain_mamba.utils.files import write_csv

Rows = list[dict[str, str]]

SUMMARY, DIFFERENCES, BY_LENGTH, BY_NAME = "summary.csv", "differences.csv", "by_length.csv", "by_name.csv"
COSTS = "costs.csv"
"""What the systems cost: see ``benchmarks/costs.py``."""


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
        self.runs, self.items = common(items, measure)
        systems = {row["system"] for row in items}
        self.systems = [system.name for system in study.systems if system.name in systems]
        here = [row for row in items if run_of(row) in self.runs]
        self.left_out = len({row["item"] for row in here}) - len(self.items)
        self.without = {
            name: sum(row["system"] == name and not has(row, measure) for row in here) for name in self.systems
        }
        whose = {row["item"]: row.get("people", "") for row in items}
        self.people = [whose[item] for item in self.items]
        self.names = np.array([run.partition(" ")[2] for run in self.runs])
        lengths = {row["item"]: float(row["length"]) for row in items if row.get("length")}
        self.lengths = [lengths.get(item, math.nan) for item in self.items]
        self.scores: dict[str, Scores] = {}
        if self.items:
            for name in self.systems:
                own = [row for row in items if row["system"] == name]
                self.scores[name] = table_of(own, measure, self.runs, self.items)


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
    items, runs = with_people(read_rows(folder / "items.csv"), study.people), read_rows(folder / "runs.csv")
    summary, differences, by_length, by_name = [], [], [], []
    for comparison in dict.fromkeys(row["comparison"] for row in items):
        here = [row for row in items if row["comparison"] == comparison]
        if summary and len({row["system"] for row in here}) == 1:
            continue  # equal time, of the fastest system alone so far
        for measure in study.measures:
            evidence = Evidence(study, here, measure)
            key = {"comparison": comparison, "measure": measure.name}
            counts = {"runs": len(evidence.runs), "items": len(evidence.items)}
            compared = []
            for name, scores in evidence.scores.items():
                per_run = scores.per_run()
                summary.append(
                    {**key, "system": name, "mean": number(per_run.mean()), "spread": number(spread(per_run)), **counts,
                     "left_out": evidence.left_out, "without": evidence.without[name],
                     **training_of(runs, comparison, name, evidence.runs)}
                )  # fmt: skip
                for group, members in length_groups(evidence.lengths, study.length_edges):
                    part = select(scores, members).per_run()
                    by_length.append(
                        {**key, "system": name, "length": group, "mean": number(part.mean()),
                         "spread": number(spread(part)), "runs": len(evidence.runs), "items": int(members.sum())}
                    )  # fmt: skip
                for repeated_with in study.repeated_with:
                    own = per_run[evidence.names == repeated_with]
                    if len(own):
                        by_name.append(
                            {**key, "system": name, "with": repeated_with, "mean": number(own.mean()),
                             "spread": number(spread(own)), "runs": len(own), "items": len(evidence.items)}
                        )  # fmt: skip
                other = study.against(name)
                if name != other and other in evidence.scores:
                    found = paired_bootstrap(scores, evidence.scores[other])
                    wide = student_interval(scores, evidence.scores[other])
                    grouped = [by_group(each, evidence.people) for each in (scores, evidence.scores[other])]
                    others = student_interval(*grouped)
                    compared.append(
                        {**key, "system": name, "baseline": other, "difference": number(found.value),
                         "low": number(found.low), "high": number(found.high), "p": number(found.p),
                         "student_low": number(wide.low), "student_high": number(wide.high),
                         "student_p": number(wide.p), "people_low": number(others.low),
                         "people_high": number(others.high), **counts, "people": len(set(evidence.people) - {""})}
                    )  # fmt: skip
            corrected = holm([float(row["student_p"] or "nan") for row in compared])
            differences += [{**row, "holm_p": number(value)} for row, value in zip(compared, corrected)]
    written = []
    tables = ((SUMMARY, summary), (DIFFERENCES, differences), (BY_LENGTH, by_length), (BY_NAME, by_name))
    for name, rows in tables:
        if rows:
            write_csv(folder / name, rows, list(rows[0]))
            written.append(folder / name)
    return written


def training_of(runs: Rows, comparison: str, system: str, names: Sequence[str]) -> dict[str, str]:
    """How a system was trained: parameters, epochs, and minutes of a training, the mean over its runs."""
    own = [row for row in runs if (row["comparison"], row["system"]) == (comparison, system) and run_of(row) in names]
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
                first["runs"],
                first["epochs"],
                rounded(first["minutes"], 1),
                *values,
            ]
        )
    repeats = "runs" if study.repeated_with else "seeds"
    header = ["comparison", "system", "parameters", repeats, "epochs", "minutes", *(m.label for m in study.measures)]
    return markdown(header, lines)


def differences_markdown(study: Study, folder: Path) -> str:
    """The differences from the baseline with their intervals, but for measures in which there are none: these are named
    below the table."""
    path = folder / DIFFERENCES
    if not path.is_file():
        return ""
    labels = {measure.name: measure.label for measure in study.measures}
    rows = read_rows(path)
    measured = {row["measure"] for row in rows}
    differing = {row["measure"] for row in rows if any(float(row[key]) for key in ("difference", "low", "high"))}
    equal = [measure.label for measure in study.measures if measure.name in measured - differing]
    rows = [row for row in rows if row["measure"] in differing]
    known = any(row.get("people_low") for row in rows)
    lines = [
        [row["comparison"], f"{study.system(row['system']).label} - {study.system(row['baseline']).label}",
         labels[row["measure"]], rounded(row["difference"]), f"{rounded(row['low'])} to {rounded(row['high'])}",
         _interval(row, "student"), *([_interval(row, "people")] if known else []), _probability(row["holm_p"])]
        for row in rows
    ]  # fmt: skip
    people = [f"Student, people ({rows[0]['people']})"] if known else []
    table = markdown(["comparison", "difference", "measure", "mean", "bootstrap", "Student", *people, "p"], lines)
    return "\n\n".join([table] * bool(lines) + [f"There is none in {', '.join(equal)}."] * bool(equal))


def _probability(text: str) -> str:
    """A p value for people; a small one is not shown as zero."""
    return "below 0.001" if text and float(text) < 0.001 else rounded(text, 3)


def _interval(row: Mapping[str, str], kind: str) -> str:
    """An interval of a row of differences, a dash where it is not defined."""
    return f"{rounded(row[f'{kind}_low'])} to {rounded(row[f'{kind}_high'])}" if row.get(f"{kind}_low") else "-"


def name_markdown(study: Study, folder: Path) -> str:
    """The first measure by what the seeds are repeated with, of equal steps; empty for a study without that."""
    if not (folder / BY_NAME).is_file():
        return ""
    measure = study.measures[0]
    rows = [row for row in read_rows(folder / BY_NAME) if row["measure"] == measure.name]
    rows = [row for row in rows if row["comparison"] == rows[0]["comparison"]]
    names = list(dict.fromkeys(row["with"] for row in rows))
    lines = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["with"]: row for row in rows if row["system"] == system}
        cells = [
            f"{rounded(own[n]['mean'])} ± {rounded(own[n]['spread'])} ({own[n]['runs']})" if n in own else "-"
            for n in names
        ]
        lines.append([study.system(system).label, *cells])
    return markdown([measure.label, *(f"{name} (runs)" for name in names)], lines)


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


def sentences_of_differences(study: Study, folder: Path, systems: Sequence[str] = (), measure_name: str = "") -> str:
    """What a study says of its systems, or of some, and their baselines by a measure, the first one if none is named, a
    sentence of a list for each, with Student's interval: a system is called better or worse only where that leaves out
    0."""
    measure = next(measure for measure in study.measures if measure_name in ("", measure.name))
    sign = 1 if measure.better == "higher" else -1
    name, _, unit = measure.label.rpartition(", ") if ", " in measure.label else (measure.label, "", "")
    what = f"{unit} {name}".strip()
    lines: list[str] = []
    chosen = [
        row for row in read_rows(folder / DIFFERENCES)
        if row["measure"] == measure.name and (not systems or row["system"] in systems)
    ]  # fmt: skip
    told: dict[tuple[str, ...], list[str]] = {}
    for row in chosen:  # runs that count for equal steps and for equal time are told once
        told.setdefault(tuple(value for key, value in row.items() if key != "comparison"), []).append(row["comparison"])
    for row in chosen:
        comparisons = told[tuple(value for key, value in row.items() if key != "comparison")]
        if row["comparison"] != comparisons[0]:
            continue
        names = f"{study.system(row['system']).label} minus {study.system(row['baseline']).label}"
        names += f", {' and '.join(comparisons)}"
        value, interval = rounded(row["difference"]), f"{rounded(row['student_low'])} to {rounded(row['student_high'])}"
        if not row["student_low"]:
            said = "one run, which tells nothing of others"
        elif float(row["student_low"]) <= 0 <= float(row["student_high"]):
            said = f"95 % interval {interval}, which does not tell which is better"
        else:
            better = sign * float(row["difference"]) > 0
            sure = float(row["holm_p"]) < 0.05
            said = f"95 % interval {interval}: {'better' if better else 'worse'}" + (
                "" if sure else ", but not surely so among several comparisons"
            )
        lines.append(f"- {names}: {value} {what}, {said}.")
    return "\n".join(lines)


def costs_markdown(study: Study, folder: Path) -> str:
    """What each system costs beside what it reaches: the first measure after equal steps, "-" before that is known;
    time at each length; tokens per second of computing and the peak of memory at the longest; empty without
    ``costs.csv``."""
    if not (folder / COSTS).is_file():
        return ""
    rows = read_rows(folder / COSTS)
    summary = read_rows(folder / SUMMARY) if (folder / SUMMARY).is_file() else []
    measure, lengths = study.measures[0], sorted({float(row["length"]) for row in rows})
    lines = []
    for system in study.systems:
        reached = [row for row in summary if (row["system"], row["measure"]) == (system.name, measure.name)]
        cells = [f"{rounded(reached[0]['mean'])} ± {rounded(reached[0]['spread'])}" if reached else "-"]
        for length in lengths:
            both = [_cost(rows, system.name, which, length) for which in ("inference", "training step")]
            cells.append(" / ".join(f"{float(row['seconds']):.2g}" if row else "-" for row in both))
        last = _cost(rows, system.name, "inference", lengths[-1])
        rate = float(last["tokens"]) / float(last["seconds"]) if last else math.nan
        cells += [f"{rate:.0f}" if math.isfinite(rate) else "-"]
        peaks = [_cost(rows, system.name, which, lengths[-1]) for which in ("inference", "training step")]
        cells.append(" / ".join(f"{float(row['peak_mb']):.3g}" if row else "-" for row in peaks))
        lines.append([system.label, *cells])
    longest = f"{lengths[-1]:g} s"
    header = ["system", measure.label, *(f"{length:g} s of speech, s" for length in lengths),
              f"tokens per second, {longest}", f"peak at {longest}, MB"]  # fmt: skip
    return markdown(header, lines)


def _cost(rows: Rows, system: str, which: str, length: float) -> dict[str, str] | None:
    """The row of a measurement, None if it was not made or failed."""
    found = [
        row for row in rows
        if (row["system"], row["pass"], float(row["length"])) == (system, which, length) and row["status"] == "done"
    ]  # fmt: skip
    return found[0] if found else None

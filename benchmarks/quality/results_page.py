"""RESULTS.md: a text with places for tables and numbers, which are filled in from published CSV files.

A place is ``{{KIND WORDS}}``:

- ``{{study NAME}}``: tables, figure, machine and command of a study, or that it has not been run;
- ``{{differences NAME SYSTEM ... measure=MEASURE ...}}``: what a study says of each system, or of some, and its
  baseline, by its first measure or by others, as sentences of a list;
- ``{{value FILE COLUMN KEY=VALUE ...}}``: a number of the one row of a CSV file in which the columns have the values;
- ``{{threshold FILE KEY=VALUE ...}}``: the one threshold of an efficiency map in whose row the columns have the values;
- ``{{thresholds FILE KEY=VALUE ...}}``: thresholds of an efficiency map as a table;
- ``{{brackets FILE KEY=VALUE ...}}``: the measured lengths between which the times of a map cross, as a table;
- ``{{law FILE}}``: what a map says of the law of token resolution, as sentences of a list;
- ``{{csv FILE}}``: all of a CSV file as a table, or that it is not there;
- ``{{figure FILE ALT}}``: a picture, nothing if it is not there;
- ``{{machine FILE}}``: the machine and the dates of the rows of a CSV file, nothing if it is not there;
- ``{{text FILE}}``: a Markdown file that another command makes, or that it is not there.

``{{if FILE}} ... {{else}} ... {{end}}`` has its first text only if the file is there, so that nothing is said without
its evidence. Files are relative to the folder of the results. Values with blanks are quoted.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from quality.figures import FIGURE
from quality.machine import MACHINE
from quality.map_tables import brackets_markdown, law_sentences, threshold_words, thresholds_markdown
from quality.publishing import RUNS, TRIALS
from quality.study_file import Study, find_study, read_study
from quality.tables import (
    COSTS,
    DIFFERENCES,
    SUMMARY,
    costs_markdown,
    differences_markdown,
    length_markdown,
    markdown,
    name_markdown,
    read_rows,
    rounded,
    sentences_of_differences,
    summary_markdown,
)

NOT_YET = "Not measured yet."
_PLACE = re.compile(r"\{\{(\w+) ([^{}]*)\}\}")
_BLOCK = re.compile(r"\{\{if (\S+)\}\}\n?(.*?)(?:\{\{else\}\}\n?(.*?))?\{\{end\}\}\n?", re.DOTALL)


def fill_page(template: str, folder: Path, link: str) -> str:
    """Fill in a text.

    Arguments
    ---------
    template : str
        The text with its places.
    folder : Path
        The folder of the published results.
    link : str
        The path to it in links of the page.

    Returns
    -------
    str
        The page.

    Raises
    ------
    ValueError
        When a place is of no known kind, or names a number that is not there.
    """

    def fill(match: re.Match[str]) -> str:
        kind, words = match[1], shlex.split(match[2])
        if kind not in _KINDS or not words:
            raise ValueError(f"The place {match[0]} is not one of {', '.join(_KINDS)} with its words.")
        return _KINDS[kind](folder, link, words)

    def choose(match: re.Match[str]) -> str:
        return match[2] if (folder / match[1]).is_file() else match[3] or ""

    chosen = _BLOCK.sub(choose, template)
    if stray := re.search(r"\{\{(if|else|end)\b", chosen):
        raise ValueError(
            f"The template has {{{{{stray[1]}}}}} without what belongs to it: write {{{{if FILE}}}} ... {{{{end}}}}."
        )
    return _PLACE.sub(fill, chosen)


def _study(folder: Path, link: str, words: list[str]) -> str:
    (name,) = words
    study, own = read_study(find_study(name), Path("OUT")), folder / name
    command = command_of(study)
    if not (own / SUMMARY).is_file():
        costs = costs_markdown(study, own)
        measured = f"\n\n{_COSTS}\n\n{costs}\n\n{_made(own / COSTS)} " if costs else " "
        return f"{study.question} {NOT_YET}{measured}{command}"
    parts = [study.question, summary_markdown(study, own), _trainings(study, own)]
    if table := costs_markdown(study, own):
        parts += [_COSTS, table, _made(own / COSTS)]
    if table := name_markdown(study, own):
        parts += ["By what seeds are repeated with, equal steps:", table]
    if (own / DIFFERENCES).is_file():
        parts += [
            "Differences, paired over test items and runs, with 95 % intervals:",
            differences_markdown(study, own),
        ]
    parts += ["By length, equal steps:", length_markdown(study, own)]
    if study.notes:
        parts.append("\n".join(f"- {note}" for note in study.notes))
    if (own / FIGURE).is_file():
        parts.append(f"![{study.title}]({link}/{name}/{FIGURE})")
    parts.append(f"Tables: [{SUMMARY}]({link}/{name}/{SUMMARY}) and others beside it. {_machine(own)} {command}")
    return "\n\n".join(parts)


def command_of(study: Study) -> str:
    """The command of a study, with the folders of its data."""
    folders = " ".join(f"{name}={path}" for name, path in study.folders.items())
    given = f" --folder {folders}" if folders else ""
    return (
        f"Command:\n\n```bash\npython benchmarks/study.py {study.name} --out results/studies/{study.name}{given}\n```"
    )


_COSTS = (
    "What the systems cost on one thread of a CPU, in processor time, float32 and batch 1, with random weights "
    "(inference / training step), beside what they reach:"
)


def _trainings(study: Study, own: Path) -> str:
    """What a reader has to know of the trainings: which settings were chosen, and what failed."""
    summary = read_rows(own / SUMMARY)
    settings = dict.fromkeys((row["system"], row["settings"]) for row in summary if row["settings"])
    sentences = []
    if settings:
        chosen = "; ".join(f"{system}: {values.replace('=', ' ')}" for system, values in settings)
        sentences.append(f"Chosen by the trials, on validation data: {chosen}.")
        sentences += _edges(study, own, settings)
    failed = [row for row in read_rows(own / RUNS) if row["status"] == "failed"]
    if failed:
        sentences.append(f"Trainings that failed: {', '.join(row['system'] + ' ' + row['seed'] for row in failed)}.")
    clocks = " or ".join(dict.fromkeys(row["clock"] for row in summary if row["clock"]))
    if clocks:
        sentences.append(f"Minutes are {clocks} of a training with its validations.")
    items = " or ".join(dict.fromkeys(row["items"] for row in summary))
    sentences.append(f"Test items: {items}.")
    labels = {measure.name: measure.label for measure in study.measures}
    for row in summary:
        if row.get("without", "0") != "0":
            sentences.append(
                f"{study.system(row['system']).label} has no {labels[row['measure']]} for {row['without']} items of "
                f"its runs ({row['comparison']}), which are left out for all systems."
            )
    return " ".join(sentences)


def _edges(study: Study, own: Path, settings: Iterable[tuple[str, str]]) -> list[str]:
    """Which systems chose the lowest or the highest learning rate tried, so that a better one may lie beyond."""
    path = own / TRIALS
    tried = {float(row["lr"]) for row in read_rows(path) if row.get("lr")} if path.is_file() else set()
    if len(tried) < 2:
        return []
    chosen = {system: dict(part.split("=") for part in values.split()).get("lr", "nan") for system, values in settings}
    sentences = []
    for end, which, beyond in ((min(tried), "lowest", "lower"), (max(tried), "highest", "higher")):
        suited = ", ".join(study.system(name).label for name, value in chosen.items() if float(value) == end)
        if suited:
            sentences.append(f"{suited} chose the {which} of the rates tried, {end:g}: a {beyond} one may be better.")
    return sentences


def _differences(folder: Path, link: str, words: list[str]) -> str:
    name, *rest = words
    study, own = read_study(find_study(name), Path("OUT")), folder / name
    measures = [word.removeprefix("measure=") for word in rest if word.startswith("measure=")]
    systems = [word for word in rest if not word.startswith("measure=")]
    if unknown := set(systems) - {system.name for system in study.systems}:
        raise ValueError(f"The study {name} has no system {', '.join(sorted(unknown))}.")
    if unknown := set(measures) - {measure.name for measure in study.measures}:
        raise ValueError(f"The study {name} has no measure {', '.join(sorted(unknown))}.")
    if not (own / DIFFERENCES).is_file():
        return NOT_YET
    return "\n".join(sentences_of_differences(study, own, systems, measure) for measure in measures or [""])


def _thresholds(folder: Path, link: str, words: list[str]) -> str:
    rows = _rows_with(folder, *words)
    return thresholds_markdown(rows) if rows else NOT_YET


def _brackets(folder: Path, link: str, words: list[str]) -> str:
    rows = _rows_with(folder, *words)
    return brackets_markdown(rows) if rows else NOT_YET


def _rows_with(folder: Path, file: str, *conditions: str) -> list[dict[str, str]]:
    """The rows of a table in which columns have the values; none if there is no such file."""
    if not (folder / file).is_file():
        return []
    wanted = dict(condition.split("=", 1) for condition in conditions)
    return [row for row in read_rows(folder / file) if all(row.get(key) == value for key, value in wanted.items())]


def _law(folder: Path, link: str, words: list[str]) -> str:
    (file,) = words
    rows = read_rows(folder / file) if (folder / file).is_file() else []
    return law_sentences(rows) if rows else NOT_YET


def _figure(folder: Path, link: str, words: list[str]) -> str:
    file, *alt = words
    return f"![{' '.join(alt)}]({link}/{file})" if (folder / file).is_file() else ""


def _machine_of(folder: Path, link: str, words: list[str]) -> str:
    (file,) = words
    return _made(folder / file)


def _made(path: Path) -> str:
    if not path.is_file():
        return ""
    rows = read_rows(path)
    dates = sorted({row["date"] for row in rows})
    made = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machines, versions = (" and ".join(dict.fromkeys(row[key] for row in rows)) for key in ("machine", "torch"))
    return f"Made on {made} with {machines}; torch {versions}."


def _machine(own: Path) -> str:
    if not (own / MACHINE).is_file():
        return ""
    facts = json.loads((own / MACHINE).read_text(encoding="utf-8"))
    gpu = "" if facts["gpu"] == "none" else f", {facts['gpu']}"
    return (
        f"Made on {facts['date']} with {facts['processor']}, {facts['cores']} cores, {facts['threads']} threads a "
        f"training{gpu}, torch {facts['torch']}, speechbrain_mamba {facts['speechbrain_mamba']}."
    )


def _value(folder: Path, link: str, words: list[str]) -> str:
    file, column, *conditions = words
    row = _row_with(folder, file, *conditions)
    if column not in row:
        raise ValueError(f"'{folder / file}' has no column {column}, but {', '.join(row)}.")
    return row[column] if row[column].isdigit() else rounded(row[column])


def _threshold(folder: Path, link: str, words: list[str]) -> str:
    return threshold_words(_row_with(folder, *words))


def _row_with(folder: Path, file: str, *conditions: str) -> dict[str, str]:
    """The one row of a table in which columns have the values."""
    rows = _rows_with(folder, file, *conditions)
    if len(rows) != 1:
        raise ValueError(f"'{folder / file}' has {len(rows)} rows with {' '.join(conditions)}, but must have one.")
    return rows[0]


def _csv(folder: Path, link: str, words: list[str]) -> str:
    (file,) = words
    if not (folder / file).is_file():
        return NOT_YET
    rows = read_rows(folder / file)
    table = markdown(list(rows[0]), [[row[column] for column in row] for row in rows])
    return f"{table}\n\nTable: [{link}/{file}]({link}/{file})."


def _text(folder: Path, link: str, words: list[str]) -> str:
    (file,) = words
    path = folder / file
    return path.read_text(encoding="utf-8").strip() if path.is_file() else NOT_YET


_KINDS: dict[str, Callable[[Path, str, list[str]], str]] = {
    "study": _study, "differences": _differences, "value": _value, "threshold": _threshold, "thresholds": _thresholds,
    "brackets": _brackets, "law": _law, "csv": _csv, "figure": _figure, "machine": _machine_of, "text": _text,
}  # fmt: skip

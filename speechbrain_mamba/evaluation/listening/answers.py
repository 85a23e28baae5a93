"""What the answers of a listening test say: mean comparisons with their intervals, and preferences."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechbrain_mamba.evaluation.listening.page import CHOICES, KEY
from speechbrain_mamba.evaluation.listening.plan import Trial

COLUMNS = ("page", "sheet", "listener", "trial", "answer")


@dataclass(frozen=True)
class Answer:
    """An answer of a listener.

    Arguments
    ---------
    listener : str
        Who, by the file of the answers: the sheet, and the name on it.
    trial : Trial
        What was compared.
    value : int
        The second sound against the first.
    """

    listener: str
    trial: Trial
    value: int


def read_key(folder: str | os.PathLike) -> dict[str, Any]:
    """Read which sound is whose: ``page``, ``kind``, ``subject``, ``systems`` and ``sheets``.

    Raises a FileNotFoundError when the folder is not that of a listening test.
    """
    path = Path(folder) / KEY
    if not path.is_file():
        raise FileNotFoundError(f"'{folder}' has no {KEY}: give the folder of the listening test.")
    return json.loads(path.read_text(encoding="utf-8"))


def read_answers(folder: str | os.PathLike, files: Iterable[str | os.PathLike]) -> list[Answer]:
    """Read the files that listeners have sent.

    Arguments
    ---------
    folder : str or Path
        The folder of :func:`~speechbrain_mamba.evaluation.listening.page.write_pages`, with ``key.json``.
    files : iterable of str or Path
        The files. The same file twice counts once.

    Raises
    ------
    FileNotFoundError, ValueError
        When the key is missing; when a file is not one of answers, belongs to another test, or has an answer that the
        page does not offer; when two files answer the same sheet as the same listener, but not alike.
    """
    key = read_key(folder)
    plan = {sheet: [Trial(**trial) for trial in trials] for sheet, trials in key["sheets"].items()}
    allowed = {value for value, _ in CHOICES[key["kind"]]}
    found: dict[tuple[str, str, int], Answer] = {}
    for file in files:
        for number, row in enumerate(_rows(Path(file)), 2):
            place = f"Line {number} of '{file}'"
            if row["page"] != key["page"]:
                raise ValueError(f"{place} is of the test '{row['page']}', not of '{key['page']}': leave the file out.")
            trials = plan.get(row["sheet"], [])
            if not row["trial"].isdigit() or not 1 <= int(row["trial"]) <= len(trials):
                raise ValueError(f"{place} answers trial {row['trial']} of sheet {row['sheet']}, which there is not.")
            if row["answer"] not in allowed:
                raise ValueError(f"{place} has the answer '{row['answer']}', but the page offers {_listed(allowed)}.")
            listener = f"{row['sheet']} {row['listener'].strip()}"
            answer = Answer(listener, trials[int(row["trial"]) - 1], int(row["answer"]))
            before = found.setdefault((row["sheet"], listener, int(row["trial"])), answer)
            if before != answer:
                raise ValueError(
                    f"{place} has another answer of the same listener to the same trial than a file before: keep one."
                )
    return list(found.values())


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except (UnicodeDecodeError, csv.Error):
        rows = [{}]
    if any(None in row or set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise ValueError(f"'{file}' is not a file of answers: it must be a CSV file with {', '.join(COLUMNS)}.")
    return rows


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values, key=int))


def inattentive(answers: Sequence[Answer], tolerance: int = 1) -> list[str]:
    """Listeners who told the same sound from itself by more than a step, in most of their checks.

    Example
    -------
    >>> check, trial = Trial("a", "x", "x"), Trial("a", "x", "y")
    >>> inattentive([Answer("anna", check, 3), Answer("anna", trial, 1), Answer("ben", check, 1)])
    ['anna']
    """
    checks: dict[str, list[bool]] = {}
    for answer in answers:
        if answer.trial.is_check:
            checks.setdefault(answer.listener, []).append(abs(answer.value) > tolerance)
    return [listener for listener, failed in checks.items() if 2 * sum(failed) > len(failed)]


def compare_systems(
    answers: Sequence[Answer], systems: Sequence[str] = (), draws: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Summarize the answers by pair of systems.

    The interval is that of a bootstrap over listeners and over items at the same time, since answers of one listener,
    and answers to one text, resemble each other.

    Arguments
    ---------
    answers : sequence of Answer
        The answers; checks are left out.
    systems : sequence of str
        Which system of a pair is compared with which: with the one that stands earlier here, or is earlier in the
        alphabet.
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    list of dict
        For each pair ``system`` and ``baseline``; the numbers of ``answers``, ``listeners`` and ``items``; ``mean``,
        the mean value of the system against the baseline (the CMOS), with ``low`` and ``high`` of its 95 % interval;
        and how often the system and the baseline were preferred, and none, in percent.

    Example
    -------
    >>> trials = [Trial(str(i), "old", "new") for i in range(4)]
    >>> (row,) = compare_systems([Answer("anna", trial, 2) for trial in trials], ["old", "new"])
    >>> row["system"], row["mean"], row["low"], row["system_preferred"]
    ('new', 2.0, 2.0, 100.0)
    """
    order = {name: place for place, name in enumerate(systems)}
    pairs: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for answer in answers:
        trial = answer.trial
        if trial.is_check:
            continue
        baseline, system = sorted((trial.first, trial.second), key=lambda name: (order.get(name, len(order)), name))
        value = answer.value if trial.second == system else -answer.value
        pairs.setdefault((baseline, system), []).append((answer.listener, trial.item, value))
    return [
        {"system": system, "baseline": baseline, **_summarize(found, draws, seed)}
        for (baseline, system), found in pairs.items()
    ]


def _summarize(found: Sequence[tuple[str, str, int]], draws: int, seed: int) -> Mapping[str, Any]:
    listeners, items, values = (np.array(column) for column in zip(*found))
    who, who_index = np.unique(listeners, return_inverse=True)
    what, what_index = np.unique(items, return_inverse=True)
    source, means = np.random.default_rng(seed), []
    for _ in range(draws):
        times = np.bincount(source.integers(len(who), size=len(who)), minlength=len(who))[who_index]
        times = times * np.bincount(source.integers(len(what), size=len(what)), minlength=len(what))[what_index]
        if times.sum():  # listeners may have other items than those drawn
            means.append((times * values).sum() / times.sum())
    low, high = np.quantile(means, [0.025, 0.975]) if means else (np.nan, np.nan)
    return {
        "answers": len(values), "listeners": len(who), "items": len(what), "mean": float(values.mean()),
        "low": float(low), "high": float(high), "system_preferred": float(100 * (values > 0).mean()),
        "baseline_preferred": float(100 * (values < 0).mean()), "no_preference": float(100 * (values == 0).mean()),
    }  # fmt: skip

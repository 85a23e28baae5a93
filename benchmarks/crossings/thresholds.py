"""The thresholds of a map, and the law of token resolution."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

from crossings.catalog import COMPARISONS, PASSES, Comparison
from crossings.cell import DONE
from crossings.cost_fits import Threshold, bracket, threshold
from crossings.schedule import Series, series_of

MEASURES = {"time": "seconds", "kept for backward": "saved_mb", "peak memory": "peak_mb"}
"""What is compared, and its column."""
COLUMNS = ["task", "comparison", "mamba", "baseline", "attention", "pass", "measure", "token_ms", "unit", "threshold",
           "low", "high", "tokens", "longest_dearer", "next_cheaper", "lengths", "shortest", "longest"]  # fmt: skip
LAW_COLUMNS = ["task", "comparison", "attention", "pass", "measure", "points", "slope", "low", "high"]


class Found(NamedTuple):
    """A threshold of a map."""

    comparison: Comparison
    passed: str
    measure: str
    threshold: Threshold
    row: dict[str, Any]
    """A line of the table."""


def costs_of(rows: Iterable[Mapping[str, Any]], column: str) -> dict[Series, dict[float, list[float]]]:
    """Measured values of a column by series and length."""
    found: dict[Series, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["status"] == DONE and row[column] not in ("", None) and float(row[column]) > 0:
            found[series_of(row)][float(row["length"])].append(float(row[column]))
    return found


def find_thresholds(rows: Sequence[Mapping[str, Any]], draws: int = 200) -> Iterator[Found]:
    """The thresholds of all comparisons that have been measured at 4 lengths at least."""
    for measure, column in MEASURES.items():
        costs = costs_of(rows, column)
        for task, comparisons in COMPARISONS.items():
            for comparison in comparisons():
                for which in PASSES:
                    both = [costs.get((*s.key, which), {}) for s in (comparison.mamba, comparison.baseline)]
                    common = sorted(set(both[0]) & set(both[1]))
                    if len(common) >= 4:
                        found = threshold(*both, comparison.mamba.linear, draws)
                        row = _row(task, comparison, which, measure, found, both, common)
                        yield Found(comparison, which, measure, found, row)


def _row(
    task: str,
    comparison: Comparison,
    which: str,
    measure: str,
    found: Threshold,
    both: Sequence[Mapping[float, Sequence[float]]],
    common: Sequence[float],
) -> dict[str, Any]:
    """A line of the table of thresholds."""
    token_ms = comparison.mamba.token_ms
    dearer, cheaper = bracket(*both)
    return {
        "task": task, "comparison": comparison.label, "mamba": comparison.mamba.label,
        "baseline": comparison.baseline.label, "attention": comparison.baseline.form, "pass": which,
        "measure": measure, "token_ms": token_ms, "unit": "s" if token_ms else "tokens",
        "threshold": found.length, "low": found.low, "high": found.high,
        "tokens": 1000 * found.length / token_ms if token_ms else found.length,
        "longest_dearer": dearer, "next_cheaper": cheaper, "lengths": len(common), "shortest": common[0],
        "longest": common[-1],
    }  # fmt: skip


def describe(row: Mapping[str, Any]) -> str:
    """Say a threshold in words, given its line of the table.

    A fit is not believed beyond the measured lengths by more than a factor of 2, nor against the measurements.

    Example
    -------
    >>> row = dict(threshold=8.2, low=7.9, high=8.8, shortest=0.5, longest=32.0, unit="s", token_ms=40.0, tokens=205.0,
    ...            longest_dearer=8.0, next_cheaper=11.3)
    >>> describe(row)
    '8.2 s (7.9 to 8.8), 205 tokens'
    >>> describe(row | dict(threshold=0.0, low=0.0, high=0.0, longest_dearer=0.0))
    'none: Mamba is cheaper at all lengths from 0.5 s'
    >>> describe(row | dict(threshold=0.0, low=0.0, high=0.0))
    'unclear: by the fit Mamba is cheaper from 0.5 s, but at 8 s it was not'
    """
    unit, value, low, high = row["unit"], row["threshold"], row["low"], row["high"]
    if value < row["shortest"] / 2:
        shortest, dearer = f"{_short(row['shortest'])} {unit}", row["longest_dearer"]
        if dearer > 0:
            return f"unclear: by the fit Mamba is cheaper from {shortest}, but at {_short(dearer)} {unit} it was not"
        sure = high < row["shortest"]
        return f"none: Mamba is cheaper at all lengths from {shortest}" + ("" if sure else ", by the fit")
    if value > 2 * row["longest"]:
        longest, cheaper = f"{_short(row['longest'])} {unit}", row["next_cheaper"]
        if math.isfinite(cheaper):
            return f"unclear: by the fit Mamba is not cheaper up to {longest}, but at {_short(cheaper)} {unit} it was"
        return f"none up to {longest}: Mamba is not cheaper"
    interval = f"({_short(low)} to {_short(high)})"
    words = f"{_short(value)} {unit} {interval}"
    return words + (f", {_short(row['tokens'])} tokens" if row["token_ms"] else "")


def _short(value: float) -> str:
    return "no crossing" if math.isinf(value) else f"{value:.3g}"


class Law(NamedTuple):
    """The slope of the log threshold over the log token duration; 1 is a constant number of tokens."""

    slope: float
    low: float
    high: float
    points: int


def law_of(thresholds: Sequence[Found]) -> Law | None:
    """The law within one pair of systems at several token durations; its interval is that of the bootstrap.

    Draws without a crossing are left out. Returns None for fewer than 3 token durations with a crossing.
    """
    inside = [found for found in thresholds if 0 < found.threshold.length < math.inf]
    if len({found.comparison.mamba.token_ms for found in inside}) < 3:
        return None
    x = np.log([found.comparison.mamba.token_ms for found in inside])

    def slope(values: np.ndarray) -> float:
        return float(np.polyfit(x, np.log(values), 1)[0])

    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        values = np.array([generator.choice(found.threshold.draws) for found in inside])
        if np.isfinite(values).all() and (values > 0).all():
            drawn.append(slope(values))
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (math.nan, math.nan)
    return Law(slope(np.array([found.threshold.length for found in inside])), float(low), float(high), len(inside))


def law_of_points(token_ms: Sequence[float], lengths: Sequence[float]) -> Law:
    """The law over different systems, each with its own number of tokens: least squares, and Student's interval of the
    slope, which holds how much the systems differ.

    Example
    -------
    >>> law = law_of_points([1, 2, 40], [0.2, 0.4, 8.0])
    >>> round(law.slope, 3), law.points
    (1.0, 3)
    """
    fit = linregress(np.log(token_ms), np.log(lengths))
    wide = float(student.ppf(0.975, len(lengths) - 2)) * float(fit.stderr)
    return Law(float(fit.slope), float(fit.slope) - wide, float(fit.slope) + wide, len(lengths))


def find_laws(found: Sequence[Found]) -> list[dict[str, Any]]:
    """The law of each pair of systems that was measured at several token durations, and over all such pairs."""
    pairs: dict[tuple, list[Found]] = defaultdict(list)
    for one in found:
        if one.comparison.mamba.token_ms:
            row = one.row
            pairs[row["task"], row["comparison"], row["attention"], one.passed, one.measure].append(one)
    rows, whole = [], defaultdict(list)
    for (task, comparison, form, which, measure), own in pairs.items():
        law = law_of(own)
        if law is not None:
            rows.append(_law_row(task, comparison, form, which, measure, law))
            whole[form, which, measure] += [one for one in own if 0 < one.threshold.length < math.inf]
    for (form, which, measure), points in whole.items():
        if len({one.row["task"] for one in points}) > 1:
            law = law_of_points(
                [one.comparison.mamba.token_ms for one in points], [one.threshold.length for one in points]
            )
            rows.append(_law_row("all", "all of these", form, which, measure, law))
    return rows


def _law_row(task: str, comparison: str, form: str, which: str, measure: str, law: Law) -> dict[str, Any]:
    return {"task": task, "comparison": comparison, "attention": form, "pass": which, "measure": measure,
            "points": law.points, "slope": law.slope, "low": law.low, "high": law.high}  # fmt: skip

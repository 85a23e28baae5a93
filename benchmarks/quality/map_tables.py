"""The thresholds and laws of an efficiency map as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from crossings.catalog import PASSES
from crossings.schedule import length_at, step_near
from crossings.thresholds import describe
from quality.tables import markdown

Row = Mapping[str, str]

TIME, MEMORY = "time", ("peak memory", "kept for backward")


def thresholds_markdown(rows: Sequence[Row]) -> str:
    """A table with a line for each comparison and token duration: its thresholds in time and in memory, of inference
    and of a training step.

    Arguments
    ---------
    rows : sequence of mapping
        Rows of ``thresholds_DEVICE.csv``.

    Returns
    -------
    str
        The table in Markdown.
    """
    columns = [(which, measure) for measure in (TIME, *MEMORY) for which in ("inference", "training step")]
    columns = [column for column in columns if any((row["pass"], row["measure"]) == column for row in rows)]
    in_time = any(float(row["token_ms"]) for row in rows)
    lines = []
    for key in dict.fromkeys((row["comparison"], row["token_ms"]) for row in rows):
        own = {(row["pass"], row["measure"]): row for row in rows if (row["comparison"], row["token_ms"]) == key}
        token = [f"{float(key[1]):.3g} ms"] if in_time else []
        lines.append([key[0], *token, *(threshold_words(own[c]) if c in own else "-" for c in columns)])
    header = ["comparison", *(["token"] if in_time else []), *(f"{measure}, {which}" for which, measure in columns)]
    return markdown(header, lines)


def threshold_words(row: Row) -> str:
    """What a row of ``thresholds_DEVICE.csv`` says."""
    return describe(_numbers(row))


def brackets_markdown(rows: Sequence[Row]) -> str:
    """A table with a line for each comparison and token duration: the two measured lengths between which Mamba becomes
    faster, without a fit, or the longest at which it was not.

    On a GPU a short call takes as long as its launches, which vary, and no sum of powers of the length fits that. The
    rows are those that :func:`thresholds_markdown` takes.
    """
    rows = [row for row in rows if row["measure"] == TIME]
    passes = [which for which in PASSES if any(row["pass"] == which for row in rows)]
    lines = []
    for key in dict.fromkeys((row["comparison"], row["token_ms"], row["unit"]) for row in rows):
        own = {row["pass"]: row for row in rows if (row["comparison"], row["token_ms"], row["unit"]) == key}
        token = f"{float(key[1]):.3g} ms" if float(key[1]) else "-"
        lines.append([key[0], token, *(_bracket(own[which]) if which in own else "-" for which in passes)])
    return markdown(["comparison", "token", *passes], lines)


def _bracket(row: Row) -> str:
    """Between which measured lengths Mamba becomes faster, in words."""
    dearer, cheaper, unit = float(row["longest_dearer"]), float(row["next_cheaper"]), row["unit"]
    if math.isinf(cheaper):
        return f"not up to {_length(float(row['longest']))} {unit}"
    if not dearer:
        return f"at all lengths from {_length(cheaper)} {unit}"
    return f"between {_length(dearer)} and {_length(cheaper)} {unit}"


def _length(value: float) -> str:
    """A length of the grid, of which the table has four digits."""
    exact = length_at(step_near(value))
    return f"{exact:.0f}" if exact >= 100 else f"{exact:.3g}"


def law_sentences(rows: Sequence[Row]) -> str:
    """What the rows of ``token_law_DEVICE.csv`` say of time, a sentence of a list for each, and whether that agrees
    with a constant number of tokens."""
    lines = []
    for row in rows:
        if row["measure"] != TIME:
            continue
        slope, low, high = (float(row[key]) for key in ("slope", "low", "high"))
        if not (math.isfinite(low) and math.isfinite(high)):
            said = "no interval"
        else:
            agrees = "agrees" if low <= 1 <= high else "does not agree"
            verdict = "is too wide to tell" if low <= 0 and high >= 1 else f"{agrees} with a slope of 1"
            said = f"95 % interval {low:.2f} to {high:.2f}, which {verdict}"
        what = "all pairs of systems" if row["task"] == "all" else row["comparison"]
        form = f", {row['attention']}"
        pair = what.removesuffix(form) + form
        lines.append(f"- {pair}, {row['pass']}: slope {slope:.2f} over {row['points']} thresholds, {said}.")
    return "\n".join(lines)


def _numbers(row: Row) -> dict[str, object]:
    """A row of a table with its numbers."""
    keys = ("threshold", "low", "high", "tokens", "token_ms", "shortest", "longest", "longest_dearer", "next_cheaper")
    return {**row, **{key: float(row[key]) for key in keys}}

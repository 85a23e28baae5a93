"""Which cells of the map are measured next: decided from the rows that are there, so that any run can be resumed.

Lengths are powers of the square root of 2. First each system is measured at lengths 4 times apart, until a call takes
too long; then close to where the costs cross; then from an eighth to 8 times that, in factors of 2, and close by in
factors of the square root; last, what is close to a crossing is measured again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from crossings.catalog import PASSES, Comparison, System, systems_of
from crossings.cell import DONE, Cell, Limits
from crossings.cost_fits import crossing, fit_cost

SHORTEST, LONGEST = 16, 2**16
"""Tokens of the shortest and of the longest input."""
COARSE = 4
"""Half powers of 2 between the first lengths of a system."""
NEAR, WIDE = 2, 6
"""Half powers of 2 around a crossing that are measured, close by and at all."""

Series = tuple[str, str, float, str]
"""Label, form and token duration of a system, and the pass."""


def length_at(step: int) -> float:
    """A length of the grid.

    Example
    -------
    >>> length_at(4), length_at(-2)
    (4.0, 0.5)
    """
    return float(f"{2.0 ** (step / 2):.6g}")  # with the digits of the table, so that it is found there


def step_near(length: float) -> int:
    """The step of the grid that is nearest to a length."""
    return round(2 * math.log2(length))


def tokens(system: System, length: float) -> float:
    """Tokens of a length in seconds, or in tokens for a layer; without the phonemes of synthesis."""
    return 1000 * length / system.token_ms if system.token_ms else length


def series_of(row: Mapping[str, Any]) -> Series:
    """The series that a row of the results belongs to."""
    return row["system"], row["attention"], float(row["token_ms"]), row["pass"]


class Progress:
    """What has been measured.

    Arguments
    ---------
    rows : iterable of mapping
        Rows of the results.
    limits : Limits
        What a call may take.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], limits: Limits) -> None:
        self.limits = limits
        self.counts: dict[tuple[Series, float], int] = defaultdict(int)
        self.costs: dict[Series, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.ends: dict[Series, float] = defaultdict(lambda: math.inf)
        for row in rows:
            series, length = series_of(row), float(row["length"])
            self.counts[series, length] += 1
            if row["status"] == DONE:
                self.costs[series][length].append(float(row["seconds"]))
            else:
                self.ends[series] = min(self.ends[series], length)

    def admits(self, series: Series, length: float) -> bool:
        """Whether a call over a length can be expected to take no longer than it may, at best."""
        if length >= self.ends[series]:
            return False
        shorter = [t for t in self.costs[series] if t < length]
        if not shorter:
            return True
        last = max(shorter)
        growth = length / last if len(shorter) > 1 else 1.0
        return min(self.costs[series][last]) * growth <= self.limits.call

    def crossing(self, comparison: Comparison, which: str) -> float | None:
        """The crossing of the fits so far; None if there are too few lengths for them."""
        mamba, baseline = (self.costs[(*system.key, which)] for system in (comparison.mamba, comparison.baseline))
        if min(len(mamba), len(baseline)) < 3:
            return None

        def points(costs: Mapping[float, Sequence[float]]) -> tuple[list[float], list[float]]:
            return [t for t in costs for _ in costs[t]], [cost for t in costs for cost in costs[t]]

        linear = comparison.mamba.linear
        return crossing(fit_cost(*points(mamba), not linear), fit_cost(*points(baseline), True))


def stages(comparisons: Sequence[Comparison], progress: Progress, repeats: int) -> Iterator[list[Cell]]:
    """Cells to measure in order of importance, in lists that may be decided now; those measured already included as
    often as they are wanted."""
    by_priority = sorted({c.priority for c in comparisons})
    groups = [[c for c in comparisons if c.priority == p] for p in by_priority]
    for group in groups:
        yield list(_coarse(group))
        yield list(_around(group, progress, NEAR, 1))
    for group in groups:
        yield list(_around(group, progress, WIDE, 2))
    for time in range(2, repeats + 1):
        for group in groups:
            yield [cell for cell in _around(group, progress, NEAR, 1) for _ in range(time)]


def due(
    comparisons: Sequence[Comparison], rows: Iterable[Mapping[str, Any]], limits: Limits, repeats: int
) -> list[Cell]:
    """The cells to measure next: those of one system, shorter ones first; none if all is done.

    Arguments
    ---------
    comparisons : sequence of Comparison
        What is compared.
    rows : iterable of mapping
        Rows of the results so far.
    limits : Limits
        What a call may take.
    repeats : int
        How often what is close to a crossing is measured.

    Returns
    -------
    list of Cell
        Cells of one system and pass.
    """
    progress = Progress(rows, limits)
    for stage in stages(comparisons, progress, repeats):
        wanted: dict[tuple[Series, float], int] = defaultdict(int)
        missing = []
        for cell in stage:
            series = (*cell.system.key, cell.passed)
            wanted[series, cell.length] += 1
            is_new = wanted[series, cell.length] > progress.counts[series, cell.length]
            if is_new and progress.admits(series, cell.length):
                missing.append(cell)
        if missing:
            first = missing[0]
            own = {c.length: c for c in missing if c.system.key == first.system.key and c.passed == first.passed}
            return [own[length] for length in sorted(own)]
    return []


def _coarse(comparisons: Sequence[Comparison]) -> Iterator[Cell]:
    """All systems at lengths far apart, shorter ones first, both sides of a comparison in turn."""
    systems = systems_of([*comparisons])
    steps = range(-32, 2 * int(math.log2(LONGEST)) + 1, COARSE)
    for step in steps:
        length = length_at(step)
        for system in systems:
            if SHORTEST <= tokens(system, length) <= LONGEST:
                yield from (Cell(system, which, length) for which in PASSES)


def _around(comparisons: Sequence[Comparison], progress: Progress, reach: int, stride: int) -> Iterator[Cell]:
    """Both systems of each comparison around their crossing, the nearest lengths first."""
    for offset in sorted(range(-reach, reach + 1, stride), key=abs):
        for comparison in comparisons:
            for which in PASSES:
                middle = progress.crossing(comparison, which)
                if middle is None or not 0 < middle < math.inf:
                    continue
                length = length_at(step_near(middle) + offset)
                if SHORTEST <= tokens(comparison.mamba, length) <= LONGEST:
                    yield from (Cell(s, which, length) for s in (comparison.mamba, comparison.baseline))

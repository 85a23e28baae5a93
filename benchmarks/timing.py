"""Timing that several benchmarks share: all candidates in turn, so that what else the machine does hits all alike."""

from __future__ import annotations

import csv
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def time_in_turn(
    candidates: dict[str, Callable[[], object]], rounds: int, budget: float = 0.2
) -> dict[str, list[float]]:
    """Time functions in rounds.

    Arguments
    ---------
    candidates : dict of str to callable
        Functions by name.
    rounds : int
        How often each gets its turn.
    budget : float
        Seconds that a turn may take: a fast function runs several times in it, and each run counts.

    Returns
    -------
    dict of str to list of float
        Seconds of each run.
    """
    repeats = {}
    for name, function in candidates.items():
        start = time.perf_counter()
        function()  # warms up, too
        repeats[name] = max(1, min(20, int(budget / (time.perf_counter() - start))))
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, function in candidates.items():
            for _ in range(repeats[name]):
                start = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarize(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and fastest run, in milliseconds."""
    ms = sorted(1e3 * s for s in seconds)
    low, _, high = statistics.quantiles(ms, n=4) if len(ms) > 1 else (ms[0],) * 3
    return {"median_ms": statistics.median(ms), "quartile1_ms": low, "quartile3_ms": high, "fastest_ms": ms[0]}


def write_table(rows: list[dict], path: Path | None) -> None:
    """Print rows of one kind as an aligned table, and write them as CSV where a path is given."""
    names = list(rows[0])
    cells = [names] + [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, path)

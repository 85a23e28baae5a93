"""What the test items of several systems and seeds say about their differences.

The scores of a system are a table of runs and items. A run is a seed, with one of several codecs, say, if a study
repeats its seeds with them. All systems of a comparison have the same runs and items, and run by run the same order of
the data, so that differences are taken within (item, run).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from quality.study_file import Measure

DRAWS = 10_000
"""Bootstrap samples."""


class Scores(NamedTuple):
    """A measure of one system: sums that give its mean, both (runs, items)."""

    above: np.ndarray
    """Scores of the items, or their errors in percent."""

    below: np.ndarray
    """Ones, or the tokens of the items."""

    def per_run(self) -> np.ndarray:
        """The mean of each run (runs,): of scores over items, of errors over tokens."""
        return self.above.sum(1) / self.below.sum(1)

    def shares(self) -> np.ndarray:
        """What each item adds to the mean of its run (runs, items), so that the mean over the items is that of the run:
        the scores themselves, and for a rate its linear part, which tells the items of one run apart."""
        mean = self.per_run()[:, None]
        return mean + (self.above - mean * self.below) / self.below.mean(1, keepdims=True)


class Difference(NamedTuple):
    """The difference of two systems, with a 95 % interval and how surprising it is, two-sided."""

    value: float
    low: float
    high: float
    p: float


def run_of(row: Mapping[str, str]) -> str:
    """The run of a row of items or trainings: its seed, and what this is repeated with.

    Example
    -------
    >>> run_of({"seed": "1"}), run_of({"seed": "1", "with": "bundled"})
    ('1', '1 bundled')
    """
    return f"{row['seed']} {row.get('with', '')}".strip()


def table_of(rows: Sequence[Mapping[str, str]], measure: Measure, runs: Sequence[str], items: Sequence[str]) -> Scores:
    """The scores of one system.

    Arguments
    ---------
    rows : sequence of mapping
        Rows of ``items.csv``, with ``seed``, ``item`` and the columns of the measure, and perhaps ``with``.
    measure : Measure
        What is measured.
    runs, items : sequence of str
        The order of both, runs as :func:`run_of` names them; each pair of them must have a row.

    Returns
    -------
    Scores
        Both tables (runs, items).
    """
    found = {(run_of(row), row["item"]): row for row in rows}
    cells = [[found[run, item] for item in items] for run in runs]
    if measure.errors:
        above = np.array([[100.0 * float(cell[measure.errors]) for cell in line] for line in cells])
        below = np.array([[float(cell[measure.out_of]) for cell in line] for line in cells])
    else:
        above = np.array([[float(cell[measure.name]) for cell in line] for line in cells])
        below = np.ones_like(above)
    return Scores(above, below)


def common(rows: Sequence[Mapping[str, str]], measure: Measure) -> tuple[list[str], list[str]]:
    """The runs that all systems have, and the items that have the measure in all of them."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    runs_of: dict[str, set[str]] = {}
    for row in rows:
        runs_of.setdefault(row["system"], set()).add(run_of(row))
    runs = sorted(set.intersection(*runs_of.values()), key=lambda run: (len(run), run)) if systems else []
    counts: dict[str, int] = {}
    for row in rows:
        if run_of(row) in runs and has(row, measure):
            counts[row["item"]] = counts.get(row["item"], 0) + 1
    return runs, [item for item, count in counts.items() if count == len(systems) * len(runs)]


def has(row: Mapping[str, str], measure: Measure) -> bool:
    """Whether an item has a measure."""
    return all(row.get(column) not in (None, "") for column in measure.columns)


def spread(values: np.ndarray) -> float:
    """The standard deviation of some runs' means, of a sample; NaN for a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def paired_bootstrap(ours: Scores, theirs: Scores, draws: int = DRAWS, seed: int = 0) -> Difference:
    """The difference of two systems, ours minus theirs, by a bootstrap over runs and items.

    Each sample draws runs and items with replacement, the same ones for both systems. With few runs the interval is too
    narrow: three of them have nine means at most, and too small a variance. See :func:`student_interval`.

    Arguments
    ---------
    ours, theirs : Scores
        Of the same runs and items.
    draws : int
        Number of samples.
    seed : int
        Of the samples.

    Returns
    -------
    Difference
        The difference of the means over the runs, its interval, and twice the share of the samples on the other side of
        0 or on it.

    Example
    -------
    >>> low, high = np.zeros((3, 50)), np.ones((3, 50))
    >>> paired_bootstrap(Scores(high, high), Scores(low, high)).value
    1.0
    """
    generator = np.random.default_rng(seed)
    n_runs, n_items = ours.above.shape
    runs = generator.multinomial(n_runs, np.full(n_runs, 1 / n_runs), size=draws).astype(float)
    items = generator.multinomial(n_items, np.full(n_items, 1 / n_items), size=draws).astype(float)

    def means(scores: Scores) -> np.ndarray:
        per_run = (items @ scores.above.T) / (items @ scores.below.T)  # (draws, runs)
        return (runs * per_run).sum(1) / n_runs

    sampled = means(ours) - means(theirs)
    value = float((ours.per_run() - theirs.per_run()).mean())
    low, high = np.quantile(sampled, [0.025, 0.975])
    smaller = min(float((sampled <= 0).mean()), float((sampled >= 0).mean()))
    return Difference(value, float(low), float(high), min(1.0, max(2 * smaller, 1 / draws)))


def by_group(scores: Scores, groups: Sequence[str]) -> Scores:
    """Scores with one item for each group of items: the same means, and as many random draws as there are groups.

    Example
    -------
    >>> grouped = by_group(Scores(np.array([[1.0, 2.0, 6.0]]), np.ones((1, 3))), ["a", "a", "b"])
    >>> grouped.above.tolist(), grouped.below.tolist(), grouped.per_run().tolist()
    ([[3.0, 6.0]], [[2.0, 1.0]], [3.0])
    """
    names = list(dict.fromkeys(groups))
    members = np.array([[group == name for group in groups] for name in names], dtype=float)
    return Scores(scores.above @ members.T, scores.below @ members.T)


def student_interval(ours: Scores, theirs: Scores) -> Difference:
    """The difference of two systems, ours minus theirs, as it is expected of other runs and other items.

    Runs and items are two random factors: the variance of the mean is that of the runs' differences over their number,
    plus that of the items' over theirs, minus what is in both. Student's distribution with Satterthwaite's degrees of
    freedom makes the interval as wide as so few runs leave it: with two or three runs that differ, very wide. This is
    the quasi-F of Clark (1973, The language-as-fixed-effect fallacy) with one degree of freedom above.

    Arguments
    ---------
    ours, theirs : Scores
        Of the same runs and items.

    Returns
    -------
    Difference
        The difference, its interval and p; for a single run, or a single item, NaN.

    Example
    -------
    >>> ours, ones = np.array([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]]), np.ones((3, 2))
    >>> found = student_interval(Scores(ours, ones), Scores(np.zeros((3, 2)), ones))
    >>> round(found.value, 3), bool(found.low < 0 < found.high)
    (3.0, True)
    """
    value = float((ours.per_run() - theirs.per_run()).mean())
    table = ours.shares() - theirs.shares()
    n_runs, n_items = table.shape
    if min(n_runs, n_items) < 2:
        return Difference(value, np.nan, np.nan, np.nan)
    of_runs, of_items = table.mean(1), table.mean(0)
    rest = table - of_runs[:, None] - of_items + table.mean()
    both = float((rest**2).sum()) / ((n_runs - 1) * (n_items - 1))
    squares = np.array([n_items * of_runs.var(ddof=1), n_runs * of_items.var(ddof=1), both])  # mean squares
    total = max(float(squares[0] + squares[1] - squares[2]), float(squares[0]), float(squares[1]))
    if total == 0:
        return Difference(value, value, value, 1.0 if value == 0 else 0.0)
    degrees = np.array([n_runs - 1, n_items - 1, (n_runs - 1) * (n_items - 1)])
    freedom = max(1.0, total**2 / float((squares**2 / degrees).sum()))
    error = np.sqrt(total / table.size)
    half = float(student.ppf(0.975, freedom)) * error
    return Difference(value, value - half, value + half, float(2 * student.sf(abs(value) / error, freedom)))


def holm(values: Sequence[float]) -> list[float]:
    """p values of several differences, corrected by Holm's method for that there are several.

    Example
    -------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [np.nan] * len(values), 0.0
    defined = [place for place in range(len(values)) if not np.isnan(values[place])]
    for rank, place in enumerate(sorted(defined, key=lambda place: values[place])):
        largest = max(largest, min(1.0, (len(defined) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def length_groups(lengths: Sequence[float], edges: Sequence[float]) -> list[tuple[str, np.ndarray]]:
    """Items by their length.

    Arguments
    ---------
    lengths : sequence of float
        Of all items.
    edges : sequence of float
        Where one group ends; the next one begins above it.

    Returns
    -------
    list of (str, array of bool)
        A name and the items of each group that is not empty.

    Example
    -------
    >>> [(name, members.tolist()) for name, members in length_groups([1, 2, 5], [2, 4])]
    [('up to 2', [True, True, False]), ('above 4', [False, False, True])]
    """
    values, groups = np.asarray(lengths, dtype=float), []
    bounds = [-np.inf, *edges, np.inf]
    for low, high in itertools.pairwise(bounds):
        members = (values > low) & (values <= high)
        if members.any():
            ends = (
                f"up to {high:g}" if low == -np.inf else f"above {low:g}" if high == np.inf else f"{low:g} to {high:g}"
            )
            groups.append(("all" if not edges else ends, members))
    return groups

"""What the test items of several systems and seeds say about their differences.

The scores of a system are a table of seeds and items. All systems of a comparison have the same items, and seed by seed
the same order of the data, so that differences are taken within (item, seed).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from quality.study_file import Measure

DRAWS = 10_000
"""Bootstrap samples."""


class Scores(NamedTuple):
    """A measure of one system: sums that give its mean, both (seeds, items)."""

    above: np.ndarray
    """Scores of the items, or their errors in percent."""

    below: np.ndarray
    """Ones, or the tokens of the items."""

    def per_seed(self) -> np.ndarray:
        """The mean of each seed (seeds,): of scores over items, of errors over tokens."""
        return self.above.sum(1) / self.below.sum(1)


class Difference(NamedTuple):
    """The difference of two systems, with its 95 % interval and how surprising it is."""

    value: float
    low: float
    high: float
    p: float
    """Twice the share of the samples on the other side of 0 or on it: two-sided."""


def table_of(rows: Sequence[Mapping[str, str]], measure: Measure, seeds: Sequence[str], items: Sequence[str]) -> Scores:
    """The scores of one system.

    Arguments
    ---------
    rows : sequence of mapping
        Rows of ``items.csv``, with ``seed``, ``item`` and the columns of the measure.
    measure : Measure
        What is measured.
    seeds, items : sequence of str
        The order of both; each pair of them must have a row.

    Returns
    -------
    Scores
        Both tables (seeds, items).
    """
    found = {(row["seed"], row["item"]): row for row in rows}
    cells = [[found[seed, item] for item in items] for seed in seeds]
    if measure.errors:
        above = np.array([[100.0 * float(cell[measure.errors]) for cell in line] for line in cells])
        below = np.array([[float(cell[measure.out_of]) for cell in line] for line in cells])
    else:
        above = np.array([[float(cell[measure.name]) for cell in line] for line in cells])
        below = np.ones_like(above)
    return Scores(above, below)


def common(rows: Sequence[Mapping[str, str]], measure: Measure) -> tuple[list[str], list[str]]:
    """The seeds that all systems have, and the items that have the measure in all of their runs."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    seeds_of: dict[str, set[str]] = {}
    for row in rows:
        seeds_of.setdefault(row["system"], set()).add(row["seed"])
    seeds = sorted(set.intersection(*seeds_of.values()), key=lambda seed: (len(seed), seed)) if systems else []
    counts: dict[str, int] = {}
    for row in rows:
        if row["seed"] in seeds and all(row.get(column) not in (None, "") for column in measure.columns):
            counts[row["item"]] = counts.get(row["item"], 0) + 1
    return seeds, [item for item, count in counts.items() if count == len(systems) * len(seeds)]


def spread(values: np.ndarray) -> float:
    """The standard deviation of some seeds' means, of a sample; NaN for a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def paired_bootstrap(ours: Scores, theirs: Scores, draws: int = DRAWS, seed: int = 0) -> Difference:
    """The difference of two systems, ours minus theirs, by a bootstrap over seeds and items.

    Each sample draws seeds and items with replacement, the same ones for both systems: the interval holds for other
    seeds and for other items of the same kind. With three seeds it is too narrow rather than too wide.

    Arguments
    ---------
    ours, theirs : Scores
        Of the same seeds and items.
    draws : int
        Number of samples.
    seed : int
        Of the samples.

    Returns
    -------
    Difference
        The difference of the means over the seeds, its interval, and a p value.

    Example
    -------
    >>> low, high = np.zeros((3, 50)), np.ones((3, 50))
    >>> paired_bootstrap(Scores(high, high), Scores(low, high)).value
    1.0
    """
    generator = np.random.default_rng(seed)
    n_seeds, n_items = ours.above.shape
    seeds = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws).astype(float)
    items = generator.multinomial(n_items, np.full(n_items, 1 / n_items), size=draws).astype(float)

    def means(scores: Scores) -> np.ndarray:
        per_seed = (items @ scores.above.T) / (items @ scores.below.T)  # (draws, seeds)
        return (seeds * per_seed).sum(1) / n_seeds

    sampled = means(ours) - means(theirs)
    value = float((ours.per_seed() - theirs.per_seed()).mean())
    low, high = np.quantile(sampled, [0.025, 0.975])
    smaller = min(float((sampled <= 0).mean()), float((sampled >= 0).mean()))
    return Difference(value, float(low), float(high), min(1.0, max(2 * smaller, 1 / draws)))


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

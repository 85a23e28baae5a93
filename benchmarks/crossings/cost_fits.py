"""How cost grows with length, and where the costs of two systems cross.

The cost of a Mamba system is fitted by a + b L, that of one with attention by a + b L + c L², with a, b, c ≥ 0. The
squares of the differences of logarithms are least, so that short and long inputs count alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

STEPS = 5
"""Of Gauss and Newton."""


class Curve(NamedTuple):
    """A cost a + b L + c L² of a length L."""

    a: float
    b: float
    c: float

    def at(self, length: float | np.ndarray) -> float | np.ndarray:
        """The cost of a length."""
        return self.a + self.b * length + self.c * length * length


def fit_cost(lengths: Sequence[float] | np.ndarray, costs: Sequence[float] | np.ndarray, quadratic: bool) -> Curve:
    """Fit a cost.

    Arguments
    ---------
    lengths, costs : sequence of float
        Positive numbers, at least as many different lengths as the curve has coefficients.
    quadratic : bool
        Whether the curve has a square.

    Returns
    -------
    Curve
        The fit.

    Raises
    ------
    ValueError
        For too few lengths.

    Example
    -------
    >>> curve = fit_cost([1, 2, 4, 8], [3.0, 5.0, 9.0, 17.0], quadratic=True)
    >>> [round(part, 3) for part in curve]
    [1.0, 2.0, 0.0]
    """
    length, cost = np.asarray(lengths, float), np.asarray(costs, float)
    degree = 3 if quadratic else 2
    if len(np.unique(length)) < degree:
        raise ValueError(f"A fit of {degree} coefficients needs as many different lengths.")
    scale = math.exp(np.log(length).mean())
    powers = np.vander(length / scale, degree, increasing=True)
    found = cost  # the first step then makes relative errors least
    for _ in range(STEPS):
        # log(cost) - log(fit) to first order in the coefficients, around the fit so far
        best = nnls(powers / found[:, None], 1 + np.log(cost / found))[0]
        found = np.maximum(powers @ best, 1e-3 * cost)
    a, b, c = [*best, 0.0][:3] if degree == 2 else best
    return Curve(float(a), float(b / scale), float(c / scale**2))


def crossing(mamba: Curve, other: Curve) -> float:
    """The length from which on a cost is below another one.

    Returns
    -------
    float
        0 if it is below at all lengths, and infinity if it is never so from some length on.

    Example
    -------
    >>> crossing(Curve(2, 1, 0), Curve(0, 0, 1)), crossing(Curve(0, 1, 0), Curve(0, 2, 1))
    (2.0, 0.0)
    >>> crossing(Curve(0, 2, 0), Curve(0, 1, 0))
    inf
    """
    a, b, c = (first - second for first, second in zip(mamba, other))  # above zero where the first is dearer
    if c > 0:
        return math.inf
    if c < 0:
        root = b * b - 4 * a * c
        return 0.0 if root < 0 else max(0.0, (b + math.sqrt(root)) / (-2 * c))
    if b < 0:
        return max(0.0, -a / b)
    return 0.0 if b == 0 and a < 0 else math.inf


class Threshold(NamedTuple):
    """Where Mamba becomes cheaper."""

    length: float
    """Seconds or tokens; 0: at all lengths; infinity: at none."""
    low: float
    high: float
    """The 95 % interval."""
    draws: np.ndarray
    """The bootstrap's values."""


def threshold(
    mamba: Mapping[float, Sequence[float]],
    baseline: Mapping[float, Sequence[float]],
    linear: bool = True,
    draws: int = 200,
    seed: int = 0,
) -> Threshold:
    """The crossing of two costs with its bootstrap interval.

    A draw takes lengths with replacement, the same ones for both systems where both were measured, and of each length
    the measured costs with replacement. So it shows how much depends on the points that happen to be measured, how well
    the curves fit them, and on how much repeats differ.

    Arguments
    ---------
    mamba, baseline : mapping
        Repeated costs by length.
    linear : bool
        Whether the first cost is fitted without a square; not so for hybrids.
    draws, seed : int
        Number of draws, and of their random numbers.

    Returns
    -------
    Threshold
        The crossing of the fits to all data, and the 2.5 % and 97.5 % quantiles of those of the draws.

    Raises
    ------
    ValueError
        For fewer than 3 lengths of a system.

    Example
    -------
    >>> lengths = [1, 2, 4, 8, 16, 32]
    >>> found = threshold({t: [20 + t] for t in lengths}, {t: [10 + 0.1 * t * t] for t in lengths}, draws=20)
    >>> round(found.length, 3), round(found.low, 3)
    (16.18, 16.18)
    """
    if min(len(mamba), len(baseline)) < 3:
        raise ValueError("A threshold needs measurements of at least 3 lengths of both systems.")
    generator = np.random.default_rng(seed)
    lengths = np.array(sorted({*mamba, *baseline}))

    def points(costs: Mapping[float, Sequence[float]], chosen: np.ndarray | None) -> tuple[list[float], list[float]]:
        if chosen is None:
            return [t for t, all_of in costs.items() for _ in all_of], [c for all_of in costs.values() for c in all_of]
        at = [t for t in chosen if t in costs for _ in costs[t]]
        return at, [generator.choice(costs[t]) for t in at]

    def once(chosen: np.ndarray | None) -> float:
        first, other = fit_cost(*points(mamba, chosen), not linear), fit_cost(*points(baseline, chosen), True)
        return crossing(first, other)

    found = []
    while len(found) < draws:
        chosen = generator.choice(lengths, len(lengths))
        if all(len({t for t in chosen if t in costs}) >= 3 for costs in (mamba, baseline)):
            found.append(once(chosen))
    drawn = np.sort(np.array(found))
    # a quantile that is a value of a draw: a mean with infinity would be none
    low, high = (float(drawn[min(draws - 1, int(q * draws))]) for q in (0.025, 0.975))
    return Threshold(once(None), low, high, drawn)


def bracket(mamba: Mapping[float, Sequence[float]], baseline: Mapping[float, Sequence[float]]) -> tuple[float, float]:
    """The two neighboring lengths between which the measured costs cross for the last time, without a fit.

    Returns
    -------
    tuple of float
        The longest length at which Mamba was not cheaper, 0 if there is none, and the next longer one, infinity if
        there is none.

    Example
    -------
    >>> bracket({1: [2.0], 2: [3.0], 4: [5.0]}, {1: [1.0], 2: [2.0, 2.1], 4: [8.0]})
    (2, 4)
    """
    both = sorted(set(mamba) & set(baseline))
    dearer = [t for t in both if np.median(mamba[t]) >= np.median(baseline[t])]
    if not dearer:
        return 0.0, both[0] if both else math.inf
    later = [t for t in both if t > dearer[-1]]
    return dearer[-1], later[0] if later else math.inf

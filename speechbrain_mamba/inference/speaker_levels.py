"""Levels of separated speakers: a model that is trained for SI-SNR gives estimates in a scale of its own."""

from __future__ import annotations

import numpy as np

COUPLING = 4.0
"""Weight of equal levels in the overlap of two windows, relative to levels that add up to the mixture."""

RIDGE = 0.003
"""Weight of one gain for all, relative to the mean energy of an estimate. It decides where the mixture does not: on the
level of what is left of one speaker in the estimate of another."""


def find_levels(
    products: np.ndarray, matches: np.ndarray, first: np.ndarray, second: np.ndarray, overlaps: np.ndarray
) -> np.ndarray:
    """Find the gains with which the estimates of all windows add up to the mixture, and agree where windows overlap.

    They minimize the squared error of the mixture in all windows, plus ``COUPLING`` times the squared difference of
    neighboring windows in their overlaps, plus a small ridge towards one common gain.

    Arguments
    ---------
    products : numpy.ndarray
        Scalar products of each window's estimates with each other, (windows, speakers, speakers).
    matches : numpy.ndarray
        Scalar products of each window's estimates with the mixture, (windows, speakers).
    first, second, overlaps : numpy.ndarray
        For each overlap of two windows and each speaker, (windows - 1, speakers): energy in the first window, in the
        second, and the product of both.

    Returns
    -------
    numpy.ndarray
        Gains (windows, speakers). Those of silence are 1.

    Example
    -------
    >>> speakers = np.random.default_rng(0).standard_normal((2, 1000))
    >>> estimates = speakers * np.array([[0.3], [2.0]])
    >>> none = np.zeros((0, 2))
    >>> gains = find_levels((estimates @ estimates.T)[None], (estimates @ speakers.sum(0))[None], none, none, none)
    >>> bool(np.abs(gains[0] * [0.3, 2.0] - 1).max() < 0.1)
    True
    """
    windows, speakers = matches.shape
    total, match = products.sum(0), matches.sum(0)
    scale = total.sum()  # of the sum of all estimates
    common = match.sum() / scale if scale > 0 and match.sum() != 0 else 1.0
    energy = np.trace(total) / (windows * speakers)
    if not energy > 0:
        return np.ones((windows, speakers))
    ridge = RIDGE * energy
    diagonal, right = products + ridge * np.eye(speakers), matches + ridge * common
    for j in range(windows - 1):
        diagonal[j] += COUPLING * np.diag(first[j])
        diagonal[j + 1] += COUPLING * np.diag(second[j])
    beside = -COUPLING * overlaps  # the blocks beside the diagonal are diagonal themselves
    for j in range(windows - 1):  # elimination, forward
        factor = beside[j][:, None] * np.linalg.inv(diagonal[j])
        diagonal[j + 1] -= factor * beside[j]
        right[j + 1] -= factor @ right[j]
    gains = np.empty((windows, speakers))
    for j in reversed(range(windows)):  # and back
        rest = right[j] if j == windows - 1 else right[j] - beside[j] * gains[j + 1]
        gains[j] = np.linalg.solve(diagonal[j], rest)
    return gains

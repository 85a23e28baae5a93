"""Levels of estimates in windows."""

import numpy as np
import pytest

from speechbrain_mamba.inference.speaker_levels import COUPLING, RIDGE, find_levels


def statistics(estimates, mix, overlap):
    """What find_levels takes, of estimates (windows, speakers, samples) and mixtures (windows, samples)."""
    first, second = estimates[:-1, :, -overlap:], estimates[1:, :, :overlap]
    products, matches = np.einsum("wkn,wjn->wkj", estimates, estimates), np.einsum("wkn,wn->wk", estimates, mix)
    return products, matches, (first**2).sum(-1), (second**2).sum(-1), (first * second).sum(-1)


@pytest.mark.parametrize(("windows", "speakers"), [(1, 2), (2, 3), (7, 2)])
def test_gains_minimize_the_stated_error(windows, speakers):
    rng = np.random.default_rng(0)
    estimates, mix = rng.standard_normal((windows, speakers, 300)), rng.standard_normal((windows, 300))
    mix += 2 * estimates.sum(1)
    given = statistics(estimates, mix, 80)
    gains = find_levels(*(part.copy() for part in given))
    products, matches, first, second, overlaps = given
    ridge = RIDGE * np.trace(products.sum(0)) / (windows * speakers)
    common = matches.sum() / products.sum()

    def error(gains):
        fit = np.einsum("wk,wkj,wj", gains, products, gains) - 2 * (gains * matches).sum()
        neighbors = gains[:-1] ** 2 * first + gains[1:] ** 2 * second - 2 * gains[:-1] * gains[1:] * overlaps
        return fit + COUPLING * neighbors.sum() + ridge * ((gains - common) ** 2).sum()

    least = error(gains)
    for _ in range(20):
        assert error(gains + 1e-3 * rng.standard_normal(gains.shape)) > least


def test_scales_of_speakers_and_windows_are_undone():
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((2, 1700))
    sources = np.stack([signal[:, start : start + 500] for start in (0, 400, 800, 1200)])
    scales = rng.uniform(0.3, 3, (4, 2)) * [1, -1]
    gains = find_levels(*statistics(sources * scales[:, :, None], sources.sum(1), 100))
    assert np.abs(gains * scales - 1).max() < 0.05


def test_what_is_left_of_a_silent_speaker_is_not_blown_up():
    """Only one speaks: a weak and distorted copy in the other estimate must not get a gain of its own."""
    rng = np.random.default_rng(2)
    speech, noise = rng.standard_normal((2, 1, 2000))
    estimates = np.stack([0.9 * speech[0], 0.01 * speech[0] + 0.003 * noise[0]])[None]
    gains = find_levels(*statistics(estimates, speech, 1))
    assert np.abs(gains - 1.1).max() < 0.2


def test_silence_has_gains():
    assert (find_levels(*statistics(np.zeros((3, 2, 100)), np.ones((3, 100)), 20)) == 1).all()

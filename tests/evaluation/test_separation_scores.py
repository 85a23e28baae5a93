"""Scores of separation, against those of torchmetrics and mir_eval."""

from __future__ import annotations

import math
import sys

import mir_eval
import numpy as np
import pytest
import torch
from torchmetrics.functional.audio import (
    permutation_invariant_training,
    pit_permutate,
    scale_invariant_signal_noise_ratio,
)

from speechbrain_mamba.evaluation.separation_scores import SeparationScores, find_fault, score_separation

ORDERS = [(1, 0), (0, 1), (1, 2, 0), (2, 3, 1, 0)]
"""Which source each estimate is of. With three and four speakers no order is its own inverse."""


def voices(speakers: int, samples: int = 1200) -> torch.Tensor:
    """Speakers of different levels and colors, with offsets, (samples, speakers)."""
    generator = torch.Generator().manual_seed(speakers)
    noise = torch.randn(samples + 1, speakers, generator=generator, dtype=torch.float64)
    color, level = torch.linspace(-0.8, 0.7, speakers), torch.linspace(0.2, 1.5, speakers)
    return (level * (noise[1:] + color * noise[:-1] + 0.1)).float()


def separated(sources: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Estimates in another order, at other levels, each with its own share of noise and of the other speakers."""
    generator = torch.Generator().manual_seed(9)
    speakers = sources.shape[1]
    share = torch.linspace(0.05, 0.4, speakers)
    estimates = sources + share * (sources.sum(1, keepdim=True) - sources)
    estimates += share * torch.randn(sources.shape, generator=generator) + 0.2
    return (estimates * torch.linspace(2, 0.3, speakers))[:, list(order)]


def reference_scores(mix, sources, estimates):
    """The scores and the order by other packages, of arrays (speakers, samples)."""
    mix, sources, estimates = mix.double(), sources.T.double(), estimates.T.double()
    best, order = permutation_invariant_training(estimates[None], sources[None], scale_invariant_signal_noise_ratio)
    aligned = pit_permutate(estimates[None], order)[0]
    mixtures = mix.expand_as(sources)
    mix_si_snr = scale_invariant_signal_noise_ratio(mixtures, sources).mean()
    sdr, mix_sdr = (
        mir_eval.separation.bss_eval_sources(sources.numpy(), x.numpy(), compute_permutation=False)[0].mean()
        for x in (aligned, mixtures)
    )
    return SeparationScores(best.item(), (best - mix_si_snr).item(), sdr, sdr - mix_sdr), aligned


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("order", ORDERS)
def test_scores_and_order_are_those_of_other_packages(order):
    sources = voices(len(order))
    mix, estimates = sources.sum(1), separated(sources, order)
    scores, aligned = score_separation(mix, sources, estimates)
    expected, in_order = reference_scores(mix, sources, estimates)
    for name in ("si_snr", "si_snr_i", "sdr", "sdr_i"):
        assert getattr(scores, name) == pytest.approx(getattr(expected, name), abs=1e-4), name
    assert aligned.dtype == torch.float32 and aligned.shape == sources.shape
    for speaker, estimate in enumerate(in_order):
        source = sources[:, speaker].double().numpy()
        gain = np.linalg.lstsq(estimate[:, None].numpy(), source, rcond=None)[0]
        np.testing.assert_allclose(aligned[:, speaker].numpy(), gain * estimate.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_all_scores_are_of_the_order_with_the_best_si_snr():
    """BSS Eval forgives delays: by SDR alone the estimates would be exchanged."""
    sources = voices(2)
    delayed = sources.roll(40, 0)
    delayed[:40] = 0
    estimates = 0.2 * sources + delayed.flip(1)
    scores, aligned = score_separation(sources.sum(1), sources, estimates)
    expected, _ = reference_scores(sources.sum(1), sources, estimates)
    assert scores.sdr == pytest.approx(expected.sdr, abs=1e-4)
    assert scores.sdr_i == pytest.approx(expected.sdr_i, abs=1e-4)
    assert (aligned * estimates).sum(0).gt(0).all()


def test_systems_of_equations_are_solved_one_by_one(monkeypatch):
    """Several at once make PyTorch's solver hang on two threads (its issue 142815)."""
    solved, solve = [], torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda a, b: solved.append(a.shape) or solve(a, b))
    sources = voices(3)
    score_separation(sources.sum(1), sources, separated(sources, (1, 2, 0)))
    assert solved == 6 * [(1, 512, 512)]


def test_inputs_stay_as_they_are():
    sources = voices(3)
    estimates = separated(sources, (1, 2, 0)).requires_grad_()
    mix = sources.sum(1)
    before = [x.clone() for x in (mix, sources, estimates)]
    _, aligned = score_separation(mix, sources, estimates)
    assert all(torch.equal(x, y) for x, y in zip(before, (mix, sources, estimates)))
    assert not aligned.requires_grad


FAULTS = {
    "silent source": lambda sources, estimates, i: sources[:, i].fill_(0.0),
    "silent estimate": lambda sources, estimates, i: estimates[:, i].fill_(0.25),  # a constant has no energy either
    "estimate not finite": lambda sources, estimates, i: estimates[7:9, i].copy_(torch.tensor([math.nan, 1.0])),
}


@pytest.mark.parametrize("speaker", [0, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_mixture_without_scores_has_a_reason(fault, speaker):
    sources = voices(3)
    estimates = separated(sources, (0, 1, 2))
    FAULTS[fault](sources, estimates, speaker)
    scores, aligned = score_separation(sources.sum(1), sources, estimates)
    assert scores.fault == find_fault(sources, estimates) == fault
    assert all(math.isnan(getattr(scores, name)) for name in ("si_snr", "si_snr_i", "sdr", "sdr_i"))
    torch.testing.assert_close(aligned, estimates, equal_nan=True)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_one_sample_that_is_not_finite_is_enough(value):
    sources = voices(2)
    estimates = separated(sources, (0, 1))
    assert find_fault(sources, estimates) == ""
    estimates[-1, 1] = value
    assert find_fault(sources, estimates) == "estimate not finite"


def test_very_quiet_and_very_loud_estimates_have_their_scores():
    sources = voices(2)
    estimates = separated(sources, (0, 1))
    expected, _ = score_separation(sources.sum(1), sources, estimates)
    for gain in (1e-3, 1e25):
        scores, aligned = score_separation(sources.sum(1), sources, gain * estimates)
        assert scores.si_snr == pytest.approx(expected.si_snr, abs=0.01)
        assert scores.sdr == pytest.approx(expected.sdr, abs=0.01)
        assert torch.isfinite(aligned).all() and scores.fault == ""


@pytest.mark.parametrize(
    ("mix", "sources", "estimates"),
    [((8,), (9, 2), (9, 2)), ((9,), (9, 2), (9, 3)), ((9,), (9, 2), (8, 2)), ((9, 2), (9, 2), (9, 2))],
)
def test_shapes_that_do_not_fit_are_named(mix, sources, estimates):
    with pytest.raises(ValueError, match=r"must be \(samples,\), \(samples, speakers\) and \(samples, speakers\)"):
        score_separation(*(torch.ones(shape) for shape in (mix, sources, estimates)))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_bss_eval", None)
    sources = voices(2)
    with pytest.raises(ImportError, match="SDR is computed by fast-bss-eval, which is not installed: pip install"):
        score_separation(sources.sum(1), sources, sources)

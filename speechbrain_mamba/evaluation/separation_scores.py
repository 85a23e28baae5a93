"""Scores of separated speakers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from speechbrain.nnet.losses import PitWrapper, cal_si_snr
from torch import Tensor


@dataclass(frozen=True)
class SeparationScores:
    """Scores of one mixture, means over its speakers, in dB.

    ``si_snr`` and ``sdr`` are those of the estimates, ``si_snr_i`` and ``sdr_i`` the improvements over the mixture.
    SDR is that of BSS Eval (Vincent et al., 2006) with a distortion filter of 512 taps. If :func:`find_fault` names
    why a mixture has no scores, all of them are NaN.
    """

    si_snr: float
    si_snr_i: float
    sdr: float
    sdr_i: float
    fault: str = ""


SILENT_SOURCE, SILENT_ESTIMATE, NOT_FINITE = "silent source", "silent estimate", "estimate not finite"
FAULTS = (SILENT_SOURCE, SILENT_ESTIMATE, NOT_FINITE)
"""Why a mixture has no scores. Both scores go by energies without the mean: a constant signal is silent."""


def find_fault(sources: Tensor, estimates: Tensor) -> str:
    """Find out why a mixture has no scores.

    Arguments
    ---------
    sources, estimates : Tensor
        True and estimated speakers (samples, speakers).

    Returns
    -------
    str
        One of ``FAULTS``; empty if there are scores.

    Example
    -------
    >>> find_fault(torch.zeros(8, 2), torch.randn(8, 2)), find_fault(torch.randn(8, 2), torch.randn(8, 2))
    ('silent source', '')
    """
    if _any_silent(sources):
        return SILENT_SOURCE
    if not bool(torch.isfinite(estimates).all()):
        return NOT_FINITE
    return SILENT_ESTIMATE if _any_silent(estimates) else ""


def _any_silent(signals: Tensor) -> bool:
    return bool((signals == signals[:1]).all(0).any())


def match_estimates(sources: Tensor, estimates: Tensor) -> tuple[Tensor, Tensor]:
    """Reorder estimates like the sources.

    Arguments
    ---------
    sources, estimates : Tensor
        True and estimated speakers (samples, speakers), for which :func:`find_fault` finds none.

    Returns
    -------
    aligned : Tensor
        The estimates (samples, speakers) in the order with the best mean SI-SNR.
    si_snr : Tensor
        Their SI-SNR (speakers,) in dB.

    Example
    -------
    >>> sources = torch.randn(2000, 2)
    >>> aligned, si_snr = match_estimates(sources, sources.flip(-1) + 0.1 * torch.randn(2000, 2))
    >>> torch.allclose(aligned, sources, atol=1), si_snr.round(decimals=-1)
    (True, tensor([20., 20.]))
    """
    _, (source_of_estimate,) = PitWrapper(cal_si_snr)(sources[None], estimates[None])
    aligned = estimates[:, torch.tensor(source_of_estimate).argsort()]
    return aligned, -cal_si_snr(sources[:, None], aligned[:, None])[0, 0]


def score_separation(mix: Tensor, sources: Tensor, estimates: Tensor) -> tuple[SeparationScores, Tensor]:
    """Score the estimates of one mixture, and reorder them like the sources.

    Arguments
    ---------
    mix : Tensor
        The mixture (samples,).
    sources, estimates : Tensor
        True and estimated speakers (samples, speakers).

    Returns
    -------
    scores : SeparationScores
        Those of the order of speakers with the best SI-SNR.
    aligned : Tensor
        The estimates (samples, speakers) in that order, each scaled to its source by least squares; as they are if
        they have no scores.

    Raises
    ------
    ValueError
        When the shapes do not fit.
    ImportError
        When fast-bss-eval is not installed.

    Example
    -------
    >>> sources = torch.randn(2000, 2)
    >>> scores, aligned = score_separation(sources.sum(-1), sources, 3 * sources.flip(-1))
    >>> scores.si_snr_i > 50, torch.allclose(aligned, sources, atol=1e-4)
    (True, True)
    """
    if sources.shape != estimates.shape or mix.shape != sources.shape[:1]:
        raise ValueError(
            f"The mixture has shape {tuple(mix.shape)}, the sources {tuple(sources.shape)} and the estimates "
            f"{tuple(estimates.shape)}, but they must be (samples,), (samples, speakers) and (samples, speakers)."
        )
    fault = find_fault(sources, estimates)
    if fault:
        return SeparationScores(math.nan, math.nan, math.nan, math.nan, fault), estimates.detach().cpu().float()
    mix, sources, estimates = (t.detach().double().cpu() for t in (mix, sources, estimates))
    mixtures = mix[:, None].expand_as(sources)
    aligned, si_snr = match_estimates(sources, estimates)
    _, baseline = match_estimates(sources, mixtures)
    gain = (aligned * sources).sum(0) / aligned.square().sum(0)
    sdr, mix_sdr = _sdr(sources, aligned), _sdr(sources, mixtures)
    scores = SeparationScores(si_snr.mean().item(), (si_snr - baseline).mean().item(), sdr, sdr - mix_sdr)
    return scores, (gain * aligned).float()


def _sdr(sources: Tensor, estimates: Tensor) -> float:
    try:
        from fast_bss_eval import sdr_loss
    except ImportError as error:
        raise ImportError(
            'SDR is computed by fast-bss-eval, which is not installed: pip install "speechbrain_mamba[recipes]".'
        ) from error
    # In the given order, while fast_bss_eval.sdr permutes; and one by one, because torch's solver of several systems
    # at once hangs or fails in MKL's DLASWP when it has several threads (PyTorch's issue 142815).
    losses = [sdr_loss(estimates[:, i : i + 1].T, sources[:, i : i + 1].T) for i in range(sources.shape[1])]
    return -torch.cat(losses).mean().item()

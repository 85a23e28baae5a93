"""Scores of speech that follow what people hear: PESQ and ESTOI, by the packages that the field compares with."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

from torch import Tensor

from speechbrain_mamba.dataio.resampling import resample

PACKAGES = {"pesq": "pesq", "estoi": "pystoi"}
"""The package that computes each score; both come with ``speechbrain_mamba[metrics]``."""
NARROW, WIDE = 8000, 16000
"""Hz: the rates for which PESQ is defined."""


def check_perceptual_packages() -> None:
    """Make sure that both packages are installed; an ImportError says how to get them."""
    missing = [package for package in PACKAGES.values() if find_spec(package) is None]
    if missing:
        raise ImportError(
            f"PESQ and ESTOI are computed by pesq and pystoi, but {' and '.join(missing)} "
            f'{"is" if len(missing) == 1 else "are"} not installed: pip install "speechbrain_mamba[metrics]".'
        )


def pesq_score(estimate: Tensor, reference: Tensor, sample_rate: int) -> float | None:
    """Perceptual evaluation of speech quality (ITU-T P.862) as a mean opinion score, from 1.0 to about 4.6.

    At 8 kHz it is the narrow-band form with the mapping of P.862.1, else the wide-band form (P.862.2) at 16 kHz, to
    which other rates are brought. The two cannot be compared with each other.

    Arguments
    ---------
    estimate, reference : Tensor
        Speech to judge, and the clean one (samples,).
    sample_rate : int
        Hz.

    Returns
    -------
    float or None
        None where PESQ is not defined: it finds no speech in one of them, or they are shorter than a quarter second.

    Raises
    ------
    ImportError
        When a package is missing.

    Example
    -------
    >>> import pytest
    >>> from speechbrain_mamba.corpora.mini.samples import SAMPLES
    >>> from speechbrain_mamba.dataio.audio import read_audio
    >>> _ = pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    >>> voice = read_audio(SAMPLES[0].path)
    >>> round(pesq_score(voice, voice, 8000), 2), pesq_score(0 * voice, voice, 8000)
    (4.55, None)
    """
    check_perceptual_packages()
    from pesq import PesqError, pesq

    if sample_rate not in (NARROW, WIDE):
        estimate, reference = (resample(wav, sample_rate, WIDE) for wav in (estimate, reference))
        sample_rate = WIDE
    if not (reference.any() and estimate.any()):
        return None  # which pesq divides by
    clean, judged = (wav.detach().cpu().double().numpy() for wav in (reference, estimate))
    found = pesq(sample_rate, clean, judged, "nb" if sample_rate == NARROW else "wb", PesqError.RETURN_VALUES)
    return float(found) if found > 0 else None  # codes of errors are negative


def estoi_score(estimate: Tensor, reference: Tensor, sample_rate: int) -> float | None:
    """Extended short-time objective intelligibility (Jensen and Taal, 2016), 1 for equal sounds.

    Arguments
    ---------
    estimate, reference, sample_rate
        As in :func:`pesq_score`; any rate will do.

    Returns
    -------
    float or None
        None where it is not defined: less than 0.4 seconds of the reference are loud enough.

    Raises
    ------
    ImportError
        When a package is missing.
    """
    check_perceptual_packages()
    from pystoi import stoi

    clean, judged = (wav.detach().cpu().double().numpy() for wav in (reference, estimate))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # with which it returns a number that means nothing
        try:
            found = float(stoi(clean, judged, sample_rate, extended=True))
        except (RuntimeWarning, ValueError):  # too short for a single frame
            return None
    return found


def perceptual_scores(estimates: Tensor, sources: Tensor, sample_rate: int) -> dict[str, float | None]:
    """Both scores of some signals, means over the speakers for which they are defined.

    Arguments
    ---------
    estimates, sources : Tensor
        Signals (samples, speakers), in the same order.
    sample_rate : int
        Hz.

    Returns
    -------
    dict of str to float or None
        ``pesq`` and ``estoi``.
    """
    pairs, means = list(zip(estimates.unbind(-1), sources.unbind(-1))), dict[str, float | None]()
    for name, score in (("pesq", pesq_score), ("estoi", estoi_score)):
        found = [value for pair in pairs if (value := score(*pair, sample_rate)) is not None]
        means[name] = sum(found) / len(found) if found else None
    return means

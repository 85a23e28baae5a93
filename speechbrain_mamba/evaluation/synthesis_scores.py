"""Scores of synthetic speech against a recording of the same words."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchaudio.transforms import MFCC

N_MELS = 40
"""Mel bands from which cepstra are computed."""


def time_warp(distances: np.ndarray) -> list[tuple[int, int]]:
    """Align two sequences from end to end by dynamic time warping with steps of at most one (Sakoe and Chiba, 1978).

    Arguments
    ---------
    distances : numpy.ndarray
        Distances from each frame of the first to each frame of the second, (frames, frames), at least one each.

    Returns
    -------
    list of tuple of int
        Pairs of frames with the smallest total distance.

    Example
    -------
    >>> time_warp(np.array([[0.0, 1.0, 9.0], [9.0, 9.0, 0.0]]))
    [(0, 0), (0, 1), (1, 2)]
    """
    rows, columns = distances.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(rows + columns - 1):  # its cells do not depend on each other
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
        total[i + 1, j + 1] = distances[i, j] + before
    i, j, path = rows, columns, []
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min(steps, key=lambda cell: total[cell])
    return path[::-1]


def mel_cepstral_distortion(estimate: Tensor, reference: Tensor, sample_rate: int, n_coefficients: int = 13) -> float:
    """Mel-cepstral distortion after time warping, in dB (Kubichek, 1993): 0 for equal sounds.

    Loudness, the first coefficient, does not count. Values are comparable only with the same bands and window.

    Arguments
    ---------
    estimate, reference : Tensor
        Waveforms (samples,), of at least 25 ms.
    sample_rate : int
        Samples per second.
    n_coefficients : int
        Number of coefficients, without the first one.

    Returns
    -------
    float
        The distortion in dB.

    Raises
    ------
    ValueError
        When a waveform is too short or not finite.

    Example
    -------
    >>> wav = torch.randn(8000)
    >>> mel_cepstral_distortion(wav, wav, 8000)
    0.0
    """
    window = round(0.025 * sample_rate)
    for name, wav in {"estimate": estimate, "reference": reference}.items():
        if wav.dim() != 1 or len(wav) < window or not wav.isfinite().all():
            raise ValueError(
                f"The {name} has shape {tuple(wav.shape)}, but must be a finite waveform of at least {window} samples."
            )
    melkwargs = {"n_fft": 2 ** math.ceil(math.log2(window)), "win_length": window, "hop_length": window * 2 // 5}
    transform = MFCC(sample_rate, n_coefficients + 1, log_mels=True, melkwargs=melkwargs | {"n_mels": N_MELS})
    # from an orthonormal transform of log powers to cepstra: means, over the bands, of log amplitudes times cosines
    scale = 0.5 / math.sqrt(2 * N_MELS)
    ours, theirs = (scale * transform(wav.float())[1:].T for wav in (estimate, reference))
    distances = torch.cdist(ours[None], theirs[None], compute_mode="donot_use_mm_for_euclid_dist")[0].double().numpy()
    path = time_warp(distances)
    return 10 / math.log(10) * math.sqrt(2) * float(np.mean([distances[cell] for cell in path]))

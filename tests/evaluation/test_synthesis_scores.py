"""Scores of synthetic speech."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchaudio.functional

from speechbrain_mamba.evaluation.synthesis_scores import mel_cepstral_distortion, time_warp


def test_no_path_is_shorter_than_the_one_found():
    distances = np.random.default_rng(0).random((4, 5))

    def totals(i: int, j: int):
        if (i, j) == (3, 4):
            yield distances[i, j]
            return
        for a, b in ((1, 1), (1, 0), (0, 1)):
            if i + a < 4 and j + b < 5:
                yield from (distances[i, j] + rest for rest in totals(i + a, j + b))

    path = time_warp(distances)
    assert sum(distances[cell] for cell in path) == pytest.approx(min(totals(0, 0)))
    assert path[0] == (0, 0) and path[-1] == (3, 4)
    assert {(c - a, d - b) for (a, b), (c, d) in itertools.pairwise(path)} <= {(0, 1), (1, 0), (1, 1)}


def tones(*frequencies: float, seconds: float = 0.3) -> torch.Tensor:
    """Harmonic tones one after the other."""
    t = torch.arange(round(8000 * seconds)) / 8000
    return torch.cat([sum(torch.sin(2 * np.pi * f * k * t) / k for k in range(1, 8)) for f in frequencies])


def test_distortion_knows_sounds_but_neither_tempo_nor_loudness():
    wav = tones(200, 500, 300)
    slower = tones(200, 500, 300, seconds=0.4)
    other = tones(400, 250, 600)
    far = mel_cepstral_distortion(other, wav, 8000)
    assert mel_cepstral_distortion(slower, wav, 8000) < far / 4
    assert mel_cepstral_distortion(0.5 * wav, wav, 8000) < far / 8
    assert 2 < far < 30
    noisy = torchaudio.functional.add_noise(wav, torch.randn(len(wav)), torch.tensor(30.0))
    assert 0 < mel_cepstral_distortion(noisy, wav, 8000) < far


@pytest.mark.parametrize("wav", [torch.zeros(0), torch.zeros(100), torch.full((400,), torch.nan), torch.zeros(1, 400)])
def test_what_cannot_be_compared_is_named(wav):
    with pytest.raises(ValueError, match="must be a finite waveform of at least 200 samples"):
        mel_cepstral_distortion(wav, torch.randn(8000), 8000)

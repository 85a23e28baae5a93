"""Scores of synthetic speech."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchaudio.functional

from speechbrain_mamba.evaluation.synthesis_scores import mel_cepstral_distortion, time_warp


def all_paths(rows: int, columns: int, i: int = 0, j: int = 0):
    """All ways from one end to the other in steps of at most one."""
    if (i, j) == (rows - 1, columns - 1):
        yield [(i, j)]
        return
    for a, b in ((1, 1), (1, 0), (0, 1)):
        if i + a < rows and j + b < columns:
            yield from ([(i, j), *rest] for rest in all_paths(rows, columns, i + a, j + b))


@pytest.mark.parametrize("shape", [(4, 5), (6, 3), (1, 4), (3, 1)])
def test_no_path_is_shorter_than_the_one_found(shape):
    distances = np.random.default_rng(0).random(shape)
    path = time_warp(distances)
    totals = {sum(distances[cell] for cell in way) for way in all_paths(*shape)}
    assert sum(distances[cell] for cell in path) == pytest.approx(min(totals))
    assert path[0] == (0, 0) and path[-1] == (shape[0] - 1, shape[1] - 1)
    assert {(c - a, d - b) for (a, b), (c, d) in itertools.pairwise(path)} <= {(0, 1), (1, 0), (1, 1)}


def test_equal_frames_are_passed_together():
    assert time_warp(np.zeros((3, 4)))[-3:] == [(0, 1), (1, 2), (2, 3)]


def cepstra(wav: np.ndarray, rate: int, count: int) -> np.ndarray:
    """Mel cepstra by their definitions, (frames, 1 + count): means, over 40 bands of HTK's mel scale, of logarithmic
    amplitudes in Hann windows of 25 ms every 10 ms, times cosines."""
    window, hop = rate // 40, rate // 100
    size = 1 << (window - 1).bit_length()
    hann = np.zeros(size)
    before = (size - window) // 2
    hann[before : before + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(wav, size // 2, mode="reflect")
    frames = [padded[start : start + size] * hann for start in range(0, len(wav) + 1, hop)]
    powers = np.abs(np.fft.rfft(frames)) ** 2
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), 42)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequency = np.arange(size // 2 + 1) * rate / size
    bands = [
        np.clip(np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)), 0, None)
        for low, middle, high in zip(edges, edges[1:], edges[2:])
    ]
    amplitudes = 0.5 * np.log(powers @ np.transpose(bands) + 1e-6)
    cosines = np.cos(np.pi * np.outer(np.arange(count + 1), np.arange(40) + 0.5) / 40)
    return amplitudes @ cosines.T / 40


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
@pytest.mark.parametrize("options", [{}, {"n_coefficients": 5}])
@pytest.mark.filterwarnings("ignore:At least one mel filterbank")  # has no bin, at 8000 Hz
def test_distortion_is_that_of_its_definition(rate, options):
    """10 / ln 10 * sqrt(2 * sum of squared differences of all cepstra but the first), mean over the frames that are
    aligned; frames are few, so that all alignments can be tried."""
    generator = np.random.default_rng(1)
    estimate = 0.1 * generator.standard_normal(rate // 25)
    reference = np.convolve(0.2 * generator.standard_normal(rate // 20), [1, 0.9], "same")
    ours, theirs = (cepstra(x, rate, options.get("n_coefficients", 13))[:, 1:] for x in (estimate, reference))
    distances = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(-1))
    assert distances.shape == (5, 6)
    best = min(all_paths(5, 6), key=lambda way: sum(distances[cell] for cell in way))
    expected = 10 / np.log(10) * np.sqrt(2) * np.mean([distances[cell] for cell in best])
    estimate, reference = torch.from_numpy(estimate), torch.from_numpy(reference)
    assert mel_cepstral_distortion(estimate, reference, rate, **options) == pytest.approx(expected, rel=1e-3)
    assert expected > 2


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


@pytest.mark.parametrize("wav", [torch.zeros(0), torch.zeros(199), torch.full((400,), torch.nan), torch.zeros(1, 400)])
def test_what_cannot_be_compared_is_named(wav):
    with pytest.raises(ValueError, match=r"The estimate .* must be a finite waveform of at least 200 samples"):
        mel_cepstral_distortion(wav, torch.randn(8000), 8000)
    with pytest.raises(ValueError, match="The reference has shape"):
        mel_cepstral_distortion(torch.randn(8000), wav, 8000)


def test_sounds_of_one_window_can_be_compared():
    assert mel_cepstral_distortion(torch.randn(200), torch.randn(8000), 8000) > 0

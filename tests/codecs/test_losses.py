"""The codec's loss."""

from __future__ import annotations

import pytest
import torch
from torchaudio.functional import melscale_fbanks

from speechbrain_mamba.codecs.losses import MultiScaleMelLoss


def test_the_loss_grows_with_the_distance_and_ignores_padding():
    torch.manual_seed(0)
    loss, wavs = MultiScaleMelLoss(8000), torch.randn(2, 4000)
    near, far = wavs + 0.01 * torch.randn(2, 4000), wavs + torch.randn(2, 4000)
    assert 0 < loss(near, wavs) < loss(far, wavs) / 5
    lengths, garbage = torch.tensor([4000, 1000]), wavs.clone()
    garbage[1, 1000:] = torch.nan
    assert loss(garbage, wavs, lengths) == 0


def expected_loss(reconstruction, wavs, sample_rate, windows, n_mels, floor, amplitude_weight):
    """The loss as its description has it, from Fourier transforms."""
    distances = []
    for window in windows:
        n_fft, bands = max(window, 256), min(n_mels, window // 8)
        banks = melscale_fbanks(n_fft // 2 + 1, 0, sample_rate / 2, bands, sample_rate)
        shape = torch.hann_window(window)
        ours, theirs = (
            torch.stft(wav, n_fft, window // 4, window, shape, return_complex=True).abs().mT @ banks / shape.norm()
            for wav in (reconstruction, wavs)
        )
        difference = torch.log10((ours + floor) / (theirs + floor))
        logarithms = difference.abs().mean() + difference.square().mean(-1).sqrt().mean()
        amplitudes = (ours - theirs).abs().mean() / (theirs.mean() + floor)
        distances.append(logarithms + amplitude_weight * amplitudes)
    return sum(distances) / len(distances)


DEFAULTS = {"windows": (64, 128, 256, 512, 1024), "n_mels": 64, "floor": 0.003, "amplitude_weight": 0.3}


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@pytest.mark.parametrize("sample_rate", [8000, 24000])
@pytest.mark.parametrize(
    "options",
    [
        {},
        *({"windows": (window,)} for window in DEFAULTS["windows"]),
        {"windows": (400, 96), "n_mels": 20},
        {"floor": 0.1},
        {"amplitude_weight": 0.0},
        {"amplitude_weight": 1.0},
    ],
)
def test_the_loss_is_that_of_its_description(options, sample_rate):
    time = torch.arange(4000) / sample_rate
    wavs = torch.stack([0.5 * torch.sin(2 * torch.pi * 440 * time), 0.02 * torch.randn(4000)])
    reconstruction = 0.7 * wavs + 0.01 * torch.randn(2, 4000)
    loss = MultiScaleMelLoss(sample_rate, **options)(reconstruction, wavs)
    expected = expected_loss(reconstruction, wavs, sample_rate, **DEFAULTS | options)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_what_is_past_the_lengths_counts_as_silence_in_both():
    loss, lengths = MultiScaleMelLoss(8000), torch.tensor([4000, 1500])
    wavs, reconstruction = 0.1 * torch.randn(2, 2, 4000)
    expected = loss(*(torch.stack([x[0], x[1].where(torch.arange(4000) < 1500, 0)]) for x in (reconstruction, wavs)))
    wavs[1, 1500:] = torch.nan
    reconstruction[1, 1500:] = torch.inf
    torch.testing.assert_close(loss(reconstruction, wavs, lengths), expected)
    assert expected > 0.1


def test_half_precision_is_left_behind():
    loss, wavs, near = MultiScaleMelLoss(8000), *0.1 * torch.randn(2, 1, 4000).bfloat16()
    torch.testing.assert_close(loss(near, wavs), loss(near.float(), wavs.float()))


def test_gradients_are_finite_where_both_are_silent():
    silence = torch.zeros(1, 4000, requires_grad=True)
    MultiScaleMelLoss(8000)(silence, torch.zeros(1, 4000)).backward()
    assert silence.grad.isfinite().all()
    sound = (0.1 * torch.randn(1, 4000)).requires_grad_()
    MultiScaleMelLoss(8000)(sound, torch.zeros(1, 4000)).backward()
    assert sound.grad.isfinite().all() and sound.grad.abs().sum() > 0


def test_what_is_too_soft_to_hear_hardly_counts_but_has_a_gradient():
    loss, silence = MultiScaleMelLoss(8000), torch.zeros(1, 4000)
    soft = (1e-6 * torch.randn(1, 4000)).requires_grad_()
    assert loss(soft, silence) < 0.02
    assert loss(1e-1 * torch.randn(1, 4000), silence) > 0.5
    loss(soft, 1e-1 * torch.randn(1, 4000)).backward()
    assert soft.grad.abs().sum() > 0.1


@pytest.mark.parametrize("samples", [1, 100, 512])
def test_sounds_shorter_than_a_window_are_compared_too(samples):
    loss, wavs = MultiScaleMelLoss(8000), 0.1 * torch.randn(2, samples)
    assert loss(wavs, wavs) == 0
    assert 0 < loss(2 * wavs, wavs) < float("inf")

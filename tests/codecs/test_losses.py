"""The codec's loss."""

from __future__ import annotations

import torch

from speechbrain_mamba.codecs.losses import MultiScaleMelLoss


def test_the_loss_grows_with_the_distance_and_ignores_padding():
    torch.manual_seed(0)
    loss, wavs = MultiScaleMelLoss(8000), torch.randn(2, 4000)
    near, far = wavs + 0.01 * torch.randn(2, 4000), wavs + torch.randn(2, 4000)
    assert 0 < loss(near, wavs) < loss(far, wavs) / 5
    lengths, garbage = torch.tensor([4000, 1000]), wavs.clone()
    garbage[1, 1000:] = torch.nan
    assert loss(garbage, wavs, lengths) == 0


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

"""Relative errors, equal weights, and what a padded batch has to be."""

import torch


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected magnitude; infinite where ``actual`` is not finite."""
    if actual.shape != expected.shape or not torch.isfinite(actual).all():
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    difference = (actual.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max().clamp(min=1e-30)).item()


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules have the same weights."""
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(map(torch.equal, *(state.values() for state in states)))


def assert_padding_is_harmless(layer, run, alone, x: torch.Tensor, lengths: list[int]):
    """Compare a batch with NaN in its padding, forward and gradient, with each example alone.

    ``run(x, lengths)`` gives the output of the padded batch, ``alone(x)`` that of one example (time, channels).
    """
    weight = torch.randn_like(x)
    for i, length in enumerate(lengths):
        x[i, length:] = float("nan")
    x.requires_grad_()
    y = run(x, torch.tensor(lengths))
    expected = [alone(x[i, :length]) for i, length in enumerate(lengths)]
    for i, length in enumerate(lengths):
        assert relative_error(y[i, :length], expected[i]) < 1e-9
        assert not y[i, length:].any()
    wanted = [x, *layer.parameters()]
    gradients = torch.autograd.grad((y * weight).sum(), wanted)
    loss = sum((part * weight[i, : len(part)]).sum() for i, part in enumerate(expected))
    for ours, theirs in zip(gradients, torch.autograd.grad(loss, wanted)):
        assert relative_error(ours, theirs) < 1e-9

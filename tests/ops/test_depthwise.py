"""The wide depthwise convolution: kernels against torch's convolution, and who computes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from speechbrain_mamba.ops import depthwise, depthwise_conv1d, use_backend
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import TOLERANCE


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, before: int, after: int) -> Tensor:
    """The definition, in float64."""
    padded = F.pad(x.double().transpose(1, 2), (before, after))
    bias = None if bias is None else bias.double()
    return F.conv1d(padded, weight.double(), bias, groups=x.shape[2]).transpose(1, 2)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000), batch=st.integers(1, 3), time=st.integers(1, 20) | st.integers(60, 140),
    channels=st.integers(1, 40), width=st.integers(1, 33), around=st.tuples(st.integers(0, 32), st.integers(0, 32)),
    dtype=st.sampled_from(list(TOLERANCE)), biased=st.booleans(), turned=st.booleans(),
)  # fmt: skip
def test_kernels_agree_with_torch(name, seed, batch, time, channels, width, around, dtype, biased, turned):
    torch.manual_seed(seed)
    before, after = (min(zeros, width - 1) for zeros in around)
    if before + time + after < width:
        time = width
    x = torch.randn(batch, channels, time).transpose(1, 2) if turned else torch.randn(batch, time, channels)
    inputs = [x.to(dtype), torch.randn(channels, 1, width), torch.randn(channels) if biased else None]
    leaves = [None if one is None else one.requires_grad_() for one in inputs]
    with instruction_set(name):
        y = depthwise_conv1d(*leaves, before=before, after=after)
        dy = torch.randn_like(y)
        found = torch.autograd.grad(y, [one for one in leaves if one is not None], dy)
    expected = convolve(*leaves, before, after)
    exact = torch.autograd.grad(expected, [one for one in leaves if one is not None], dy.double())
    assert y.dtype == dtype and y.shape == expected.shape
    scale = 10 * TOLERANCE[dtype]  # sums over time, whose terms may cancel
    for one, other, most in zip((y, *found), (expected, *exact), (TOLERANCE[dtype], TOLERANCE[dtype], scale, scale)):
        assert (one.double() - other).abs().max() <= most * other.abs().max().clamp(min=1e-3)


def test_autocast_gives_its_type():
    x, conv = torch.randn(2, 9, 6), nn.Conv1d(6, 6, 5, groups=6)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv1d(x, conv.weight, conv.bias, before=4)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.double(), convolve(x, conv.weight, conv.bias, 4, 0), atol=0.02)


def test_kernels_serve_where_nothing_else_is_asked_for(monkeypatch):
    called, compute = [], depthwise.causal_conv1d
    monkeypatch.setattr(depthwise, "causal_conv1d", lambda *a, **k: called.append(a[0].dtype) or compute(*a, **k))
    x, conv = torch.randn(2, 9, 6), nn.Conv1d(6, 6, 5, groups=6)
    y = depthwise_conv1d(x, conv.weight, conv.bias)
    assert called == [torch.float32]
    with use_backend("reference"):
        assert torch.allclose(depthwise_conv1d(x, conv.weight, conv.bias), y, atol=1e-6)
    double = depthwise_conv1d(x.double(), conv.weight.double(), conv.bias.double())
    assert torch.allclose(double, y.double(), atol=1e-6) and called == [torch.float32]
    assert depthwise_conv1d(x.to("meta"), conv.weight.to("meta")).shape == y.shape

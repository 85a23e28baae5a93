"""The native convolution against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import check

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@st.composite
def conv_cases(draw) -> tuple[dict, dict]:
    """Inputs and options of a convolution."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 20) | st.integers(21, 300))
    channels, width = draw(st.integers(1, 80)), draw(st.just(4) | st.integers(1, 7) | st.integers(8, 33))
    inputs = {
        "x": torch.randn(batch, time, 2 * channels)[..., channels:].to(draw(st.sampled_from(DTYPES))),
        "weight": torch.randn(channels, width),
    }
    if draw(st.booleans()):
        inputs["bias"] = torch.randn(channels)
    if draw(st.booleans()):
        state = torch.randn(batch, width - 1, channels).transpose(1, 2)  # the kernel gets a copy
        inputs["initial_state"] = state.to(draw(st.sampled_from(DTYPES)))
    length = st.sampled_from((0, 1, time)) | st.integers(0, time)
    lengths = draw(st.none() | st.lists(length, min_size=batch, max_size=batch))
    return inputs, {
        "activation": draw(st.sampled_from((None, "silu"))),
        "lengths": None if lengths is None else torch.tensor(lengths),
        "reverse": draw(st.booleans()),
        "return_final_state": draw(st.booleans()),
    }


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=conv_cases())
def test_convolution_agrees_with_the_reference(name, case):
    inputs, options = case
    with instruction_set(name):
        check(ops.causal_conv1d, inputs, "cpu", **options)


@pytest.mark.parametrize("lengths", [None, [130, 0, 2]])
def test_bidirectional_convolution_agrees_with_the_reference(lengths):
    torch.manual_seed(0)
    inputs = {
        "x": torch.randn(3, 130, 37),
        "forward": ops.Filters(torch.randn(37, 4), torch.randn(37)),
        "reverse": ops.Filters(torch.randn(37, 4), torch.randn(37)),
    }
    lengths = None if lengths is None else torch.tensor(lengths)
    check(ops.bidirectional_causal_conv1d, inputs, "cpu", activation="silu", lengths=lengths)


@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_out_of_the_padding(reverse):
    torch.manual_seed(0)
    lengths, x, gradient = [70, 0, 3], torch.randn(3, 70, 20), torch.randn(3, 70, 20)
    for i, length in enumerate(lengths):
        x[i, length:] = gradient[i, length:] = torch.nan
    weight, bias = torch.randn(20, 4, requires_grad=True), torch.randn(20, requires_grad=True)
    x.requires_grad_()
    with ops.use_backend("cpu"):
        y = ops.causal_conv1d(x, weight, bias, "silu", lengths=torch.tensor(lengths), reverse=reverse)
        y.backward(gradient)
        for i, length in enumerate(lengths):
            alone = x.detach()[i : i + 1, :length].requires_grad_()
            expected = ops.causal_conv1d(alone, weight, bias, "silu", reverse=reverse)
            torch.testing.assert_close(y[i : i + 1, :length], expected, rtol=0, atol=0)
            expected.sum().backward() if length == 0 else expected.backward(gradient[i : i + 1, :length])
            torch.testing.assert_close(x.grad[i : i + 1, :length], alone.grad, rtol=0, atol=0)
            assert (y[i, length:] == 0).all()
            assert (x.grad[i, length:] == 0).all()
    assert weight.grad.isfinite().all()
    assert bias.grad.isfinite().all()


def test_steps_agree_with_the_sequence():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 9, 37), torch.randn(37, 4), torch.randn(37)
    state = torch.randn(2, 37, 3)
    with ops.use_backend("cpu"):
        expected, last = ops.causal_conv1d(x, weight, bias, "silu", initial_state=state, return_final_state=True)
        for t in range(9):
            y, state = ops.causal_conv1d_update(x[:, t], state, weight, bias, "silu")
            torch.testing.assert_close(y, expected[:, t], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state, last, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_empty_inputs(shape):
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(shape[2], 4, requires_grad=True)
    with ops.use_backend("cpu"):
        y, state = ops.causal_conv1d(x, weight, activation="silu", return_final_state=True)
        (y.sum() + state.sum()).backward()
    assert y.shape == x.shape
    assert (weight.grad == 0).all() or shape == (2, 5, 0)

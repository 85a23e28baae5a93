"""The reference operations against their equations, written out element by element, and against themselves."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba.ops import (
    causal_conv1d,
    causal_conv1d_update,
    selective_scan,
    selective_state_update,
    use_backend,
)
from tests.errors import relative_error


@pytest.fixture(autouse=True)
def _reference():
    with use_backend("reference"):
        yield


def scan_inputs(batch, time, channels, state, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "u": normal(batch, time, channels),
        "delta": normal(batch, time, channels),
        "A": -torch.rand(channels, state, generator=generator, dtype=torch.float64).to(dtype) * 4,
        "B": normal(batch, time, state),
        "C": normal(batch, time, state),
        "D": normal(channels),
        "z": normal(batch, time, channels),
        "delta_bias": normal(channels),
    }


def scan_by_hand(u, delta, A, B, C, D, z, delta_bias, length, reverse):
    """One example, (time, channels), by plain Python numbers."""
    y = torch.zeros_like(u)
    for c in range(u.shape[1]):
        h = [0.0] * A.shape[1]
        for t in reversed(range(length)) if reverse else range(length):
            step = math.log1p(math.exp(delta[t, c] + delta_bias[c]))
            h = [math.exp(step * a) * s + step * b * u[t, c] for a, s, b in zip(A[c].tolist(), h, B[t].tolist())]
            out = sum(s * g for s, g in zip(h, C[t].tolist())) + D[c] * u[t, c]
            y[t, c] = out * z[t, c] / (1 + math.exp(-z[t, c]))
    return y


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.data())
def test_scan_is_the_recurrence(batch, time, channels, state, reverse, data):
    x = scan_inputs(batch, time, channels, state)
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, time), min_size=batch, max_size=batch)))
    y = selective_scan(**x, delta_softplus=True, lengths=lengths, reverse=reverse)
    for i in range(batch):
        sequences = {key: x[key][i] for key in ("u", "delta", "B", "C", "z")}
        parameters = {key: x[key] for key in ("A", "D", "delta_bias")}
        expected = scan_by_hand(**sequences, **parameters, length=int(lengths[i]), reverse=reverse)
        assert relative_error(y[i], expected) < 1e-12


@pytest.mark.parametrize("reverse", [False, True])
def test_convolution_is_a_sum_over_earlier_frames(reverse):
    x, weight, bias = torch.randn(2, 6, 3), torch.randn(3, 4), torch.randn(3)
    lengths = torch.tensor([6, 4])
    y = causal_conv1d(x, weight, bias, lengths=lengths, reverse=reverse)
    for i, length in enumerate(lengths.tolist()):
        for t in range(length):
            expected = bias.clone()
            for k in range(4):
                earlier = t + (3 - k) if reverse else t - (3 - k)
                if 0 <= earlier < length:
                    expected += weight[:, k] * x[i, earlier]
            assert relative_error(y[i, t], expected) < 1e-5
        assert not y[i, length:].any()


def test_gradients_are_right():
    x = scan_inputs(2, 4, 2, 3)
    h0 = torch.randn(2, 2, 3, dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (*x.values(), h0)]

    def scan(*values):
        *inputs, initial_state = values
        return selective_scan(
            **dict(zip(x, inputs)), delta_softplus=True, lengths=torch.tensor([4, 2]), reverse=True,
            initial_state=initial_state, return_last_state=True,
        )  # fmt: skip

    assert torch.autograd.gradcheck(scan, tensors)
    shapes = (2, 4, 2), (2, 3), (2,), (2, 2, 2)
    conv = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def convolve(x, weight, bias, state):
        return causal_conv1d(
            x, weight, bias, "silu", lengths=torch.tensor([4, 1]), initial_state=state, return_final_state=True
        )

    assert torch.autograd.gradcheck(convolve, conv)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**16))
def test_chunks_and_steps_equal_one_go(first, second, seed):
    x = scan_inputs(2, first + second, 3, 4, torch.float64, seed)
    x["delta"], x["delta_bias"] = x["delta"].abs(), x["delta_bias"].abs()  # states that decay
    weight = torch.randn(3, 4, dtype=torch.float64)
    state_of = {"scan": torch.randn(2, 3, 4).double(), "conv": torch.randn(2, 3, 3).double()}

    def split(part):
        return {key: value[:, part] if value.dim() == 3 else value for key, value in x.items()}

    whole, last = selective_scan(**x, initial_state=state_of["scan"], return_last_state=True)
    head, state = selective_scan(**split(slice(first)), initial_state=state_of["scan"], return_last_state=True)
    tail, state = selective_scan(**split(slice(first, None)), initial_state=state, return_last_state=True)
    assert relative_error(torch.cat([head, tail], 1), whole) < 1e-5
    assert relative_error(state, last) < 1e-5

    state, conv_state, outputs, convolved = state_of["scan"], state_of["conv"], [], []
    for t in range(first + second):
        y, state = selective_state_update(state, **split(t))
        outputs.append(y)
        y, conv_state = causal_conv1d_update(x["u"][:, t], conv_state, weight)
        convolved.append(y)
    expected, final = causal_conv1d(x["u"], weight, initial_state=state_of["conv"], return_final_state=True)
    if outputs:
        assert relative_error(torch.stack(outputs, 1), whole) < 1e-5
        assert relative_error(torch.stack(convolved, 1), expected) < 1e-5
    assert relative_error(state, last) < 1e-5
    assert torch.equal(conv_state, final)


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_reaches_nothing(reverse):
    lengths = torch.tensor([5, 3, 1, 0])
    x = scan_inputs(4, 5, 3, 4, torch.float32)
    weight = torch.randn(3, 4)
    for key in ("u", "delta", "B", "C", "z"):
        for i, length in enumerate(lengths.tolist()):
            x[key][i, length:] = float("nan")
    tensors = [t.requires_grad_() for t in (*x.values(), weight)]
    u = causal_conv1d(x["u"], weight, None, "silu", lengths=lengths, reverse=reverse)
    y, state = selective_scan(
        **{**x, "u": u}, delta_softplus=True, lengths=lengths, reverse=reverse, return_last_state=True
    )
    (y.square().sum() + state.square().sum()).backward()
    for i, length in enumerate(lengths.tolist()):
        assert not y[i, length:].any()
        assert not x["u"].grad[i, length:].any()
        alone = {key: value[i : i + 1, :length] if value.dim() == 3 else value for key, value in x.items()}
        u_alone = causal_conv1d(alone["u"], weight, None, "silu", reverse=reverse)
        y_alone = selective_scan(**{**alone, "u": u_alone}, delta_softplus=True, reverse=reverse)
        assert relative_error(y[i : i + 1, :length], y_alone) < 1e-6
    assert all(torch.isfinite(t.grad).all() for t in tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_types_accumulate_in_float32(dtype):
    x = scan_inputs(2, 50, 3, 4, torch.float32)
    short = {key: value.to(dtype) for key, value in x.items()}
    y, state = selective_scan(**short, delta_softplus=True, return_last_state=True)
    expected = selective_scan(**{key: value.float() for key, value in short.items()}, delta_softplus=True)
    assert y.dtype == dtype and state.dtype == torch.float32
    assert relative_error(y.float(), expected) < torch.finfo(dtype).eps


def test_autocast_changes_nothing():
    x = scan_inputs(1, 20, 3, 4, torch.float32)
    expected = selective_scan(**x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(**x), expected)

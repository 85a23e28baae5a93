"""The native scan against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import bidirectional_scan_inputs, check, scan_inputs

OPTIONAL = ("D", "z", "delta_bias", "initial_state")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def cancels(inputs: dict) -> bool:
    """Whether the states nearly cancel in all frames, whatever the channel: outputs are rounding errors then."""
    products = inputs["B"].float() * inputs["C"].float()
    return bool((products.sum(-1).abs() < 0.01 * products.abs().sum(-1)).all())


@st.composite
def scan_cases(draw) -> tuple[dict, dict]:
    """Inputs and options of a scan."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 40) | st.integers(41, 300))
    channels, state = draw(st.integers(1, 80)), draw(st.sampled_from((16, 8)) | st.integers(1, 64))
    dtypes = {}
    if draw(st.booleans()):
        dtypes = {name: draw(st.sampled_from(DTYPES)) for name in ("u", "z", "delta", "B", "C", "initial_state")}
    inputs = scan_inputs(batch, time, channels, state, dtypes=dtypes)
    inputs = {name: t for name, t in inputs.items() if name not in OPTIONAL or draw(st.booleans())}
    length = st.sampled_from((0, 1, time)) | st.integers(0, time)
    lengths = draw(st.none() | st.lists(length, min_size=batch, max_size=batch))
    softplus = draw(st.booleans())
    if not softplus:
        inputs["delta"] = inputs["delta"].abs() * 0.2
        if "delta_bias" in inputs:
            inputs["delta_bias"] = inputs["delta_bias"].abs() * 0.2
    assume(not cancels(inputs))
    return inputs, {
        "delta_softplus": softplus,
        "lengths": None if lengths is None else torch.tensor(lengths),
        "reverse": draw(st.booleans()),
        "return_last_state": draw(st.booleans()),
    }


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(case=scan_cases())
def test_scan_agrees_with_the_reference(name, case):
    inputs, options = case
    with instruction_set(name):
        check(ops.selective_scan, inputs, "cpu", **options)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("lengths", [None, [65, 0, 1, 33]])
@pytest.mark.parametrize("gated", [True, False])
def test_bidirectional_scan_agrees_with_the_reference(name, lengths, gated):
    torch.manual_seed(0)
    inputs = bidirectional_scan_inputs(4, 65, 37, 5, gated)
    lengths = None if lengths is None else torch.tensor(lengths)
    with instruction_set(name):
        check(ops.bidirectional_selective_scan, inputs, "cpu", delta_softplus=True, lengths=lengths)


def test_bidirectional_scan_of_many_short_sequences_in_half_precision():
    torch.manual_seed(0)
    dtypes = dict.fromkeys(("u", "z", "delta", "B", "C"), torch.bfloat16)
    inputs = bidirectional_scan_inputs(40, 7, 20, 16, dtypes=dtypes)
    check(ops.bidirectional_selective_scan, inputs, "cpu", delta_softplus=True)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("softplus", [False, True])
def test_extreme_steps_and_decays_stay_right_in_every_element(name, softplus):
    """Steps from 1e-6 to 1e3 times decays from 0 to -1e3; all terms are positive, so that nothing cancels."""
    steps = torch.logspace(-6, 3, 64)
    A = -torch.cat([torch.zeros(1), torch.logspace(-6, 3, 15)]).repeat(20, 1)
    torch.manual_seed(0)
    delta = steps[torch.randint(0, 64, (1, 300, 20))]
    u, B, C = torch.rand(1, 300, 20) + 0.1, torch.rand(1, 300, 16) + 0.1, torch.rand(1, 300, 16) + 0.1
    raw = torch.where(delta > 20, delta, torch.log(torch.expm1(delta.double())).float()) if softplus else delta
    inputs = [t.requires_grad_() for t in (u, raw, A, B, C)]
    with instruction_set(name), ops.use_backend("cpu"):
        y = ops.selective_scan(*inputs, delta_softplus=softplus)
        gradients = torch.autograd.grad(y.sum(), inputs)
    inputs = [t.detach().double().requires_grad_() for t in inputs]
    expected = ops.selective_scan(*inputs, delta_softplus=softplus)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=0)
    for gradient, right in zip(gradients, torch.autograd.grad(expected.sum(), inputs)):
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient.double(), right, rtol=2e-5, atol=1e-6 * right.abs().max().item())


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_softplus_is_accurate_over_its_whole_range(name):
    """With A = 0 and one frame the output is softplus(delta) itself."""
    delta = torch.cat([torch.linspace(-80, 80, 641), torch.tensor([-1e3, 1e3])])[None, None]
    one = torch.ones(1, 1, 1)
    with instruction_set(name), ops.use_backend("cpu"):
        y = ops.selective_scan(torch.ones_like(delta), delta, torch.zeros(643, 1), one, one, delta_softplus=True)
    expected = torch.logaddexp(delta.double(), torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(y.double(), expected, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_out_of_the_padding(reverse):
    """NaN in the padding of every input and of the output's gradient: valid frames are those of the example alone."""
    torch.manual_seed(0)
    lengths, inputs = torch.tensor([70, 0, 33]), scan_inputs(3, 70, 20, 16)
    for name in ("u", "z", "delta", "B", "C"):
        for i, length in enumerate(lengths):
            inputs[name][i, length:] = torch.nan
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    gradient = torch.randn(3, 70, 20)
    for i, length in enumerate(lengths):
        gradient[i, length:] = torch.nan
    with ops.use_backend("cpu"):
        y = ops.selective_scan(**leaves, delta_softplus=True, lengths=lengths, reverse=reverse)
        y.backward(gradient)
        for i, length in enumerate(lengths.tolist()):
            example = {name: t[i : i + 1] if t.dim() == 3 and name != "A" else t for name, t in inputs.items()}
            example |= {name: example[name][:, :length] for name in ("u", "z", "delta", "B", "C")}
            alone = {name: t.detach().requires_grad_() for name, t in example.items()}
            expected = ops.selective_scan(**alone, delta_softplus=True, reverse=reverse)
            expected.backward(gradient[i : i + 1, :length])
            torch.testing.assert_close(y[i : i + 1, :length], expected, rtol=0, atol=0)
            assert (y[i, length:] == 0).all()
            for name in ("u", "z", "delta", "B", "C"):
                torch.testing.assert_close(
                    leaves[name].grad[i : i + 1, :length], alone[name].grad, rtol=1e-6, atol=1e-6
                )
                assert (leaves[name].grad[i, length:] == 0).all()
    assert all(leaves[name].grad.isfinite().all() for name in ("A", "D", "delta_bias", "initial_state"))


def test_a_nan_in_a_valid_frame_is_not_hidden():
    inputs = scan_inputs(1, 40, 16, 16)
    inputs["delta"][0, 10, 3] = torch.nan
    for name in INSTRUCTION_SETS:
        with instruction_set(name), ops.use_backend("cpu"):
            y = ops.selective_scan(**inputs, delta_softplus=True)
        assert y[0, 10:, 3].isnan().all()
        assert y[0, :, :3].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 5, 3, 2), (2, 0, 3, 2), (2, 5, 0, 2)])
def test_empty_inputs(shape):
    batch, _, channels, state = shape
    inputs = scan_inputs(*shape)
    with ops.use_backend("cpu"):
        results = ops.selective_scan(**{n: t.requires_grad_() for n, t in inputs.items()}, return_last_state=True)
        sum(r.sum() for r in results).backward()
    assert results[1].shape == (batch, channels, state)
    if shape[1] == 0:
        torch.testing.assert_close(results[1], inputs["initial_state"], rtol=0, atol=0)
    assert all(t.grad.shape == t.shape for t in inputs.values())


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize(("channels", "state", "dtype"), [(37, 5, torch.float32), (600, 16, torch.bfloat16)])
def test_steps_agree_with_the_sequence(name, channels, state, dtype):
    torch.manual_seed(0)
    dtypes = dict.fromkeys(("u", "z", "delta", "B", "C"), dtype)
    inputs = scan_inputs(2, 6, channels, state, dtypes=dtypes)
    h, overs = inputs.pop("initial_state"), {k: inputs.pop(k) for k in ("u", "delta", "B", "C", "z")}
    exact = dtype == torch.float32  # a sequence in bfloat16 has short exponentials, a step has not
    with instruction_set(name), ops.use_backend("cpu"):
        expected, last = ops.selective_scan(
            **overs, **inputs, delta_softplus=True, initial_state=h, return_last_state=True
        )
        for t in range(6):
            frame = {key: tensor[:, t] for key, tensor in overs.items()}
            y, h = ops.selective_state_update(h, **frame, **inputs, delta_softplus=True)
            torch.testing.assert_close(y, expected[:, t], rtol=1e-5 if exact else 1e-2, atol=1e-5 if exact else 2e-3)
    torch.testing.assert_close(h, last, rtol=1e-5 if exact else 2e-3, atol=1e-5 if exact else 2e-3)


def test_steps_have_gradients():
    torch.manual_seed(0)
    inputs = scan_inputs(2, 1, 20, 4)
    inputs = {n: t[:, 0] if n in ("u", "delta", "B", "C", "z") else t for n, t in inputs.items()}
    inputs["state"] = inputs.pop("initial_state")
    check(ops.selective_state_update, inputs, "cpu", delta_softplus=True)

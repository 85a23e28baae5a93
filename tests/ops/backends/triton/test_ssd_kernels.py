"""The Triton kernels of Mamba-2's scan against the reference, on a GPU or in Triton's interpreter.

See test_interpreted.py; lengths out of range are in test_lengths.py.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.triton import ssd_plan
from tests.ops.backends.triton.devices import DEVICE, RUNS, change_ssd_plans, shorten_chunks
from tests.ops.cases import bidirectional_ssd_inputs, check, lengths_of, run, ssd_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not RUNS, reason="needs a CUDA GPU, or TRITON_INTERPRET=1 as test_interpreted.py sets it"),
]
OVER_TIME = ("x", "delta", "B", "C", "z")
SIZES = (40, 18, 6) if DEVICE == "cpu" else (600, 130, 64)
"""Most frames, head channels and states."""
DTYPE = st.sampled_from((torch.float32, torch.bfloat16, torch.float16))


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    shorten_chunks(monkeypatch)


@settings(max_examples=6 if DEVICE == "cpu" else 30, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
@given(st.integers(1, 2), *(st.integers(1, size) for size in SIZES), st.integers(1, 2), st.integers(1, 2),
       st.tuples(*[st.booleans()] * 4), st.sampled_from([(0.0, float("inf")), (0.1, 0.6)]),
       st.sets(st.sampled_from(["D", "z", "delta_bias", "initial_state"])),
       st.fixed_dictionaries({name: DTYPE for name in (*OVER_TIME, "initial_state")}),
       st.integers(0, 2**16))  # fmt: skip
def test_random_calls(batch, time, channels, states, groups, per_group, flags, limit, missing, dtypes, seed):
    softplus, reverse, returns_state, half = flags
    torch.manual_seed(seed)
    inputs = ssd_inputs(batch, time, groups * per_group, channels, groups, states, dtypes if half else None, softplus)
    inputs = {name: tensor for name, tensor in inputs.items() if name not in missing}
    check(ops.ssd, inputs, "triton", DEVICE, delta_softplus=softplus, dt_limit=limit, reverse=reverse,
          lengths=lengths_of(batch, time), return_last_state=returns_state)  # fmt: skip


@settings(max_examples=4 if DEVICE == "cpu" else 30, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
@given(st.integers(1, 2), *(st.integers(1, size) for size in SIZES), st.integers(1, 2), st.integers(1, 2),
       st.tuples(*[st.booleans()] * 3), st.sets(st.sampled_from(["D", "z", "delta_bias"])),
       st.fixed_dictionaries({name: DTYPE for name in OVER_TIME}), st.integers(0, 2**16))  # fmt: skip
def test_random_calls_in_both_directions(
    batch, time, channels, states, groups, per_group, flags, missing, dtypes, seed
):
    softplus, skip_by_channel, half = flags
    torch.manual_seed(seed)
    inputs = bidirectional_ssd_inputs(
        batch, time, groups * per_group, channels, groups, states, dtypes if half else None, skip_by_channel, missing
    )
    check(ops.bidirectional_ssd, inputs, "triton", DEVICE, roundings=2, delta_softplus=softplus, dt_limit=(0.05, 2.0),
          lengths=lengths_of(batch, time))  # fmt: skip


@pytest.mark.parametrize("programs, parts", [(1, 1), (4, 2)])
def test_any_plan_of_the_walk_back_agrees_with_the_reference(programs, parts, monkeypatch):
    """One program for all heads and chunks, whose gradients of B and C add up; or parts that are added at the end."""
    torch.manual_seed(0)
    processors = ssd_plan.processors_of(torch.device(DEVICE))
    change_ssd_plans(monkeypatch, BACKWARD_PROGRAMS_OF_A_PROCESSOR=programs / processors)
    inputs = ssd_inputs(1, 40, 4, 3, 2, 4)
    plan = ssd_plan.ssd_plan(torch.zeros(1, device=DEVICE).device, 1, 40, 4, 2, 3, 4, 4)
    assert (plan.programs, plan.parts) == (programs, parts)
    check(ops.ssd, inputs, "triton", DEVICE, delta_softplus=True, lengths=torch.tensor([37]), return_last_state=True)


def test_a_single_chunk_goes_on_from_a_state(monkeypatch):
    """Which one kernel serves."""
    torch.manual_seed(0)
    change_ssd_plans(monkeypatch, BLOCK=32)
    for reverse in (False, True):
        check(ops.ssd, ssd_inputs(2, 5, 2, 3, 1, 4), "triton", DEVICE, delta_softplus=True, reverse=reverse,
              lengths=torch.tensor([5, 0]), return_last_state=True)  # fmt: skip


@pytest.mark.parametrize("bias", [0.0, 0.36])
def test_fast_decays_next_to_slow_ones_keep_their_precision(bias):
    """Sums of the exponents reach thousands, and later steps are small; or all decays are so fast that the gradient of
    A is made of numbers that a sum with others would lose."""
    torch.manual_seed(0)
    t = ssd_inputs(1, 32, 1, 2, 1, 3)
    t["A"], t["delta"], t["delta_bias"] = torch.tensor([-100.0]), torch.full((1, 32, 1), 1e-4), torch.tensor([bias])
    t["delta"][:, :5] = 10.0
    check(ops.ssd, t, "triton", DEVICE, return_last_state=True)


def test_nothing_leaks_out_of_the_padding():
    """NaN in the padding of inputs and of the output's gradient reaches nothing."""
    torch.manual_seed(0)
    t, lengths = {name: value.to(DEVICE) for name, value in ssd_inputs(3, 20, 2, 3, 1, 4).items()}, [20, 0, 7]
    gradient = torch.randn_like(t["x"])
    clean = {name: value.clone() for name, value in t.items()}
    for name in OVER_TIME:
        t[name] = t[name].clone()
        for i, length in enumerate(lengths):
            t[name][i, length:] = torch.nan
    outputs = []
    for inputs, dy in ((t, gradient.clone()), (clean, gradient)):
        if inputs is t:
            for i, length in enumerate(lengths):
                dy[i, length:] = torch.nan
        leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
        with ops.use_backend("triton"):
            y = ops.ssd(**leaves, delta_softplus=True, lengths=torch.tensor(lengths, device=DEVICE))
        outputs.append([y, *torch.autograd.grad(y, list(leaves.values()), dy)])
    for dirty, right in zip(*outputs):
        assert torch.equal(dirty, right)
    assert not any(outputs[0][0][i, length:].any() for i, length in enumerate(lengths))


def test_steps_and_pieces_agree_with_the_sequence():
    torch.manual_seed(0)
    t = {name: value.to(DEVICE) for name, value in ssd_inputs(2, 21, 4, 5, 2, 3, None, True).items()}
    state = t.pop("initial_state")
    options = {"delta_softplus": True, "dt_limit": (0.1, 2.0)}

    def part(frames):
        return {name: value[:, frames] if name in OVER_TIME else value for name, value in t.items()}

    with ops.use_backend("triton"):
        whole, last = ops.ssd(**t, **options, initial_state=state, return_last_state=True)
        y, state = ops.ssd(**part(slice(0, 19)), **options, initial_state=state, return_last_state=True)
        torch.testing.assert_close(y, whole[:, :19], rtol=1e-5, atol=1e-5)
        for frame in (19, 20):
            before = state.clone()
            y, after = ops.ssd_update(state, **part(frame), **options)
            torch.testing.assert_close(y, whole[:, frame], rtol=1e-5, atol=1e-5)
            assert torch.equal(state, before)
            state = after
        torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)
        y, _ = ops.ssd_update(state.requires_grad_(), **part(20), **options)
        (gradient,) = torch.autograd.grad(y.sum(), state)
    with ops.use_backend("reference"):
        y, _ = ops.ssd_update(state, **part(20), **options)
        torch.testing.assert_close(gradient, torch.autograd.grad(y.sum(), state)[0], rtol=1e-5, atol=1e-5)


def test_a_step_in_half_precision_agrees_with_the_reference():
    torch.manual_seed(0)
    t = ssd_inputs(2, 1, 2, 5, 1, 3, dict.fromkeys(OVER_TIME, torch.bfloat16))
    t |= {name: t[name][:, 0] for name in OVER_TIME}
    t = {name: value.to(DEVICE) for name, value in t.items()}
    state = t.pop("initial_state")
    results = []
    for backend in ("triton", "reference"):
        with ops.use_backend(backend):
            results.append(ops.ssd_update(state, **t, delta_softplus=True))
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-2)
    assert results[0][0].dtype == torch.bfloat16 and results[0][1].dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 5, 2, 3), (2, 0, 2, 3), (2, 5, 2, 0)])
def test_empty_inputs(shape):
    batch, time, heads, channels = shape
    t = {
        name: value.to(DEVICE).requires_grad_()
        for name, value in ssd_inputs(batch, time, heads, channels, 1, 4).items()
    }
    with ops.use_backend("triton"):
        y, last = ops.ssd(**t, return_last_state=True)
        (y.sum() + last.sum()).backward()
    assert y.shape == t["x"].shape
    if time == 0:
        torch.testing.assert_close(last, t["initial_state"], rtol=0, atol=0)
        assert (t["initial_state"].grad == 1).all()
    assert all(value.grad.shape == value.shape for value in t.values())


def test_equal_calls_give_equal_bits():
    torch.manual_seed(0)
    inputs = ssd_inputs(1, 33, 2, 5, 1, 3)
    with ops.use_backend("triton"):
        one, other = (run(ops.ssd, inputs, DEVICE, delta_softplus=True) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_compiled_call_and_transformed_gradients_agree_with_eager_ones():
    torch.manual_seed(0)
    t = {name: value.to(DEVICE) for name, value in ssd_inputs(1, 9, 2, 3, 1, 2).items()}
    x = t.pop("x")

    def loss(x):
        return ops.ssd(x, **t, delta_softplus=True).square().sum()

    with ops.use_backend("triton"):
        leaf = x.clone().requires_grad_()
        expected = torch.autograd.grad(loss(leaf), leaf)[0]
        torch.testing.assert_close(torch.func.grad(loss)(x), expected)
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], expected)


def test_heads_that_do_not_fit_are_refused_with_a_reason():
    for channels, states in ((257, 4), (128, 200)):
        inputs = {name: t.to(DEVICE) for name, t in ssd_inputs(1, 2, 1, channels, 1, states).items()}
        with ops.use_backend("triton"), pytest.raises(ValueError, match=f"but got {channels} channels of {states}"):
            ops.ssd(**inputs)

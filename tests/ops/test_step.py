"""One step of a layer as one operation: against the reference in float64, and as part of other programs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import TOLERANCE, layer_inputs, mapped


def step_inputs(batch: int, channels: int, state: int, rank: int, width: int, bias: bool = True) -> tuple:
    """What a step takes; the input is a slice, as in a layer."""
    direction = layer_inputs(1, 1, channels, state, rank, width)["forward"]
    xz = torch.randn(batch, 3 * channels)[:, channels:]
    states = torch.randn(batch, channels, width - 1), torch.randn(batch, channels, state)
    return xz, *states, direction if bias else direction._replace(conv_bias=None)


def exact(inputs: tuple) -> tuple:
    """The step by the reference in float64."""
    with ops.use_backend("reference"):
        return ops.mamba_inner_update(*(mapped(torch.Tensor.double, t) for t in inputs))


def assert_near(results: tuple, expected: tuple, tolerance: float) -> None:
    for result, right in zip(results, expected, strict=True):
        assert result.shape == right.shape
        if right.numel():
            assert (result - right).abs().max() <= tolerance * right.abs().max().clamp(min=1e-30)


@st.composite
def step_cases(draw) -> tuple:
    torch.manual_seed(draw(st.integers(0, 1000)))
    sizes = draw(st.integers(0, 9)), draw(st.integers(1, 40) | st.just(530)), draw(st.just(16) | st.integers(1, 20))
    return step_inputs(*sizes, draw(st.integers(1, 20)), draw(st.integers(1, 5)), draw(st.booleans()))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=step_cases())
def test_packed_steps_agree_with_the_reference(name, case):
    *inputs, direction = case
    with instruction_set(name), torch.no_grad():
        packed = ops.pack_step(direction)
        assert packed.packed is not None
        assert_near(ops.mamba_inner_update(*inputs, packed), exact(case), TOLERANCE[torch.float32])
        assert_near(ops.mamba_inner_update(*case), exact(case), TOLERANCE[torch.float32])


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_types(name, dtype):
    torch.manual_seed(0)
    xz, conv, ssm, direction = step_inputs(3, 37, 16, 5, 4)
    xz, conv = xz.to(dtype), conv.to(dtype)
    with instruction_set(name), torch.no_grad():
        results = ops.mamba_inner_update(xz, conv, ssm, ops.pack_step(direction))
    assert [t.dtype for t in results] == [dtype, dtype, torch.float32]
    assert_near(results, exact((xz, conv, ssm, direction)), 3 * TOLERANCE[dtype])


def test_nothing_is_changed_in_place():
    torch.manual_seed(0)
    *inputs, direction = step_inputs(2, 20, 4, 3, 4)
    before, packed = [t.clone() for t in inputs], ops.pack_step(direction)
    with torch.no_grad():
        ops.mamba_inner_update(*inputs, packed)
    assert all(torch.equal(one, other) for one, other in zip(inputs, before))


def test_float64_is_computed_in_float64_by_packed_parameters_too():
    torch.manual_seed(0)
    case = step_inputs(2, 20, 4, 3, 4)
    *inputs, direction = (mapped(torch.Tensor.double, t) for t in case)
    with torch.no_grad():
        assert_near(ops.mamba_inner_update(*inputs, ops.pack_step(direction)), exact(case), 1e-12)
        assert_near(ops.mamba_inner_update(*inputs, ops.pack_step(case[-1])), exact(case), 1e-6)


def test_a_chosen_backend_serves_packed_parameters():
    torch.manual_seed(0)
    *inputs, direction = case = step_inputs(2, 20, 4, 3, 4)
    packed, other = ops.pack_step(direction), ops.pack_step(direction._replace(D=direction.D + 1))
    mixed = packed._replace(packed=other.packed)  # tells who serves
    with torch.no_grad():
        with ops.use_backend("reference"):
            assert_near(ops.mamba_inner_update(*inputs, mixed), exact(case), 1e-5)
        with ops.use_backend("cpu"):
            y = ops.mamba_inner_update(*inputs, mixed)[0]
    assert not torch.allclose(y.double(), exact(case)[0])


def test_gradients_of_packed_parameters_are_those_of_the_reference():
    torch.manual_seed(0)
    *inputs, direction = step_inputs(2, 9, 4, 3, 4)
    leaves = [t.requires_grad_() for t in (*inputs, *direction)]

    def gradients(parameters):
        results = ops.mamba_inner_update(*inputs, parameters)
        return torch.autograd.grad(sum(t.square().sum() for t in results), leaves)

    with ops.use_backend("reference"):
        expected = gradients(direction)
    for one, other in zip(gradients(ops.pack_step(direction)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_steps_are_seen_by_compilers_and_transformations(monkeypatch):
    """Where the operation has to be one of torch's, the packed parameters do not serve."""
    torch.manual_seed(0)
    *inputs, direction = case = step_inputs(2, 20, 4, 3, 4)
    packed = ops.pack_step(direction)._replace(packed=torch.full((1,), torch.nan))
    with torch.no_grad():
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert_near(ops.mamba_inner_update(*inputs, packed), exact(case), 1e-5)
        monkeypatch.undo()
        with ops.use_backend("reference"):  # the kernels have no batching rule
            each = torch.vmap(lambda *t: ops.mamba_inner_update(*t, packed))(*(t[:, None] for t in inputs))
        assert_near(tuple(t[:, 0] for t in each), exact(case), 1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: torch.zeros(2, 7)}, ValueError, r"xz .*\(2, 8\)"),
        ({0: torch.zeros(2, 1, 8)}, ValueError, "xz has shape"),
        ({1: torch.zeros(2, 4, 2)}, ValueError, r"conv_state .*\(2, 4, 3\)"),
        ({2: torch.zeros(1, 4, 3)}, ValueError, r"ssm_state .*\(2, 4, 3\)"),
        ({3: None}, TypeError, "direction is a NoneType, but must be a Direction or PackedStep"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_wrong_arguments_are_told(change, error, message, packed):
    inputs = list(step_inputs(2, 4, 3, 2, 4))
    if packed:
        inputs[3] = ops.pack_step(inputs[3])
    for place, value in change.items():
        inputs[place] = value
    with torch.no_grad(), pytest.raises(error, match=message):
        ops.mamba_inner_update(*inputs)

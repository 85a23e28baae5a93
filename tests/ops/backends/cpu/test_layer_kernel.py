"""The fused bidirectional layer against the reference, and against what the layer is made of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import check, layer_inputs, without_bias


@st.composite
def layer_cases(draw) -> tuple[dict, torch.Tensor | None]:
    """Inputs and lengths."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 40) | st.integers(41, 200))
    channels, state = draw(st.integers(1, 40)), draw(st.just(16) | st.integers(1, 20))
    inputs = layer_inputs(batch, time, channels, state, draw(st.integers(1, 20)), draw(st.integers(1, 5)))
    inputs = without_bias(inputs, conv=draw(st.booleans()), out_proj=draw(st.booleans()))
    length = st.sampled_from((0, 1, time)) | st.integers(0, time)
    lengths = draw(st.none() | st.lists(length, min_size=batch, max_size=batch))
    return inputs, None if lengths is None else torch.tensor(lengths)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=layer_cases())
def test_layer_agrees_with_the_reference(name, case):
    inputs, lengths = case
    with instruction_set(name):
        check(ops.bidirectional_mamba_inner, inputs, "cpu", lengths=lengths)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layer_in_half_precision_agrees_with_the_reference(name, dtype):
    """On a case large enough for the rounding of activations to average out."""
    torch.manual_seed(0)
    inputs = layer_inputs(3, 65, 37, 16, 3)
    inputs["xz"] = inputs["xz"].to(dtype)
    with instruction_set(name):
        check(ops.bidirectional_mamba_inner, inputs, "cpu", roundings=4, lengths=torch.tensor([65, 1, 40]))


def test_frozen_parameters_get_no_gradient_and_the_others_the_same():
    torch.manual_seed(0)
    inputs = layer_inputs(2, 50, 20, 16, 2)
    grads = []
    for frozen in (False, True):
        leaves = inputs | {"xz": inputs["xz"].clone().requires_grad_()}
        for name in ("forward", "reverse"):
            own = inputs[name]._asdict()
            own = {key: t.clone().requires_grad_(not frozen or key == "D") for key, t in own.items()}
            leaves[name] = ops.Direction(**own)
        with ops.use_backend("cpu"):
            ops.bidirectional_mamba_inner(**leaves).square().sum().backward()
        grads.append((leaves["xz"].grad, leaves["forward"].D.grad, leaves["reverse"].D.grad))
        assert (leaves["forward"].A.grad is None) == frozen
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_leaks_out_of_the_padding(dtype):
    torch.manual_seed(0)
    inputs, lengths = layer_inputs(3, 70, 20, 16, 2), [70, 0, 3]
    xz, gradient = inputs.pop("xz").to(dtype), torch.randn(3, 70, 6).to(dtype)
    for i, length in enumerate(lengths):
        xz[i, length:] = gradient[i, length:] = torch.nan
    xz.requires_grad_()
    with ops.use_backend("cpu"):
        y = ops.bidirectional_mamba_inner(xz, **inputs, lengths=torch.tensor(lengths))
        y.backward(gradient)
        for i, length in enumerate(lengths):
            assert (y[i, length:] == 0).all()
            assert (xz.grad[i, length:] == 0).all()
            if length == 0:
                continue
            alone = xz.detach()[i : i + 1, :length].requires_grad_()
            expected = ops.bidirectional_mamba_inner(alone, **inputs)
            expected.backward(gradient[i : i + 1, :length])
            torch.testing.assert_close(y[i : i + 1, :length], expected)
            torch.testing.assert_close(xz.grad[i : i + 1, :length], alone.grad)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3)])
def test_empty_inputs(shape):
    inputs = layer_inputs(*shape, 4, 2)
    inputs["xz"].requires_grad_()
    with ops.use_backend("cpu"):
        y = ops.bidirectional_mamba_inner(**inputs)
        y.sum().backward()
    assert y.shape == (*shape[:2], 6)
    assert inputs["xz"].grad.shape == inputs["xz"].shape


def test_a_compiled_layer_and_transformed_gradients_agree_with_eager_ones():
    torch.manual_seed(0)
    inputs = layer_inputs(2, 33, 10, 16, 2)
    xz = inputs.pop("xz")

    def loss(xz):
        return ops.bidirectional_mamba_inner(xz, **inputs).square().sum()

    with ops.use_backend("cpu"):
        expected = torch.autograd.grad(loss(leaf := xz.clone().requires_grad_()), leaf)[0]
        torch.testing.assert_close(torch.func.grad(loss)(xz), expected)
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], expected)

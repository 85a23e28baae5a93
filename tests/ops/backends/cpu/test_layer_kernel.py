"""The fused bidirectional layer against the reference, and against what the layer is made of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import TOLERANCE, check, layer_inputs, mapped, without_bias


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


def one_way_inputs(seed, dtype=torch.float32, continues=True):
    """Inputs of one direction, some of them slices, and states."""
    torch.manual_seed(seed)
    layer = layer_inputs(3, 45, 20, 5, 3)
    x, z = layer["xz"].to(dtype).chunk(2, -1)
    state = (torch.randn(3, 20, 3), torch.randn(3, 20, 5)) if continues else None
    return {"x": x, "direction": layer["forward"], "z": z if seed else None, "initial_state": state}


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("seed, dtype, continues, lengths", [
    (0, torch.float32, True, None),
    (1, torch.float32, False, [45, 0, 7]),
    (2, torch.float32, True, [0, 45, 7]),
    (3, torch.bfloat16, True, [45, 1, 0]),
])  # fmt: skip
@pytest.mark.parametrize("reverse", [False, True])
def test_one_direction_agrees_with_the_reference(name, seed, dtype, continues, lengths, reverse):
    inputs = one_way_inputs(seed, dtype, continues)
    options = {"lengths": None if lengths is None else torch.tensor(lengths), "reverse": reverse}
    for i, length in enumerate(lengths or []):
        inputs["x"][i, length:] = torch.nan
    with torch.no_grad(), instruction_set(name):
        y, after = ops.mamba_inner(**inputs, **options)
    with ops.use_backend("reference"):
        exact = {key: mapped(lambda t: t.double(), value) for key, value in inputs.items() if key != "initial_state"}
        state = inputs["initial_state"]
        exact["initial_state"] = None if state is None else tuple(t.double() for t in state)
        right, right_after = ops.mamba_inner(**exact, **options)
    assert y.dtype == dtype and after[1].dtype == torch.float32
    for one, other in zip((y, *after), (right, *right_after)):
        assert one.shape == other.shape
        assert (one.double() - other).abs().max() < 4 * TOLERANCE[dtype] * other.abs().max()


@pytest.mark.parametrize("reverse", [False, True])
def test_one_direction_has_a_gradient_and_takes_pieces(reverse):
    inputs = one_way_inputs(1)
    leaf = inputs["x"].clone().requires_grad_()
    y, after = ops.mamba_inner(**inputs | {"x": leaf}, reverse=reverse)
    (y.square().sum() + sum(t.sum() for t in after)).backward()
    assert leaf.grad.abs().min() > 0
    parts = [slice(0, 13), slice(13, 45)]
    state, outputs = inputs["initial_state"], {}
    with torch.no_grad():
        for part in reversed(parts) if reverse else parts:
            piece = {"x": inputs["x"][:, part], "z": inputs["z"][:, part], "initial_state": state}
            outputs[part.start], state = ops.mamba_inner(**inputs | piece, reverse=reverse)
    torch.testing.assert_close(torch.cat([outputs[0], outputs[13]], 1), y.detach())
    for one, other in zip(state, after):
        torch.testing.assert_close(one, other.detach())


def test_one_direction_is_an_operation_of_torch():
    inputs = one_way_inputs(1)
    del inputs["initial_state"]

    def both(x):
        y, after = ops.mamba_inner(**inputs | {"x": x}, lengths=torch.tensor([45, 3, 9]))
        return y, *after

    with torch.no_grad():
        compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
        for one, other in zip(compiled(inputs["x"]), both(inputs["x"])):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wrong, words", [
    ({"x": torch.randn(3, 45)}, "x has shape"),
    ({"x": torch.randn(3, 45, 7)}, "x has shape .* = \\(3, 45, 20\\)"),
    ({"z": torch.randn(3, 4, 20)}, "z has shape"),
    ({"initial_state": (torch.randn(3, 20, 2), torch.randn(3, 20, 5))}, "the state of the convolution has shape"),
    ({"initial_state": (torch.randn(3, 20, 3), torch.randn(3, 20, 4))}, "the state of the scan has shape"),
    ({"lengths": torch.tensor([46, 0, 0])}, "0 to 45"),
])  # fmt: skip
def test_wrong_arguments_of_one_direction(wrong, words):
    with pytest.raises(ValueError, match=words):
        ops.mamba_inner(**one_way_inputs(1) | wrong)


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

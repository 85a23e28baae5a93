"""Products with weights of 8-bit integers: against exact integers, row by row, and within a layer."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from speechbrain_mamba.nnet.reduced_linear import reduce_linears
from speechbrain_mamba.ops import approximate_exponentials, bidirectional_mamba_inner, int8, use_backend
from speechbrain_mamba.ops.backends import cpu, reference
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from speechbrain_mamba.ops.int8 import PackedWeight, project
from speechbrain_mamba.ops.rowwise import ACTIVATIONS, Norm, activate, normalize
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import layer_inputs

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
needs_int8 = pytest.mark.skipif(
    int8.int8_unavailable() is not None, reason="this machine has no products of 8-bit integers"
)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), rows=st.integers(0, 40), features=st.integers(1, 70), dtype=st.sampled_from(DTYPES))
def test_rows_become_integers_and_floats_again(name, seed, rows, features, dtype):
    torch.manual_seed(seed)
    wide = (torch.randn(rows, features + 3) * torch.logspace(-3, 3, rows)[:, None]).to(dtype)
    x, bias = wide[:, :features], torch.randn(features) if seed % 2 else None
    y, expected = (torch.empty(rows, features, dtype=dtype) for _ in range(2))
    with instruction_set(name):
        integers, scales = cpu.quantize_rows(x)
        cpu.finish_rows(integers.float() - 128, scales, bias, y)
    whole, same_scales = reference.quantize_rows(x)
    torch.testing.assert_close(scales, same_scales, rtol=1e-6, atol=0)
    assert ((integers.int() - whole.int()).abs() <= 1).all()  # halves may go either way
    reference.finish_rows(integers.float() - 128, scales, bias, expected)
    torch.testing.assert_close(y, expected, rtol=2e-3, atol=2e-3)
    if bias is None:
        error = (y.float() - x.float()).abs()
        assert (error <= 0.51 * scales[:, None] + 4e-3 * x.float().abs()).all()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000), rows=st.integers(0, 40), features=st.integers(1, 70), dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["rms", "layer"]), weighted=st.booleans(), biased=st.booleans(),
    activation=st.sampled_from([None, *ACTIVATIONS]),
)  # fmt: skip
def test_rows_are_normalized_before_they_become_integers(
    name, seed, rows, features, dtype, kind, weighted, biased, activation
):
    torch.manual_seed(seed)
    wide = (torch.randn(rows, features + 3) * torch.logspace(-3, 3, rows)[:, None]).to(dtype)
    x, epsilon = wide[:, :features], 10.0 ** -(seed % 7)
    weight, bias = (torch.randn(features) if given else None for given in (weighted, biased and kind == "layer"))
    if rows:
        x[rows // 2] = 0
    norm = Norm(kind, epsilon, weight, bias, activation)
    with instruction_set(name), approximate_exponentials(False):
        integers, scales = cpu.quantize_rows(x, norm)
    whole, same_scales = reference.quantize_rows(x, norm)
    if features == 1 and kind == "layer":  # the difference to its own mean, times what may be a large number
        return
    torch.testing.assert_close(scales, same_scales, rtol=1e-4, atol=0)
    assert ((integers.int() - whole.int()).abs() <= 1).all()
    weights = (None if one is None else one.double() for one in norm[2:4])
    exact = normalize(x.double(), Norm(kind, epsilon, *weights, activation))
    found = (integers.double() - 128) * scales[:, None]
    assert ((found - exact).abs() <= 0.51 * scales[:, None] + 1e-4 * exact.abs()).all()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_rows_that_are_zero_tiny_or_not_finite(name):
    x = torch.tensor([[0.0, 0, 0], [1e-36, 0, 0], [1, float("nan"), 2], [1, float("inf"), 2], [-3, 1, 2]])
    with instruction_set(name):
        integers, scales = cpu.quantize_rows(x)
    assert (integers[:2] == 128).all() and (scales[:2] == 0).all()
    assert scales[2].isnan() and scales[3].isinf()
    assert integers[4].tolist() == [1, 170, 213]
    for quantize in (cpu.quantize_rows, reference.quantize_rows):
        with instruction_set(name):
            for kind in ("rms", "layer"):
                _, scales = quantize(x, Norm(kind, 1e-5, torch.tensor([1.0, 2, 3])))
                assert (scales[:2] == 0).all() and scales[2:4].isnan().all() and scales[4].isfinite()


@pytest.mark.parametrize("from_dtype", [torch.float32, torch.bfloat16])
def test_products_are_scaled_in_place_too(from_dtype):
    x, scales = torch.randn(5, 37).to(from_dtype), torch.rand(5)
    expected = (x.float() * scales[:, None]).to(from_dtype)
    cpu.finish_rows(x, scales, None, x)
    torch.testing.assert_close(x, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_go_through_an_activation(name, activation, dtype):
    torch.manual_seed(0)
    products, scales, bias = torch.randn(9, 37), torch.rand(9), torch.randn(37)
    y, expected = (torch.empty(9, 37, dtype=dtype) for _ in range(2))
    with instruction_set(name), approximate_exponentials(False):
        cpu.finish_rows(products, scales, bias, y, activation)
    reference.finish_rows(products, scales, bias, expected, activation)
    exact = activate(products.double() * scales[:, None] + bias, activation)
    for found in (y, expected):
        torch.testing.assert_close(found.double(), exact, rtol=1e-6 if dtype == torch.float32 else 5e-3, atol=1e-6)


@needs_int8
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_integers(backend, dtype):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 7, 50).to(dtype), torch.randn(33, 50), torch.randn(33)
    weight[4] = 0
    with use_backend(backend):
        y = project(x, PackedWeight(weight), bias)
    integers, scales = reference.quantize_rows(x.flatten(0, 1))
    steps = weight.abs().amax(1) / 127
    rows = (weight / steps.clamp(min=1e-30)[:, None]).round()
    exact = ((integers.double() - 128) @ rows.double().T * steps * scales[:, None].double() + bias).float()
    assert y.dtype == dtype and y.shape == (3, 7, 33)
    torch.testing.assert_close(y.flatten(0, 1).float(), exact, rtol=1e-2, atol=0.05)
    relative = (y.float() - F.linear(x.float(), weight, bias)).norm() / y.float().norm()
    assert relative < 0.02


@needs_int8
def test_the_largest_numbers_do_not_overflow():
    x, weight = torch.full((2, 1024), -1.0), torch.full((8, 1024), 1.0)
    torch.testing.assert_close(PackedWeight(weight).multiply(x), torch.full((2, 8), -1024.0))


@needs_int8
def test_a_row_is_the_same_whatever_stands_beside_it():
    torch.manual_seed(0)
    weight, x = PackedWeight(torch.randn(600, 64)), torch.randn(3000, 64)
    together = weight.multiply(x)
    beside = x.clone()
    beside[0], beside[2999] = 1e6, float("nan")
    among_large = weight.multiply(beside)
    assert torch.equal(among_large[1:2999], together[1:2999]) and among_large[2999].isnan().all()
    assert torch.equal(weight.multiply(x[1000:1001]), together[1000:1001])
    assert weight.multiply(x[:0]).shape == (0, 600)


@needs_int8
def test_what_cannot_be_done_is_refused():
    weight, x = PackedWeight(torch.randn(8, 16)), torch.randn(2, 16)
    with pytest.raises(ValueError, match="Weights of 8-bit integers have no gradient: load the model in fp32 or bf16"):
        weight.multiply(x.requires_grad_())
    with pytest.raises(TypeError, match=r"A weight of 8-bit integers got torch\.float64 on cpu"):
        weight.multiply(x.detach().double())
    with pytest.raises(ValueError, match="The weight holds NaN or infinity"):
        PackedWeight(torch.tensor([[1.0, float("nan")]]))
    assert copy.deepcopy(weight) is weight


def test_a_machine_without_the_instructions_says_so(monkeypatch):
    class Saturating:
        def __init__(self, integers, scales):
            pass

        def multiply(self, rows, dtype):
            return torch.full((len(rows), 16), 32767.0)

    for name, value, reason in (
        ("Int8Factor", Saturating, "no instructions"),
        ("platform", type("P", (), {"machine": staticmethod(lambda: "aarch64")}), "this machine is aarch64"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(int8, name, value)
            int8.int8_unavailable.cache_clear()
            assert reason in int8.int8_unavailable()
            with pytest.raises(ValueError, match=f"The weight cannot be made of 8-bit integers: .*{reason}"):
                PackedWeight(torch.ones(2, 2))
    int8.int8_unavailable.cache_clear()


@needs_int8
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_take_such_weights(backend, dtype):
    torch.manual_seed(0)
    layer = BiMamba(64, d_state=16, bias=True).eval().requires_grad_(False)
    x, lengths = torch.randn(2, 40, 64), torch.tensor([40, 13])
    x[1, 13:] = float("nan")
    expected = layer(x, lengths)
    reduce_linears(layer, "int8")
    assert all(isinstance(part.weight, PackedWeight) for part in (layer.in_proj, layer.x_proj_b, layer.out_proj))
    with use_backend(backend), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer(x, lengths)
        alone = layer(x[1:, :13])
    assert y.dtype == dtype and (y[1, 13:] == 0).all()
    assert (y.float() - expected).norm() / expected.norm() < 0.03
    torch.testing.assert_close(y[1:, :13].float(), alone.float(), rtol=0.02, atol=0.02)


@needs_int8
def test_a_causal_layer_steps_as_it_runs():
    torch.manual_seed(0)
    layer = Mamba(64, d_state=8).eval().requires_grad_(False)
    reduce_linears(layer, "int8")
    assert isinstance(layer.in_proj.weight, PackedWeight) and isinstance(layer.x_proj.weight, torch.Tensor)
    x = torch.randn(2, 9, 64)
    whole, state = layer(x), layer.init_state(2)
    for t in range(9):
        y, state = layer.step(x[:, t], state)
        torch.testing.assert_close(y, whole[:, t], rtol=0.01, atol=0.01)


@needs_int8
def test_a_compiler_leaves_out_layers_with_packed_weights():
    torch.manual_seed(0)
    inputs = layer_inputs(2, 33, 16, 8, 4)
    inputs["out_proj_weight"] = PackedWeight(inputs["out_proj_weight"])
    xz = inputs.pop("xz")
    with torch.no_grad():
        expected = bidirectional_mamba_inner(xz, **inputs)
        compiled = torch.compile(lambda x: bidirectional_mamba_inner(2 * x, **inputs), backend="aot_eager")
        torch.testing.assert_close(compiled(xz / 2), expected)

"""Normalization of rows: kernels against PyTorch, and who computes it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba.ops import approximate_exponentials, use_backend
from speechbrain_mamba.ops.backends import cpu, reference
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from speechbrain_mamba.ops.rowwise import ACTIVATIONS, DTYPES, Norm, activate, finish_product, normalize, normalize_to
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def draw_norm(kind: str, features: int, weighted: bool, biased: bool, epsilon: float = 1e-5) -> Norm:
    weight, bias = (torch.randn(features) if given else None for given in (weighted, biased and kind == "layer"))
    return Norm(kind, epsilon, weight, bias)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000), rows=st.integers(0, 40), features=st.integers(2, 70), dtype=st.sampled_from(DTYPES),
    to=st.sampled_from(DTYPES), kind=st.sampled_from(["rms", "layer"]), weighted=st.booleans(), biased=st.booleans(),
    activation=st.sampled_from([None, *ACTIVATIONS]),
)  # fmt: skip
def test_rows_are_normalized_and_rounded(name, seed, rows, features, dtype, to, kind, weighted, biased, activation):
    torch.manual_seed(seed)
    wide = (torch.randn(rows, features + 3) * torch.logspace(-2, 2, rows)[:, None]).to(dtype)
    x, norm = wide[:, :features], draw_norm(kind, features, weighted, biased)._replace(activation=activation)
    with instruction_set(name), approximate_exponentials(False):
        found = cpu.normalize_rows(x, norm, to)
    assert found.dtype == to and found.is_contiguous()
    weights = (None if one is None else one.double() for one in norm[2:4])
    exact = normalize(x.double(), Norm(kind, 1e-5, *weights, activation))
    for y in (found, reference.normalize_rows(x, norm, to)):
        error = (y.double() - exact).abs()
        assert (error <= ROUNDING[to] * exact.abs() + 1e-5 * exact.abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_row_that_is_not_finite_stays_alone(name):
    x = torch.tensor([[1.0, 2, 3], [1, torch.nan, 2], [1, torch.inf, 2], [0, 0, 0]])
    with instruction_set(name):
        for kind in ("rms", "layer"):
            y = cpu.normalize_rows(x, Norm(kind, 1e-5), torch.bfloat16)
            assert y[1].isnan().any() and y[2].isnan().any()
            assert y[0].isfinite().all() and (y[3] == 0).all()


def test_the_chosen_backend_normalizes(monkeypatch):
    called = []
    for backend in (cpu, reference):
        compute = backend.normalize_rows
        monkeypatch.setattr(
            backend, "normalize_rows", lambda *a, name=backend.__name__, f=compute: called.append(name) or f(*a)
        )
    x, norm = torch.randn(2, 3, 8), Norm("rms", 1e-5)
    for name in ("auto", "reference"):
        with use_backend(name):
            assert normalize_to(x, norm, torch.bfloat16).shape == x.shape
    assert [name.rpartition(".")[2] for name in called] == ["cpu", "reference"]


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000), shape=st.lists(st.integers(0, 7), max_size=2), features=st.integers(1, 70),
    dtype=st.sampled_from(DTYPES), activation=st.sampled_from(list(ACTIVATIONS)), biased=st.booleans(),
    short=st.booleans(),
)  # fmt: skip
def test_products_get_a_bias_and_an_activation(name, seed, shape, features, dtype, activation, biased, short):
    torch.manual_seed(seed)
    y, bias = (3 * torch.randn(*shape, features)).to(dtype), torch.randn(features) if biased else None
    before = y.clone()
    sums = before.double() if bias is None else before.double() + bias
    exact = activate(sums, activation)
    with instruction_set(name), approximate_exponentials(short):
        found = finish_product(y, bias, activation)
    assert found.dtype == dtype and found.shape == y.shape
    error, allowed = (found.double() - exact).abs(), ROUNDING[dtype] * exact.abs() + 1e-6
    assert (error <= allowed + (3e-4 if short and activation == "gelu" else 0) * sums.abs()).all()
    with use_backend("reference"):
        expected = finish_product(before, bias, activation)
    assert ((expected.double() - exact).abs() <= allowed).all()


def test_a_gelu_is_short_where_exponentials_may_be():
    """bfloat16 by itself, and whoever asks for it."""
    x = torch.linspace(-4, 4, 4001)

    def gelu(allowed=None, dtype=torch.float32):
        y = torch.empty(1, len(x), dtype=dtype)
        with contextlib.nullcontext() if allowed is None else approximate_exponentials(allowed):
            cpu.finish_rows(x[None], None, None, y, "gelu")
            normed = cpu.normalize_rows(x[None], Norm("rms", 1e-5, None, None, "gelu"), dtype)
        return torch.cat([y, normed])

    assert torch.equal(gelu(), gelu(False)) and not torch.equal(gelu(), gelu(True))
    rounded = {allowed: gelu(allowed, torch.bfloat16) for allowed in (None, True, False)}
    assert torch.equal(rounded[None], rounded[True]) and not torch.equal(rounded[None], rounded[False])


def test_a_product_that_needs_a_gradient_is_left_as_it_is():
    y, bias = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    before = y.detach().clone()
    finish_product(y, bias, "gelu").sum().backward()
    assert torch.equal(y, before) and y.grad is not None and bias.grad is not None
    with torch.no_grad():
        columns = torch.randn(8, 3).t()
        torch.testing.assert_close(finish_product(columns, None, "gelu"), activate(columns, "gelu"))


def test_gradients_other_types_and_programs_are_served():
    torch.manual_seed(0)
    x, norm = torch.randn(2, 3, 8, requires_grad=True), Norm("layer", 1e-5, torch.rand(8), torch.rand(8))
    normalize_to(x, norm, torch.bfloat16).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    doubles = Norm("layer", 1e-5, norm.weight.double(), norm.bias.double())
    assert normalize_to(x.detach().double(), doubles, torch.float64).dtype == torch.float64
    x = x.detach()
    expected = normalize(x, norm)
    mapped = torch.vmap(lambda one: normalize_to(one, norm, torch.float32))(x)
    torch.testing.assert_close(mapped, expected)
    exported = torch.export.export(_Normalize(norm), (x,)).module()
    torch.testing.assert_close(exported(x), expected)


class _Normalize(torch.nn.Module):
    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalize_to(x, self.norm, torch.float32)

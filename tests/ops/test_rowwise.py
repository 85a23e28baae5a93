"""Normalization of rows: kernels against PyTorch, and who computes it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba.ops import use_backend
from speechbrain_mamba.ops.backends import cpu, reference
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from speechbrain_mamba.ops.rowwise import DTYPES, Norm, normalize, normalize_to
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
)  # fmt: skip
def test_rows_are_normalized_and_rounded(name, seed, rows, features, dtype, to, kind, weighted, biased):
    torch.manual_seed(seed)
    wide = (torch.randn(rows, features + 3) * torch.logspace(-2, 2, rows)[:, None]).to(dtype)
    x, norm = wide[:, :features], draw_norm(kind, features, weighted, biased)
    with instruction_set(name):
        found = cpu.normalize_rows(x, norm, to)
    assert found.dtype == to and found.is_contiguous()
    exact = normalize(x.double(), Norm(kind, 1e-5, *(None if one is None else one.double() for one in norm[2:])))
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

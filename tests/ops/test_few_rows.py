"""Linear layers of a few examples against PyTorch's, and what they leave to PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops import few_rows
from speechbrain_mamba.ops.backends import cpu
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from speechbrain_mamba.ops.int8 import PackedWeight
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.test_int8 import needs_int8

FUNCTIONS = {None: lambda y: y, "relu": F.relu, "gelu": F.gelu}


@st.composite
def cases(draw) -> dict:
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, inputs = draw(st.integers(1, 17)), draw(st.integers(1, 70))
    outputs = draw(st.integers(1, 70))
    return {
        "x": torch.randn(batch, inputs + 3)[:, 3:],
        "weight": torch.randn(outputs, inputs) / inputs**0.5,
        "bias": torch.randn(outputs) if draw(st.booleans()) else None,
        "activation": draw(st.sampled_from(list(FUNCTIONS))),
        "residual": torch.randn(batch, outputs) if draw(st.booleans()) else None,
    }


def exact(x, weight, bias, activation, residual):
    y = FUNCTIONS[activation](F.linear(*(None if t is None else t.double() for t in (x, weight, bias))))
    return y if residual is None else residual + y


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=cases())
def test_rows_agree_with_exact_products(name, case):
    with instruction_set(name), torch.no_grad():
        y = ops.few_rows_linear(**case)
    torch.testing.assert_close(y.double(), exact(**case), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_error_of_gelu_is_what_is_stated(name):
    """Of x Phi(x), relative to the larger of |x| and 1; infinities and NaN are kept."""
    x = torch.cat([torch.linspace(-12, 12, 4097), torch.logspace(-12, 0, 50), torch.tensor([40.0, -40.0])])[:, None]
    with instruction_set(name):
        y = cpu.few_rows_linear(x, torch.ones(1, 1), None, "gelu", None)
        special = cpu.few_rows_linear(torch.tensor([[torch.nan], [torch.inf]]), torch.ones(1, 1), None, "gelu", None)
    assert ((y - F.gelu(x.double())).abs() / x.abs().clamp(min=1)).max() < 2e-7
    assert special[0].isnan() and special[1] == torch.inf


@pytest.fixture
def served(monkeypatch):
    """How often the kernel was called."""
    calls, kernel = [], cpu.few_rows_linear
    monkeypatch.setattr(cpu, "few_rows_linear", lambda *arguments: calls.append(1) or kernel(*arguments))
    return calls


def test_few_plain_rows_are_served_without_a_gradient(served):
    x, weight = torch.randn(few_rows.MOST_ROWS, 5), torch.nn.Parameter(torch.randn(3, 5))
    with torch.no_grad():
        ops.few_rows_linear(x, weight)
        with ops.use_backend("cpu"):
            ops.few_rows_linear(x, weight)
    assert len(served) == 2


OTHERS = {
    "one bare row": lambda x, w: torch.cat([ops.few_rows_linear(row[None], w) for row in x]),
    "many rows": lambda x, w: ops.few_rows_linear(torch.cat([x] * 9), w),
    "no rows": lambda x, w: ops.few_rows_linear(x[:0], w),
    "three axes": lambda x, w: ops.few_rows_linear(x[None], w),
    "float64": lambda x, w: ops.few_rows_linear(x.double(), w.double()),
    "vmap": lambda x, w: torch.vmap(lambda row: ops.few_rows_linear(row, w))(x[:, None]),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_calls_are_left_to_pytorch(served, other):
    x, weight = torch.randn(2, 5), torch.randn(3, 5)
    y = OTHERS[other](x, weight)
    assert not served and y.shape[-1] == 3
    if y.numel() == 6:
        torch.testing.assert_close(y.reshape(2, 3).float(), x @ weight.T, rtol=1e-5, atol=1e-5)


def test_gradients_and_the_choice_of_a_backend_are_respected(served):
    x, weight = torch.randn(2, 5), torch.randn(3, 5, requires_grad=True)
    ops.few_rows_linear(x, weight).sum().backward()
    assert weight.grad is not None
    with torch.no_grad(), ops.use_backend("reference"):
        ops.few_rows_linear(x, weight)
    assert not served


@pytest.mark.parametrize("residual_dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_decides_on_the_type_of_what_is_returned(served, dtype, residual_dtype):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5).to(dtype), torch.randn(3, 5), torch.randn(3)
    residual = None if residual_dtype is None else torch.randn(2, 3).to(residual_dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, linear = ops.few_rows_linear(x, weight, bias, "relu", residual), F.linear(x, weight, bias).relu()
        expected = linear if residual is None else residual + linear
    assert served and y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), batch=st.integers(1, 17), inputs=st.integers(1, 300), outputs=st.integers(1, 70))
@needs_int8
def test_products_of_integers_are_exact(name, seed, batch, inputs, outputs):
    torch.manual_seed(seed)
    x, weight = (torch.randint(-127, 128, (rows, inputs)) for rows in (batch, outputs))
    x[:, 0] = weight[:, 0] = 127  # so that the units are one
    with instruction_set(name):
        y = ops.few_rows_linear(x.float(), PackedWeight(weight.float()))
    assert torch.equal(y.long(), x @ weight.T)


@needs_int8
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_largest_integers_do_not_overflow(name):
    x = torch.cat([torch.full((1, 5000), -1.0), torch.full((1, 5000), 1.0)])
    with instruction_set(name):
        y = ops.few_rows_linear(x, PackedWeight(torch.full((16, 5000), 1.0)))
    torch.testing.assert_close(y, torch.tensor([-5000.0, 5000.0])[:, None].expand(2, 16))


@needs_int8
def test_rows_of_integers_that_are_not_finite_give_no_finite_number():
    x = torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [1.0, torch.inf]])
    y = ops.few_rows_linear(x, PackedWeight(torch.tensor([[3.0, 1.0]])))
    assert y[0].isfinite() and not y[1:].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_stand_for_their_numbers(served, dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 70), torch.randn(37, 70).to(dtype)
    expected = x @ weight.float().T
    torch.testing.assert_close(ops.few_rows_linear(x, weight), expected, rtol=1e-5, atol=1e-5)
    assert served
    torch.testing.assert_close(ops.few_rows_linear(torch.cat([x] * 6), weight)[:3], expected, rtol=1e-5, atol=1e-5)


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="activation is 'tanh', but must be relu, gelu or None"):
        ops.few_rows_linear(torch.ones(1, 2), torch.ones(2, 2), activation="tanh")
    with torch.no_grad(), pytest.raises(RuntimeError, match="shape"):
        ops.few_rows_linear(torch.ones(1, 2), torch.ones(2, 3))


class _Step(torch.nn.Module):
    """Linear layers as steps have them: bare, and with all that may follow."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(5, 5))

    def forward(self, x):
        hidden = ops.few_rows_linear(x, self.weight)
        return ops.few_rows_linear(hidden, self.weight, self.weight[0], "relu", x)


def test_an_exported_program_takes_any_number_of_examples():
    step = _Step().requires_grad_(False)
    program = torch.export.export(step, (torch.randn(2, 5),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    for batch in (3, 40):
        x = torch.randn(batch, 5)
        torch.testing.assert_close(program.module()(x), step(x))

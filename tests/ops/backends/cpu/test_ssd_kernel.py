"""The native scan of Mamba-2 against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import instruction_set
from tests.errors import relative_error
from tests.ops.backends.cpu.instruction_sets import INSTRUCTION_SETS
from tests.ops.cases import ssd_inputs

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@st.composite
def ssd_cases(draw) -> tuple[dict, dict]:
    """Inputs and options: heads wider and narrower than a vector, in groups, and with odd numbers of states."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, time, groups = draw(st.integers(1, 3)), draw(st.integers(1, 80)), draw(st.integers(1, 3))
    heads, size = groups * draw(st.integers(1, 3)), draw(st.sampled_from((16, 64)) | st.integers(1, 24))
    dtype, states = draw(st.sampled_from(DTYPES)), draw(st.sampled_from((16, 64)) | st.integers(1, 40))
    dtypes = dict.fromkeys(("x", "delta", "B", "C", "z"), dtype)
    inputs = ssd_inputs(batch, time, heads, size, groups, states, dtypes, skip_by_channel=draw(st.booleans()))
    optional = ("D", "z", "delta_bias", "initial_state")
    inputs = {name: t for name, t in inputs.items() if name not in optional or draw(st.booleans())}
    length = st.sampled_from((0, 1, time)) | st.integers(0, time)
    lengths = draw(st.none() | st.lists(length, min_size=batch, max_size=batch))
    return inputs, {
        "delta_softplus": True,
        "dt_limit": draw(st.sampled_from(((0.0, float("inf")), (0.1, 1.5)))),
        "lengths": None if lengths is None else torch.tensor(lengths),
        "reverse": draw(st.booleans()),
        "return_last_state": True,
    }


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=ssd_cases())
def test_scan_agrees_with_the_reference(name, case):
    inputs, options = case
    with ops.use_backend("reference"):
        expected = ops.ssd(**{key: t.double() for key, t in inputs.items()}, **options)
    with instruction_set(name), ops.use_backend("cpu"):
        found = ops.ssd(**inputs, **options)
    for one, right in zip(found, expected):
        assert relative_error(one, right) < TOLERANCE[inputs["x"].dtype]


def test_with_gradients_the_scan_is_close_to_the_one_without():
    torch.manual_seed(0)
    inputs = ssd_inputs(2, 50, 4, 16, 2, 16)
    with ops.use_backend("cpu"):
        alone = ops.ssd(**inputs, delta_softplus=True)
        leaf = inputs["x"].clone().requires_grad_()
        y = ops.ssd(**inputs | {"x": leaf}, delta_softplus=True)
        torch.testing.assert_close(alone, y.detach(), rtol=1e-4, atol=1e-4)
        assert torch.autograd.grad(y.sum(), leaf)[0].isfinite().all()


def test_nothing_leaks_out_of_the_padding():
    torch.manual_seed(0)
    inputs = ssd_inputs(2, 40, 3, 8, 1, 16)
    for name in ("x", "delta", "B", "C", "z"):
        inputs[name][1, 20:] = torch.nan
    with ops.use_backend("cpu"):
        y = ops.ssd(**inputs, delta_softplus=True, lengths=torch.tensor([40, 20]))
    assert y.isfinite().all()
    assert not y[1, 20:].any()


@pytest.mark.parametrize("shape", [(0, 5, 2, 3), (2, 0, 2, 3), (2, 5, 2, 0)])
def test_empty_inputs(shape):
    batch, _, heads, size = shape
    inputs = ssd_inputs(*shape, 1, 4)
    with ops.use_backend("cpu"):
        y, last = ops.ssd(**inputs, delta_softplus=True, return_last_state=True)
    assert y.shape == shape
    assert last.shape == (batch, heads, size, 4)
    if shape[1] == 0:
        torch.testing.assert_close(last, inputs["initial_state"], rtol=0, atol=0)


def test_a_compiled_scan_agrees_with_the_eager_one():
    torch.manual_seed(0)
    inputs = ssd_inputs(2, 20, 2, 8, 1, 16)
    compiled = torch.compile(
        lambda **tensors: ops.ssd(**tensors, delta_softplus=True), backend="aot_eager", fullgraph=True
    )
    with ops.use_backend("cpu"):
        torch.testing.assert_close(compiled(**inputs), ops.ssd(**inputs, delta_softplus=True))

"""The Triton kernels against the reference over random shapes, lengths, types and directions, forward and gradient.

On a GPU, or in Triton's interpreter (see test_interpreted.py), where the shapes are small.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from tests.ops.backends.triton.devices import DEVICE, LONGEST, MOST_STATES, RUNS, WIDEST, shorten_chunks
from tests.ops.cases import (
    OVER_TIME,
    bidirectional_scan_inputs,
    check,
    layer_inputs,
    lengths_of,
    scan_inputs,
    without_bias,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not RUNS, reason="needs a CUDA GPU, or TRITON_INTERPRET=1 as test_interpreted.py sets it"),
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BATCH, TIME, SEED, DTYPE = st.integers(1, 3), st.integers(1, LONGEST), st.integers(0, 2**16), st.sampled_from(DTYPES)
CHANNELS, STATES, FLAG = st.integers(1, WIDEST), st.integers(1, MOST_STATES), st.booleans()


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    shorten_chunks(monkeypatch)


def few(examples: int):
    """The same few examples in each run."""
    # the fixture may serve all examples of a test
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


@few(8)
@given(BATCH, TIME, CHANNELS, STATES, st.tuples(*[FLAG] * 4),
       st.sets(st.sampled_from(["D", "z", "delta_bias", "initial_state"])),
       st.fixed_dictionaries({name: DTYPE for name in (*OVER_TIME, "initial_state")}), SEED)  # fmt: skip
def test_scan(batch, time, channels, states, flags, missing, dtypes, seed):
    softplus, reverse, returns_state, half = flags
    torch.manual_seed(seed)
    inputs = scan_inputs(batch, time, channels, states, softplus, dtypes if half else None)
    inputs = {name: tensor for name, tensor in inputs.items() if name not in missing}
    check(ops.selective_scan, inputs, "triton", DEVICE, delta_softplus=softplus, lengths=lengths_of(batch, time),
          reverse=reverse, return_last_state=returns_state)  # fmt: skip


@few(4)
@given(BATCH, TIME, CHANNELS, STATES, FLAG, DTYPE, SEED)
def test_bidirectional_scan(batch, time, channels, states, gated, dtype, seed):
    torch.manual_seed(seed)
    dtypes = dict.fromkeys(OVER_TIME, dtype)
    inputs = bidirectional_scan_inputs(batch, time, channels, states, gated, dtypes)
    # With a gate one direction's output is rounded to its dtype before the other is added.
    check(ops.bidirectional_selective_scan, inputs, "triton", DEVICE, 2, delta_softplus=True,
          lengths=lengths_of(batch, time))  # fmt: skip


@few(6)
@given(BATCH, TIME, CHANNELS, st.integers(1, 6), st.tuples(*[FLAG] * 3),
       st.sets(st.sampled_from(["bias", "initial_state"])), DTYPE, SEED)  # fmt: skip
def test_convolution(batch, time, channels, width, flags, missing, dtype, seed):
    silu, reverse, returns_state = flags
    torch.manual_seed(seed)
    inputs = {
        "x": torch.randn(batch, time, 2 * channels)[..., channels:].to(dtype),
        "weight": torch.randn(channels, width),
        "bias": torch.randn(channels),
        "initial_state": torch.randn(batch, width - 1, channels).transpose(1, 2).to(dtype),
    }
    inputs = {name: tensor for name, tensor in inputs.items() if name not in missing}
    check(ops.causal_conv1d, inputs, "triton", DEVICE, activation="silu" if silu else None,
          lengths=lengths_of(batch, time), reverse=reverse, return_final_state=returns_state)  # fmt: skip


@few(4)
@given(
    st.integers(1, 2),
    TIME,
    st.integers(1, 20),
    STATES,
    st.integers(1, 6),
    st.integers(1, 4),
    FLAG,
    FLAG,
    DTYPE,
    SEED,
)
def test_layer(batch, time, channels, states, rank, width, conv_bias, out_bias, dtype, seed):
    torch.manual_seed(seed)
    inputs = without_bias(layer_inputs(batch, time, channels, states, rank, width), not conv_bias, not out_bias)
    inputs["xz"] = inputs["xz"].to(dtype)
    roundings = 1 if dtype == torch.float32 else 4
    check(ops.bidirectional_mamba_inner, inputs, "triton", DEVICE, roundings, lengths=lengths_of(batch, time))

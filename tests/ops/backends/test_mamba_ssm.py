"""The adapters to mamba-ssm and causal-conv1d, on stand-ins with the interfaces of these packages."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends import mamba_ssm
from speechbrain_mamba.ops.sample_calls import OPERATIONS, Case
from speechbrain_mamba.ops.self_check import compare
from tests.ops.backends.public_kernels import SERVED, forget, installed
from tests.ops.cases import check, layer_inputs, lengths_of, pick, scan_inputs, size, ssd_inputs


@pytest.fixture(scope="module", autouse=True, params=SERVED, ids=lambda pair: " and ".join(one.version for one in pair))
def _stand_in(request):
    """The oldest versions that are served, some in between, and the newest."""
    with installed(*request.param):
        yield


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_scan(seed):
    torch.manual_seed(seed)
    batch, time, softplus = size(3), size(20), pick(True, False)
    inputs = scan_inputs(batch, time, size(5), size(4), softplus)
    del inputs["initial_state"]
    for name in ("D", "z", "delta_bias"):
        if pick(True, False):
            del inputs[name]
    check(ops.selective_scan, inputs, "mamba_ssm", "cpu", delta_softplus=softplus, lengths=lengths_of(batch, time),
          reverse=pick(True, False))  # fmt: skip


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_last_state(seed):
    torch.manual_seed(seed)
    inputs = scan_inputs(3, 9, 4, 3)
    del inputs["initial_state"]
    options = {"delta_softplus": True, "lengths": lengths_of(3, 9), "reverse": pick(True, False)}
    with ops.use_backend("mamba_ssm"):
        y, last = ops.selective_scan(**inputs, **options, return_last_state=True)
    with ops.use_backend("reference"):
        expected = ops.selective_scan(**inputs, **options, return_last_state=True)
    torch.testing.assert_close((y, last), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_convolution(seed):
    torch.manual_seed(seed)
    batch, time, channels, width = size(3), size(20), size(5), pick(2, 3, 4)
    inputs = {"x": torch.randn(batch, time, channels), "weight": torch.randn(channels, width)}
    if pick(True, False):
        inputs["bias"] = torch.randn(channels)
    if pick(True, False):
        inputs["initial_state"] = torch.randn(batch, channels, width - 1)
    check(ops.causal_conv1d, inputs, "mamba_ssm", "cpu", activation=pick(None, "silu"),
          lengths=lengths_of(batch, time), reverse=pick(True, False), return_final_state=pick(True, False))  # fmt: skip


@pytest.mark.parametrize("channels", [1, 5, 8])
def test_convolution_of_one_frame(channels):
    """Of any number of channels: the layout of one frame must not look like channels-last to causal-conv1d."""
    inputs = {"x": torch.randn(2, 1, channels), "weight": torch.randn(channels, 4), "bias": torch.randn(channels)}
    check(ops.causal_conv1d, inputs, "mamba_ssm", "cpu", activation="silu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_passes_its_self_check(op, dtype):
    assert compare(mamba_ssm, Case(op, dtype), torch.device("cpu")).failure is None


@pytest.mark.parametrize("lengths", [None, [9, 0, 4]])
def test_layer(lengths):
    lengths = None if lengths is None else torch.tensor(lengths)
    check(ops.bidirectional_mamba_inner, layer_inputs(3, 9, 5, 3, 2), "mamba_ssm", "cpu", lengths=lengths)


@pytest.mark.parametrize("left_out", [(), ("D",), ("delta_bias",), ("D", "delta_bias", "z")])
def test_steps_leave_their_states_alone(left_out):
    inputs = {name: t for name, t in scan_inputs(2, 1, 5, 3).items() if name not in left_out}
    state, over = inputs.pop("initial_state"), ("u", "delta", "B", "C", "z")
    inputs |= {name: inputs[name][:, 0] for name in over if name in inputs}
    x, conv_state, weight = torch.randn(2, 5), torch.randn(2, 5, 3), torch.randn(5, 4)
    before = state.clone(), conv_state.clone()
    results = []
    for name in ("mamba_ssm", "reference"):
        with ops.use_backend(name):
            results.append((*ops.selective_state_update(state, **inputs, delta_softplus=True),
                            *ops.causal_conv1d_update(x, conv_state, weight, activation="silu")))  # fmt: skip
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((state, conv_state), before, rtol=0, atol=0)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_ssd(seed):
    torch.manual_seed(seed)
    batch, time, groups, softplus = size(3), size(20), size(2), pick(True, False)
    inputs = ssd_inputs(batch, time, groups * size(2), size(4), groups, size(4), None, pick(True, False))
    for name in ("D", "z", "delta_bias", "initial_state"):
        if pick(True, False):
            del inputs[name]
    check(ops.ssd, inputs, "mamba_ssm", "cpu", delta_softplus=softplus, dt_limit=pick((0.0, float("inf")), (0.1, 0.6)),
          lengths=lengths_of(batch, time), reverse=pick(True, False), return_last_state=pick(True, False),
          chunk_size=pick(None, 3, 100, 1000))  # fmt: skip


@pytest.mark.parametrize("left_out", [(), ("D",), ("delta_bias", "z")])
@pytest.mark.parametrize("options", [{"delta_softplus": True}, {}, {"delta_softplus": True, "dt_limit": (0.1, 0.6)}])
def test_steps_of_ssd_leave_their_states_alone(left_out, options):
    inputs = ssd_inputs(2, 1, 4, 3, 2, 5, None, "D" in left_out)
    state = inputs.pop("initial_state")
    inputs = {name: t[:, 0] if t.shape[:2] == (2, 1) else t for name, t in inputs.items() if name not in left_out}
    before, results = state.clone(), []
    for name in ("mamba_ssm", "reference"):
        with ops.use_backend(name):
            results.append(ops.ssd_update(state, **inputs, **options))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
    assert torch.equal(state, before)


def test_without_the_scan_of_mamba2_the_others_serve(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.triton.ssd_combined", None)
    forget()
    inputs = ssd_inputs(1, 5, 2, 3, 1, 4)
    with ops.use_backend("mamba_ssm"):
        with pytest.raises(ValueError, match="ssd_combined of mamba-ssm cannot be imported"):
            ops.ssd(**inputs)
        ops.causal_conv1d(torch.ones(1, 3, 2), torch.ones(2, 4))
    forget()


def test_what_it_cannot_serve_it_says():
    inputs = scan_inputs(1, 5, 3, 2)
    x, weight = torch.randn(1, 5, 3), torch.randn(3, 5)
    with ops.use_backend("mamba_ssm"):
        with pytest.raises(ValueError, match="takes no initial state"):
            ops.selective_scan(**inputs)
        with pytest.raises(ValueError, match="filters of 2 to 4 frames, but got 5"):
            ops.causal_conv1d(x, weight)
        with pytest.raises(ValueError, match=r"float32, bfloat16 and float16 on cpu, but got torch.float64"):
            ops.causal_conv1d(x.double(), weight[:, :4])
        with pytest.raises(ValueError, match="have no gradients"):
            ops.causal_conv1d_update(x[:, 0].requires_grad_(), torch.randn(1, 3, 3), weight[:, :4])
        with pytest.raises(ValueError, match="no empty tensors"):
            ops.causal_conv1d(x[:, :0], weight[:, :4])
        del inputs["initial_state"]
        inputs["u"].requires_grad_()
        _, last = ops.selective_scan(**inputs, return_last_state=True)
        with pytest.raises(NotImplementedError, match="no gradient through the last state"):
            last.sum().backward()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "causal_conv1d", None)
    mamba_ssm._kernels.cache_clear()
    assert "cannot be imported" in mamba_ssm.unavailable()
    assert "--no-build-isolation" in mamba_ssm.unavailable()
    monkeypatch.undo()
    mamba_ssm._kernels.cache_clear()
    monkeypatch.setattr(sys.modules["causal_conv1d"], "causal_conv1d_fn", None)
    assert "built without causal_conv1d_fn" in mamba_ssm.unavailable()
    mamba_ssm._kernels.cache_clear()

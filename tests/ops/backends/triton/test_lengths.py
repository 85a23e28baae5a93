"""Lengths out of range, which nobody checks on a GPU, count as the nearest in range and reach no other memory."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from speechbrain_mamba.ops.backends import triton as backend
from tests.ops.backends.triton.devices import DEVICE, RUNS, shorten_chunks
from tests.ops.backends.triton.guards import GuardedMemory
from tests.ops.cases import layer_inputs, mapped, named_tensors, scan_inputs, ssd_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not RUNS, reason="needs a CUDA GPU, or TRITON_INTERPRET=1 as test_interpreted.py sets it"),
]
TIME = 9
LENGTHS, CLAMPED = [13, -5, 6], [9, 0, 6]


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    shorten_chunks(monkeypatch)


def scan(reverse):
    def call(lengths, **inputs):
        y, last = backend.selective_scan(
            **inputs, delta_softplus=True, lengths=lengths, reverse=reverse, return_last_state=True
        )
        return y, last

    return call, scan_inputs(3, TIME, 5, 3)


def ssd(reverse):
    def call(lengths, **inputs):
        return backend.ssd(**inputs, delta_softplus=True, dt_limit=(0.0, 9.0), lengths=lengths, reverse=reverse,
                           return_last_state=True)  # fmt: skip

    return call, ssd_inputs(3, TIME, 2, 3, 1, 4)


def conv(reverse):
    def call(lengths, **inputs):
        return backend.causal_conv1d(
            **inputs, activation="silu", lengths=lengths, reverse=reverse, return_final_state=True
        )

    inputs = {"x": torch.randn(3, TIME, 5), "weight": torch.randn(5, 4), "initial_state": torch.randn(3, 5, 3)}
    return call, inputs


def layer():
    def call(lengths, xz, forward, reverse, out_proj_weight, out_proj_bias):
        return (backend.bidirectional_mamba_inner(xz, forward, reverse, out_proj_weight, out_proj_bias, lengths),)

    return call, layer_inputs(3, TIME, 5, 4, 2)


CASES = {
    "scan": lambda: scan(False), "reverse scan": lambda: scan(True),
    "ssd": lambda: ssd(False), "reverse ssd": lambda: ssd(True),
    "convolution": lambda: conv(False), "reverse convolution": lambda: conv(True),
    "layer": layer,  # both directions of both
}  # fmt: skip


def results(call, inputs, lengths):
    leaves = {
        name: mapped(lambda t: t.detach().to(DEVICE).clone().requires_grad_(), value) for name, value in inputs.items()
    }
    outputs = call(torch.tensor(lengths, device=DEVICE), **leaves)
    sum(y.square().sum() for y in outputs).backward()
    return [*(y.detach() for y in outputs), *(t.grad for _, t in named_tensors(leaves))]


@pytest.mark.parametrize("case", CASES)
def test_lengths_out_of_range_reach_no_other_memory(case, monkeypatch):
    torch.manual_seed(0)
    call, inputs = CASES[case]()
    memory = GuardedMemory(monkeypatch)
    out_of_range = results(call, inputs, LENGTHS)
    memory.check()
    for got, right in zip(out_of_range, results(call, inputs, CLAMPED), strict=True):
        torch.testing.assert_close(got, right, rtol=0, atol=0)

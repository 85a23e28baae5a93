"""Triton's compiler takes the kernels of calls of many kinds: the interpreter, which runs Python, takes more.

Each call's launches are recorded and translated, for a GPU that is not there.
"""

from __future__ import annotations

import functools
import inspect

import pytest
import torch

pytest.importorskip("triton")

from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend

from kernel_resources import ARCHITECTURES, Launch, launches_of
from speechbrain_mamba.ops.backends import triton as backend
from tests.ops.cases import (
    OVER_TIME,
    bidirectional_scan_inputs,
    bidirectional_ssd_inputs,
    layer_inputs,
    lengths_of,
    pick,
    run,
    scan_inputs,
    size,
    ssd_inputs,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TIMES = (1, 40, 3000)  # one chunk, and several


@functools.cache
def translate(launch: Launch, architecture: int = ARCHITECTURES[-1]) -> None:
    """Let Triton read a launch's kernel: the first step of compiling it, in a fraction of the time. Each is read once,
    however many calls make it."""
    target = GPUTarget("cuda", architecture, 32)
    compiler, context = make_backend(target), ir.context()
    ir.load_dialects(context)
    compiler.load_dialects(context)
    options = compiler.parse_options({"num_warps": launch.warps})
    functions, modules = compiler.get_codegen_implementation(options), compiler.get_module_map()
    source, arguments = launch.source(), [options, functions, modules, context]
    if "target" in inspect.signature(source.make_ir).parameters:  # Triton 3.4 takes none
        arguments.insert(0, target)
    source.make_ir(*arguments)


def check(op, inputs: dict, **options) -> None:
    """Translate what the forward and the backward pass of an operation launch."""
    launches = launches_of(lambda: run(op, inputs, "cpu", None, **options))
    assert launches
    for launch in launches:
        translate(launch)


@pytest.mark.parametrize("seed", range(12))
def test_scan(seed):
    torch.manual_seed(seed)
    batch, time, states = size(2), TIMES[seed % 3], pick(1, 8, 16, 64)
    inputs = scan_inputs(batch, time, size(300), states)
    for name in ("D", "z", "delta_bias", "initial_state"):
        if pick(True, False):
            del inputs[name]
    inputs |= {name: inputs[name].to(pick(*DTYPES)) for name in OVER_TIME if name in inputs}
    check(backend.selective_scan, inputs, delta_softplus=pick(True, False), lengths=lengths_of(batch, time),
          reverse=pick(True, False), return_last_state=pick(True, False))  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_ssd(seed):
    torch.manual_seed(seed)
    batch, time, groups = size(2), TIMES[seed % 3], size(2)
    channels, states = pick((64, 128), (64, 16), (5, 3), (128, 33))
    inputs = ssd_inputs(batch, time, groups * size(3), channels, groups, states, None, pick(True, False))
    for name in ("D", "z", "delta_bias", "initial_state"):
        if pick(True, False):
            del inputs[name]
    inputs |= {name: inputs[name].to(pick(*DTYPES)) for name in ("x", *OVER_TIME) if name in inputs}
    limit = pick((0.0, float("inf")), (0.1, 0.5))
    check(backend.ssd, inputs, delta_softplus=pick(True, False), dt_limit=limit, lengths=lengths_of(batch, time),
          reverse=pick(True, False), return_last_state=pick(True, False))  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_bidirectional_scan(seed):
    torch.manual_seed(seed)
    time, gated = TIMES[seed % 3], pick(True, False)
    inputs = bidirectional_scan_inputs(2, time, 48, 16, gated)

    def op(forward, reverse, z=None, lengths=None):
        return backend.bidirectional_selective_scan(forward, reverse, z, True, lengths)

    check(op, inputs, lengths=lengths_of(2, time))


@pytest.mark.parametrize("seed", range(3))
def test_bidirectional_ssd(seed):
    torch.manual_seed(seed)
    time, missing = TIMES[seed % 3], {name for name in ("D", "z", "delta_bias") if pick(True, False)}
    inputs = bidirectional_ssd_inputs(2, time, 4, *pick((64, 2, 128), (5, 1, 3)), None, pick(True, False), missing)

    def op(forward, reverse, z=None, lengths=None):
        return backend.bidirectional_ssd(forward, reverse, z, True, (0.0, 2.0), lengths)

    check(op, inputs, lengths=lengths_of(2, time))


@pytest.mark.parametrize("seed", range(6))
def test_layer(seed):
    torch.manual_seed(seed)
    time = TIMES[seed % 3]
    inputs = layer_inputs(2, time, pick(16, 96, 512), pick(8, 16), (16, 9, 40, 1, 64, 3)[seed])
    inputs["xz"] = inputs["xz"].to(pick(*DTYPES))

    def op(xz, forward, reverse, out_proj_weight, out_proj_bias, lengths=None):
        return backend.bidirectional_mamba_inner(xz, forward, reverse, out_proj_weight, out_proj_bias, lengths)

    check(op, inputs, lengths=lengths_of(2, time))


@pytest.mark.parametrize("seed", range(6))
def test_convolution(seed):
    torch.manual_seed(seed)
    batch, time, channels, width = size(2), TIMES[seed % 3], size(300), pick(1, 2, 4)
    inputs = {"x": torch.randn(batch, time, channels).to(pick(*DTYPES)), "weight": torch.randn(channels, width)}
    if pick(True, False):
        inputs["bias"] = torch.randn(channels)
    if pick(True, False):
        inputs["initial_state"] = torch.randn(batch, channels, width - 1)
    check(backend.causal_conv1d, inputs, activation=pick(None, "silu"), lengths=lengths_of(batch, time),
          reverse=pick(True, False), return_final_state=pick(True, False))  # fmt: skip

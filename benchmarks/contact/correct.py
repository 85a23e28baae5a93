"""Steps: whether layers are right, forward and backward, in the cases that break kernels."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from typing import Any

import torch

from contact.context import Context, Skip, largest_error, results_of, step
from contact.sizes import changed
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from speechbrain_mamba.nnet.mamba2 import BiMamba2, Mamba2

LENGTHS = (300, 0, 1, 77)


def compare(
    context: Context,
    layer: torch.nn.Module,
    dtype: torch.dtype,
    lengths: tuple[int, ...] | None = LENGTHS,
    time: int = 300,
) -> dict[str, Any]:
    """Compare a layer on the device, NaN in the padding, with the reference in float64 on the CPU."""
    torch.manual_seed(0)
    batch = 2 if lengths is None else len(lengths)
    x, given = torch.randn(batch, time, layer.d_model), None
    if lengths is not None:
        given = torch.tensor(lengths)
        for example, length in enumerate(lengths):
            x[example, length:] = torch.nan
    right = results_of(copy.deepcopy(layer).double(), x.double(), given, "reference", torch.float64)
    on_device = copy.deepcopy(layer).to(context.device)
    there = None if given is None else given.to(context.device)
    found = results_of(on_device, x.to(context.device), there, context.backend, dtype)
    error, name = largest_error(found, right, dtype)
    return {"error": error, "worst": name}


LAYERS = {"BiMamba": lambda **sizes: BiMamba(64, **sizes), "Mamba": lambda **sizes: Mamba(64, **sizes)}


@step("layers are right", seconds=150)
def layers_are_right(context: Context) -> dict[str, Any]:
    """Outputs and all gradients of both layers, with lengths on the device, one of them 0, and NaN past them."""
    return {
        f"{name}, {str(dtype).removeprefix('torch.')}": compare(context, make(), dtype)
        for name, make in LAYERS.items()
        for dtype in (torch.float32, torch.bfloat16)
    }


MAMBA2 = {
    "BiMamba2, 16 states": lambda: BiMamba2(64, d_state=16, headdim=64),
    "Mamba2, 128 states": lambda: Mamba2(64, d_state=128, headdim=64, ngroups=2),
}


@step("Mamba-2 is right", seconds=120)
def mamba2_is_right(context: Context) -> dict[str, Any]:
    """The same of layers of Mamba-2."""
    return {
        f"{name}, {str(dtype).removeprefix('torch.')}": compare(context, make(), dtype)
        for name, make in MAMBA2.items()
        for dtype in (torch.float32, torch.bfloat16)
    }


@step("one frame")
def one_frame(context: Context) -> dict[str, Any]:
    """Sequences of one frame."""
    return {name: compare(context, make(), torch.float32, None, 1) for name, make in LAYERS.items()}


@step("unusual widths", seconds=120)
def unusual_widths(context: Context) -> dict[str, Any]:
    """The ranks and channels of ConMamba S and of VALL-M, and 100 states."""
    time = 100 if context.is_gpu else 12
    layers = {"d_model 144": BiMamba(144), "100 states": BiMamba(64, d_state=100), "d_model 1024": Mamba(1024)}
    return {name: compare(context, layer, torch.bfloat16, (time, 7), time) for name, layer in layers.items()}


@step("equal bits")
def equal_bits(context: Context) -> None:
    """The same call twice."""
    layer, x = BiMamba(64).to(context.device), torch.randn(2, 300, 64, device=context.device)
    first, second = (results_of(layer, x, None, context.backend, torch.float32) for _ in range(2))
    different = [name for name in first if not torch.equal(first[name], second[name])]
    if different:
        raise ValueError(f"{', '.join(different)} differ between two equal calls.")


@step("few programs", seconds=90)
def few_programs(context: Context) -> dict[str, Any]:
    """A layer whose walk back has one program for all chunks and channels."""
    if context.backend != "triton":
        raise Skip("is about the backend 'triton'")
    with changed({"plan.BACKWARD_PROGRAMS_OF_A_PROCESSOR": 0.001, "plan.SMALL_BACKWARD_BYTES": 0}):
        return compare(context, BiMamba(64), torch.float32)


SANITIZED = """
import torch
from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops import use_backend
layer, x = BiMamba(16).cuda(), torch.randn(2, 70, 16, device="cuda", requires_grad=True)
with use_backend("triton"):
    layer(x, torch.tensor([70, 90], device="cuda")).sum().backward()
torch.cuda.synchronize()
"""


@step("compute-sanitizer", seconds=120)
def sanitizer(context: Context) -> dict[str, Any]:
    """A small layer with a length above the time, whose reads and writes are checked."""
    context.need_gpu()
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None:
        raise Skip("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    command = [tool, "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    summary = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line or "Invalid" in line]
    if done.returncode:
        raise ValueError("; ".join(summary[:5]) or done.stderr[-300:])
    return {"summary": summary}

"""Steps: memory, kernels, a sweep of sizes, and the benchmarks. They report; nothing is too slow to pass."""

from __future__ import annotations

import itertools
from time import monotonic
from typing import Any

import gpu
import gpu_systems
import torch
from contact.context import Context, Skip, step
from contact.sizes import changed, sized
from gpu_timing import graph_ms, kernel_times, peak_mb

from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops import Direction, bidirectional_mamba_inner, use_backend

OVER_ACCOUNT = 1.25
"""How far the measured peak may exceed the account: the allocator rounds up."""


def training_step(context: Context, d_model: int, batch: int, frames: int) -> tuple[Any, int]:
    """A step of a layer in bfloat16, and the bytes of its inner input."""
    torch.manual_seed(0)
    layer = BiMamba(d_model).to(context.device)
    x = torch.randn(batch, frames, d_model, device=context.device, requires_grad=True)

    def run() -> None:
        gpu.run(layer, x, True, context.backend, torch.bfloat16)

    return run, batch * frames * 2 * layer.d_inner * 2


@step("peak memory", seconds=120)
def peak_memory(context: Context) -> dict[str, Any]:
    """Peaks of a layer's forward and backward pass, in sizes of its input, beside those of ``gpu_memory.py``."""
    context.need_gpu()
    if context.backend != "triton":
        raise Skip("is about the backend 'triton'")
    from gpu_memory import SHAPES
    from memory_account import account_layer

    found, over = {}, []
    for name, (batch, time, channels) in SHAPES.items():
        free, _ = torch.cuda.mem_get_info(context.device)
        account = account_layer(batch, time, channels)
        if 2 * (account.input + account.kept + account.backward.peak) > free:
            found[name] = "left out: not enough memory"
            continue
        for which, measured, counted in zip(("forward", "backward"), layer_peaks(context, batch, time, channels),
                                            (account.forward.peak, account.backward.peak)):  # fmt: skip
            found[f"{name}, {which}"] = (
                f"{measured / account.input:.2f} measured, {counted / account.input:.2f} counted"
            )
            if measured > OVER_ACCOUNT * counted:
                over.append(f"{name}, {which}")
        torch.cuda.empty_cache()
    if over:
        raise ValueError(f"more memory than the account allows: {over}; {found}")
    return {"peak in sizes of the input": found}


def layer_peaks(context: Context, batch: int, time: int, channels: int) -> tuple[float, float]:
    """Bytes that the forward and the backward pass of a layer allocate at most, beyond what was there."""
    states, rank, width = 16, channels // 32, 4
    sizes = Direction(
        (channels, width), (channels,), (rank + 2 * states, channels), (channels, rank), (channels,),
        (channels, states), (channels,),
    )  # fmt: skip

    def parameter(size: tuple[int, ...]) -> torch.Tensor:
        return (-0.1 * torch.rand(size, device=context.device)).requires_grad_()

    directions = [Direction(*map(parameter, sizes)) for _ in range(2)]
    out_proj = parameter((channels // 2, channels))
    xz = torch.randn(batch, time, 2 * channels, device=context.device, dtype=torch.bfloat16, requires_grad=True)
    outputs = []

    def forward() -> None:
        outputs[:] = [bidirectional_mamba_inner(xz, *directions, out_proj)]

    with use_backend(context.backend):
        forward()
        outputs[0].sum().backward(retain_graph=True)  # compiles
        outputs.clear()
        for tensor in (xz, out_proj, *directions[0], *directions[1]):
            tensor.grad = None
        first = peak_mb(forward, context.device)
        gradient = torch.ones_like(outputs[0])
        return 2**20 * first, 2**20 * peak_mb(lambda: outputs[0].backward(gradient), context.device)


@step("kernels")
def kernels(context: Context) -> dict[str, Any]:
    """Milliseconds and launches of each kernel of a training step, the longest first."""
    run, _ = training_step(context, 256, 1, 4000 if context.is_gpu else 50)
    times = kernel_times(run, context.device)
    top = {name[:80]: {"ms": round(ms, 4), "launches": count} for name, (ms, count) in list(times.items())[:12]}
    return {
        "all ms": sum(ms for ms, _ in times.values()),
        "launches": sum(n for _, n in times.values()),
        "longest": top,
    }


SWEEP: dict[str, tuple] = {
    "plan.SHORTEST_CHUNK": (32, 64, 128),
    "plan.LONGEST_BACKWARD_CHUNK": (64, 128, 256),
    "plan.LARGEST_BACKWARD": (4, 5, 8),
    "plan.PROGRAMS_OF_A_PROCESSOR": (8, 16, 32),
    "plan.BACKWARD_PROGRAMS_OF_A_PROCESSOR": (4, 6, 8),
    "plan.STATES_OF_A_THREAD": (8, 16, 32),
    "plan.FORWARD_CHANNELS": (16, 32, 64),
    "plan.BACKWARD_CHANNELS": (8, 16, 32),
    "conv_launch._TILE": ((16, 64), (32, 64), (32, 128)),
    "conv_launch._BACKWARD_TILE": ((4, 64), (8, 64), (16, 64)),
}
"""Sizes of the kernels by module and name, each with the values that are tried: chunks, memory, programs, warps (as 16
states take two where a thread has 8) and blocks. Those at the end are compiled again."""
SWEEP_SECONDS = 280


@step("sweep", seconds=SWEEP_SECONDS + 60)
def sweep(context: Context) -> dict[str, Any]:
    """Chunks, memory, programs, warps and blocks, one at a time, by replays of a graph."""
    context.need_gpu()
    if context.backend != "triton":
        raise Skip("is about the backend 'triton'")
    found: dict[str, Any] = {}
    begin = monotonic()

    def measure(label: str, frames: int) -> None:
        if monotonic() - begin > SWEEP_SECONDS:
            found[label] = "no time left"
            return
        try:
            run, _ = training_step(context, 256, 1, frames)
            run()
            found[label] = round(graph_ms(run, context.device, 10), 4)
        except Exception as error:
            found[label] = f"{type(error).__name__}: {error}".splitlines()[0]

    for frames in (4000, 64_000):
        measure(f"as it is, {frames} frames, ms", frames)
    for name, frames in itertools.product(SWEEP, (4000, 64_000)):
        module, attribute = sized(name)
        before = getattr(module, attribute)
        for value in SWEEP[name]:
            if value != before:
                with changed({name: value}):
                    measure(f"{name} {value}, {frames} frames, ms", frames)
    return found


@step("layers against others", seconds=240)
def layers(context: Context) -> dict[str, Any]:
    """``gpu.py`` for a few shapes."""
    shapes = "--channels 512 --time 4000 64000 --batch 1 8 --rounds 10" if context.is_gpu else (
        "--channels 16 --time 30 --batch 1 --rounds 1")  # fmt: skip
    given = ["--device", str(context.device), "--backend", context.backend, "--csv", str(context.folder / "gpu.csv")]
    rows = gpu.main([*shapes.split(), *given, *(["--cuda-graphs"] if context.is_gpu else [])])
    failed = [row for row in rows if row["implementation"] == "ours" and row["failure"]]
    if failed:
        raise ValueError(failed[0]["failure"])
    return {"rows": rows}


@step("whole systems", seconds=240)
def systems(context: Context) -> dict[str, Any]:
    """``gpu_systems.py``: the three systems and their baselines, inference, training step and generation."""
    size = [] if context.is_gpu else ["--small", "--rounds", "1"]
    given = ["--device", str(context.device), "--csv", str(context.folder / "gpu_systems.csv")]
    rows = gpu_systems.main([*size, *given])
    failed = [f"{row['system']}, {row['pass']}: {row['failure']}" for row in rows if row["failure"]]
    if failed:
        raise ValueError("; ".join(failed))
    return {"rows": rows}

"""Steps: memory, kernels, a sweep of sizes, and the benchmarks. They report; nothing is too slow to pass."""

from __future__ import annotations

import contextlib
import cProfile
import itertools
import math
import multiprocessing
import os
import pstats
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch

import gpu
import gpu_systems
from contact.context import Context, Skip, step
from contact.sizes import changed
from gpu_timing import kernel_times, peak_mb, synchronize
from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops import Direction, bidirectional_mamba_inner, use_backend

WALKS = ("gradients_kernel", "chunk_sums_kernel", "conv_backward_kernel", "outputs_kernel", "chunk_states_kernel")
"""The kernels that take longest."""
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
    "plan.SHORTEST_CHUNK": (32, 128),
    "plan.LONGEST_BACKWARD_CHUNK": (64, 128),
    "plan.LARGEST_BACKWARD": (5, 8),
    "plan.SMALL_BACKWARD_BYTES": (320 << 20, 1280 << 20),
    "plan.PROGRAMS_OF_A_PROCESSOR": (8, 32),
    "plan.STATES_OF_A_THREAD": (8,),
    "plan.FORWARD_CHANNELS": (16, 64),
    "plan.SUMS_REGISTERS": (255,),
    "plan.BACKWARD_CHANNELS": (8, 32),
    "plan.SEGMENT": (16,),
    "layer_launch.LARGEST_RANK": (0,),
    "conv_launch._BACKWARD_PROGRAMS_OF_A_PROCESSOR": (8, 32),
    "conv_launch._WIDE_TILE": ((32, 64), (64, 128)),
    "conv_launch._BACKWARD_TILE": ((4, 64), (16, 64)),
}
"""Sizes of the kernels by module and name, each with the values that are tried: chunks, memory, programs, warps (as 16
states take two where a thread has 8), blocks and registers, and the steps by a product instead of in the kernels."""
TOGETHER: list[dict[str, Any]] = [
    {
        "plan.BACKWARD_REGISTERS": registers,
        "plan.BACKWARD_PROGRAMS_OF_A_PROCESSOR": programs,
        "plan.SUBCHUNK": subchunk,
        "plan.KEEP_DECAYS": keep,
    }
    for registers, programs, subchunk, keep in (
        (255, 8, 4, True),
        (168, 12, 4, True),
        (168, 12, 4, False),
        (128, 16, 4, False),
        (128, 16, 4, True),
        (128, 16, 2, True),
        (96, 20, 2, False),
        (255, 8, 8, False),
    )
]
"""Sizes that belong together: registers of the walk back, for how many programs there is room with them, the frames
whose states it holds in registers, and whether it also holds their decays."""
SWEEP_SECONDS = 280


def variants() -> list[dict[str, Any]]:
    """What the sweep compares: the sizes as they are, first, and others."""
    return [{}, *TOGETHER, *({name: value} for name in SWEEP for value in SWEEP[name])]


def compile_variant(device: str, backend: str, sizes: dict[str, Any]) -> None:
    """Compile the kernels of a training step with other sizes into Triton's cache, in a process for itself."""
    with contextlib.suppress(Exception), changed(sizes):  # what fails, fails again and is told
        training_step(Context(torch.device(device), backend, Path()), 256, 1, 500)[0]()


@step("sweep", seconds=SWEEP_SECONDS + 60)
def sweep(context: Context) -> dict[str, Any]:
    """Sizes of the kernels: milliseconds of a training step and of its longest kernels, by torch's profiler."""
    context.need_gpu()
    if context.backend != "triton":
        raise Skip("is about the backend 'triton'")
    rows: list[dict[str, Any]] = []
    begin, run_of = monotonic(), multiprocessing.get_context("spawn")
    workers = max(1, min(12, len(os.sched_getaffinity(0)) - 1))
    with ProcessPoolExecutor(workers, run_of) as pool:
        for sizes in variants():
            pool.submit(compile_variant, str(context.device), context.backend, sizes)
    print(f"compiled in {monotonic() - begin:.0f} s", flush=True)
    for frames, sizes in itertools.product((4000, 64_000), variants()):
        label = ", ".join(f"{name.split('.')[1]} {value}" for name, value in sizes.items()) or "as it is"
        row: dict[str, Any] = {"frames": frames, "sizes": label, "all ms": math.nan}
        row |= dict.fromkeys(WALKS, math.nan) | {"failure": ""}
        if monotonic() - begin > SWEEP_SECONDS:
            row["failure"] = "no time left"
        else:
            try:
                with changed(sizes):
                    times = kernel_times(training_step(context, 256, 1, frames)[0], context.device, 2)
                row["all ms"] = sum(ms for ms, _ in times.values())
                row |= {name: times[name][0] for name in WALKS if name in times}
            except Exception as error:
                row["failure"] = f"{type(error).__name__}: {error}".splitlines()[0][:80]
        rows.append(row)
        print(row, flush=True)
    return {"rows": rows}


HOST_CALLS = 200


@step("host time", seconds=90)
def host_time(context: Context) -> dict[str, Any]:
    """Microseconds of a layer's forward pass that the CPU spends in each function, by cProfile, on a short input.

    The profiler lengthens calls of many functions; the whole is also measured without it.
    """
    torch.manual_seed(0)
    layer = BiMamba(256 if context.is_gpu else 16).to(context.device)
    x = torch.randn(1, 500 if context.is_gpu else 3, layer.d_model, device=context.device)
    calls = HOST_CALLS if context.is_gpu else 2

    def run() -> None:
        for _ in range(calls):
            gpu.run(layer, x, False, context.backend, torch.bfloat16)

    run()
    synchronize(context.device)
    begin = perf_counter()
    run()
    whole = perf_counter() - begin
    synchronize(context.device)
    profiler = cProfile.Profile()
    profiler.runcall(run)
    synchronize(context.device)
    found = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    rows = [
        {"function": f"{Path(file).name}:{line} {name}", "calls": count / calls, "own us": 1e6 * own / calls,
         "us": 1e6 * total / calls}
        for (file, line, name), (_, count, own, total, _) in found.items()
    ]  # fmt: skip
    rows = sorted(rows, key=lambda row: -row["own us"])[:40]
    for row in rows:
        print({key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return {"us of a forward pass": 1e6 * whole / calls, "rows": rows}


@step("layers against others", seconds=240)
def layers(context: Context) -> dict[str, Any]:
    """``gpu.py`` for a few shapes."""
    return _compare_layers(context, "gpu.csv", "4000 64000", "")


@step("Mamba-2 beside Mamba", seconds=120)
def mamba2(context: Context) -> dict[str, Any]:
    """``gpu.py`` for 4000 frames, with layers of Mamba-2."""
    return _compare_layers(context, "gpu_mamba2.csv", "4000", "16 128")


def _compare_layers(context: Context, csv: str, time: str, mamba2_states: str) -> dict[str, Any]:
    shapes = f"--channels 512 --time {time} --batch 1 8 --rounds 10" if context.is_gpu else (
        "--channels 16 --time 30 --batch 1 --rounds 1")  # fmt: skip
    given = ["--device", str(context.device), "--backend", context.backend, "--csv", str(context.folder / csv)]
    given += ["--mamba2_states", *mamba2_states.split()]
    rows = gpu.main([*shapes.split(), *given, *(["--cuda-graphs"] if context.is_gpu else [])])
    failed = [row for row in rows if row["implementation"].startswith("ours") and row["failure"]]
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

"""Times of a function on a GPU, those of the CPU and of the GPU apart, and its peak memory. On a CPU they are one."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable

import torch

from speechbrain_mamba.utils.cuda_graphs import capture

Function = Callable[[], object]


def synchronize(device: torch.device) -> None:
    """Wait for all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_ms(function: Function, device: torch.device, rounds: int) -> float:
    """Median milliseconds from the first to the last work of a run, on the device's clock."""
    function()
    times = []
    for _ in range(rounds):
        synchronize(device)
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            torch.cuda.synchronize(device)
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def host_ms(function: Function, device: torch.device, rounds: int) -> float:
    """Median milliseconds until a run has handed all its work to the device."""
    times = []
    for _ in range(rounds):
        synchronize(device)
        begin = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - begin))
    synchronize(device)
    return statistics.median(times)


def kernel_times(function: Function, device: torch.device, rounds: int = 3) -> dict[str, tuple[float, float]]:
    """Milliseconds and launches per run of each kernel, the longest first; on a CPU, of each torch operation."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    function()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        for _ in range(rounds):
            function()
        synchronize(device)
    found = {}
    for event in profiled.key_averages():
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        if microseconds:
            found[event.key] = (microseconds / 1e3 / rounds, event.count / rounds)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def graph_ms(function: Function, device: torch.device, rounds: int) -> float:
    """Median milliseconds of a run that is replayed as a CUDA graph; NaN on a CPU."""
    if device.type != "cuda":
        return float("nan")
    synchronize(device)
    replay, _ = capture(function, device, None)
    return device_ms(replay, device, rounds)


def peak_mb(function: Function, device: torch.device) -> float:
    """Peak MB that a run allocates beyond what was there; NaN on a CPU."""
    if device.type != "cuda":
        function()
        return float("nan")
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def all_times(function: Function, device: torch.device, rounds: int, graphs: bool) -> dict[str, float]:
    """The row of a table: milliseconds from first to last, of the CPU, of the kernels alone, and as a graph; launches
    of kernels; peak memory."""
    whole = device_ms(function, device, rounds)
    kernels = kernel_times(function, device).values()
    replayed = float("nan")
    if graphs:
        with contextlib.suppress(RuntimeError):  # what waits for the GPU cannot be captured
            replayed = graph_ms(function, device, rounds)
    return {
        "ms": whole,
        "host_ms": host_ms(function, device, rounds),
        "kernels_ms": sum(ms for ms, _ in kernels),
        "launches": sum(count for _, count in kernels),
        "graph_ms": replayed,
        "peak_MB": peak_mb(function, device),
    }

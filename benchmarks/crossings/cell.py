"""One measurement of the map: time and memory of a pass of a system over a length.

On a CPU it has a process of its own, so that its peak of memory is that of the pass. Time is that of the processor,
with one thread, which other programs on the machine do not change. On a GPU one process measures all: PyTorch counts
the memory of each pass, and a process that was forked could not use a GPU.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from crossings.attention_forms import attention_form
from crossings.catalog import System
from crossings.networks import Network
from speechbrain_mamba.utils.memory import keep_freed_memory

DONE, TOO_LONG, NO_MEMORY, FAILED = "done", "too long", "out of memory", "failed"


class Cell(NamedTuple):
    """What to measure."""

    system: System
    passed: str
    """One of :data:`crossings.catalog.PASSES`."""
    length: float
    """Seconds, or tokens of a layer."""


class Limits(NamedTuple):
    """What a measurement may take."""

    call: float = 10.0
    """Seconds of a call; a longer one is the last of its series."""
    repeats: int = 3
    """How often a call is timed; short ones in groups."""
    budget: float = 1.5
    """No repeat begins after these seconds of timed calls."""
    memory: float = 4e9
    """Bytes on a CPU beyond those of the program and its weights."""


def run_inference(call: Callable[[], Tensor]) -> None:
    """A forward pass without gradients."""
    with torch.no_grad():
        call()


def run_step(model: nn.Module, call: Callable[[], Tensor]) -> None:
    """A training step: forward, loss and backward, without the optimizer."""
    model.zero_grad(set_to_none=True)
    call().float().square().mean().backward()


@contextmanager
def counting_saved(model: nn.Module) -> Iterator[dict[int, int]]:
    """Note the memory that forward passes keep for the backward pass, the parameters left out: bytes of each piece."""
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would be a cycle where it is an output

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


SHORTEST = {"cpu": 0.12, "cuda": 0.02}
"""Seconds that are timed at least. Some systems count processor time in steps of 4 ms; a GPU's clock is finer."""


def cpu_seconds(function: Callable[[], object]) -> float:
    """Processor time of a call, of all threads."""
    start = time.process_time()
    function()
    return time.process_time() - start


def repeated(function: Callable[[], object], times: int) -> Callable[[], None]:
    """A function that calls another one some times."""

    def calls() -> None:
        for _ in range(times):
            function()

    return calls


def gpu_seconds(function: Callable[[], object]) -> float:
    """Time of a call on the GPU's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def measure(network: Network, cell: Cell, device: torch.device, dtype: torch.dtype, limits: Limits) -> dict[str, Any]:
    """Measure in this process; the form of attention has been set.

    Returns
    -------
    dict
        ``seconds``, the median of ``repeats`` calls after one that warms up, and the ``fastest``; ``peak_mb``, beyond
        what was there before; and of a training step ``saved_mb``, what it keeps for the backward pass.
    """
    model, training, cuda = network.model, cell.passed != "inference", device.type == "cuda"
    shortest = SHORTEST[device.type]
    model.train(training)
    timed = gpu_seconds if cuda else cpu_seconds
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        call = network.call(cell.length, device)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if cuda else peak_bytes()

        def run() -> None:
            if training:
                run_step(model, call)
            else:
                run_inference(call)

        with counting_saved(model) as kept:
            run()
        group = 1
        while (total := timed(repeated(run, group))) < shortest:
            # a coarse clock may say 0 for a short call
            group *= max(2, min(8, math.ceil(1.2 * shortest / max(total, 1e-3))))
        seconds = [total / group]
        while len(seconds) < limits.repeats and sum(seconds) * group < limits.budget:
            seconds.append(timed(repeated(run, group)) / group)
    peak = (torch.cuda.max_memory_allocated() if cuda else peak_bytes()) - before
    model.zero_grad(set_to_none=True)
    return {
        "status": DONE, "seconds": statistics.median(seconds), "fastest": min(seconds), "repeats": len(seconds),
        "peak_mb": peak / 2**20, "saved_mb": sum(kept.values()) / 2**20 if training else "", "reason": "",
    }  # fmt: skip


def measure_apart(network: Network, cell: Cell, dtype: torch.dtype, limits: Limits) -> dict[str, Any]:
    """Measure on the CPU in a process of its own; returns what :func:`measure_here` does.

    The system ends a process that computes for too long, whatever else the machine does. This process must not have
    used autograd before.
    """
    release_memory()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, network, cell, dtype, limits), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        return _cause_of_death(process.exitcode)
    finally:
        process.kill()
        process.join()


def _work(pipe: Connection, network: Network, cell: Cell, dtype: torch.dtype, limits: Limits) -> None:
    """What the process does."""
    torch.set_num_threads(1)
    keep_freed_memory()
    seconds = 2 + round(4 * limits.call)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # the second limit kills without a reason
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + round(limits.memory),) * 2)
    pipe.send(measure_here(network, cell, torch.device("cpu"), dtype, limits))


def measure_here(
    network: Network, cell: Cell, device: torch.device, dtype: torch.dtype, limits: Limits
) -> dict[str, Any]:
    """What :func:`measure` returns; for a cell that fails, a ``status`` and a ``reason`` instead of figures."""
    try:
        network.model.to(device)
        with attention_form(network.model, cell.system.form):
            return measure(network, cell, device, dtype, limits)
    except (RuntimeError, MemoryError, ValueError) as error:
        missing = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
        reason = f"{type(error).__name__}: {error}"
    network.model.zero_grad(set_to_none=True)
    return _without(NO_MEMORY if missing else FAILED, reason)


def _without(status: str, reason: str = "") -> dict[str, Any]:
    """What is said of a cell without figures."""
    figures = dict.fromkeys(("seconds", "fastest", "repeats", "peak_mb", "saved_mb"), "")
    return {"status": status, **figures, "reason": reason.splitlines()[0][:150] if reason else ""}


def _cause_of_death(code: int | None) -> dict[str, Any]:
    """What is said of a cell whose process has ended."""
    if code == -signal.SIGXCPU:
        return _without(TOO_LONG)
    if code == -signal.SIGKILL:
        return _without(NO_MEMORY, "The system ended the process.")
    return _without(FAILED, f"The process ended with exit code {code}.")


def _address_space() -> int:
    """Bytes of addresses that this process has."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 2**44  # no limit that matters


def release_memory() -> None:
    """Give what Python and glibc hold free back to the system, since a new process would count it as there before."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        CDLL(None).malloc_trim(0)

"""What the package finds on this machine, and what would make it faster.

It is run when something does not work, so it imports nothing that may be missing or broken before it asks about it. A
question that fails costs one line of the report.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from importlib import metadata

from speechbrain_mamba import __version__
from speechbrain_mamba.utils.toolchain import find_compiler, find_headers, missing_tools
from speechbrain_mamba.utils.torch_pair import check_torchaudio

PACKAGES = ("torch", "torchaudio", "speechbrain", "triton", "mamba-ssm", "causal-conv1d")


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine has if the process is bound to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpu() -> Iterator[tuple[str, str]]:
    import torch

    yield "GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"


def _compiler() -> Iterator[tuple[str, str]]:
    found = missing_tools() or f"{find_compiler()}, Python.h in {find_headers()}"
    yield "C compiler", found.rstrip(".")


def _threads() -> Iterator[tuple[str, str]]:
    import torch

    yield "threads", f"{torch.get_num_threads()} on {usable_cores()} usable cores"


def _backends() -> Iterator[tuple[str, str]]:
    from speechbrain_mamba import ops

    unavailable = ops.unavailable_backends()
    for name in (*ops.available_backends(), *unavailable):
        yield f"backend {name}", unavailable.get(name, "available").rstrip(".")


def _kernels() -> Iterator[tuple[str, str]]:
    from speechbrain_mamba import ops
    from speechbrain_mamba.ops.backends import cpu

    if "cpu" not in ops.unavailable_backends():
        kernels = cpu.library()
        yield "CPU kernels", f"{kernels.instruction_set} (this machine has {', '.join(kernels.instruction_sets)})"
        yield "CPU threads", "those of torch" if kernels.shares_torch_threads else "started for each call"


def _precisions() -> Iterator[tuple[str, str]]:
    from speechbrain_mamba.ops.int8 import int8_unavailable
    from speechbrain_mamba.utils.processor import bf16_unavailable, processor_flags

    named = {
        "VNNI": {"avx512_vnni", "avx_vnni"}, "AVX512_BF16": {"avx512_bf16"}, "AMX": {"amx_bf16", "amx_int8"},
        "BF16": {"bf16"},
    }  # fmt: skip
    found = [name for name, flags in named.items() if flags & processor_flags()]
    yield "CPU instructions", ", ".join(found) or "none for bf16 or int8 that are known here"
    for name, reason in (("bf16", bf16_unavailable()), ("int8", int8_unavailable())):
        faster = f"faster in inference: --precision {name}"
        yield f"CPU {name}", faster if reason is None else f"fp32 in its place: {reason.rstrip('.')}"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _facts() -> Iterator[tuple[str, str]]:
    yield "speechbrain_mamba", __version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in PACKAGES:
        yield package, _version(package)
    asked = {
        "GPU": _gpu,
        "C compiler": _compiler,
        "threads": _threads,
        "backends": _backends,
        "CPU kernels": _kernels,
        "CPU instructions": _precisions,
    }
    for name, ask in asked.items():
        try:
            yield from ask()
        except Exception as error:  # whatever is broken here is what the report is for
            yield name, f"unknown ({_short(error)})"


def _repairs() -> Iterator[str]:
    """What keeps the package from working."""
    try:
        check_torchaudio()
    except ImportError as error:
        yield str(error)
        return
    try:
        import torchaudio  # noqa: F401
    except Exception as error:
        yield f"torchaudio cannot be imported: {_short(error)}"


def _speed() -> Iterator[str]:
    import torch

    from speechbrain_mamba import ops
    from speechbrain_mamba.ops.backends import cpu

    if torch.cuda.is_available() and (problem := ops.unavailable_backends().get("triton")):
        yield f"Make the GPU kernels work: {problem}"
    if problem := ops.unavailable_backends().get("cpu"):
        if cpu.PATH.exists():
            yield f"Make the CPU kernels work: {problem}"
        else:
            yield (
                "Install a C compiler (on Debian and Ubuntu: apt install gcc) and this package again: the CPU kernels "
                "scan tens of times faster than the reference backend."
            )
        return
    kernels, threads, cores = cpu.library(), torch.get_num_threads(), usable_cores()
    if kernels.instruction_set != kernels.instruction_sets[0]:
        yield f"Unset SPEECHBRAIN_MAMBA_CPU_ISA: this machine has {kernels.instruction_sets[0]}, which is faster."
    if threads < cores:
        yield f"Let torch use all {cores} cores: set OMP_NUM_THREADS or call torch.set_num_threads."
    if threads > cores:
        yield f"Let torch use no more than {cores} threads, one per core: set OMP_NUM_THREADS."
    if not kernels.shares_torch_threads:
        yield "Use a build of torch with OpenMP: its threads could not be found, and starting others takes time."
    if os.environ.get(ops.registry.ENVIRONMENT_VARIABLE) == "reference":
        yield f"Unset {ops.registry.ENVIRONMENT_VARIABLE}: it asks for the slow reference backend."


def check_backends() -> tuple[str, int]:
    """Compare every backend with the reference on this machine, as before it first serves.

    Returns
    -------
    text : str
        A table: errors relative to what is allowed, so that right ones are below 1, and milliseconds of the first run,
        which compiles, and of the next one.
    failures : int
        How many calls failed.
    """
    from speechbrain_mamba.ops.self_check import check_machine

    rows, failures = [("backend", "device", "operation", "dtype", "error", "first ms", "next ms", "")], 0
    for name, device, case, outcome in check_machine():
        numbers = (f"{outcome.error:.1e}", f"{outcome.first_ms:.1f}", f"{outcome.again_ms:.1f}")
        verdict = "ok" if outcome.failure is None else f"FAILED: {outcome.failure}"
        failures += outcome.failure is not None
        rows.append((name, device, case.op, str(case.dtype).removeprefix("torch."), *numbers, verdict))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    end = "All agree with the reference." if not failures else f"{failures} of {len(rows) - 1} do not agree with it."
    return "\n".join([*lines, "", end]), failures


def _advice(ask: Callable[[], Iterator[str]], otherwise: str) -> list[str]:
    try:
        return [f"- {line}" for line in ask()] or [f"- {otherwise}"]
    except Exception as error:
        return [f"- Unknown ({_short(error)})."]


def report() -> str:
    """Describe versions, backends, instruction set and threads, and give advice, in lines of text.

    Example
    -------
    >>> "backend reference  available" in report()
    True
    """
    facts = list(_facts())
    width = max(len(name) for name, _ in facts) + 2
    lines = [f"{name:<{width}}{value}" for name, value in facts]
    lines += ["", "What keeps it from working", *_advice(_repairs, "Nothing found.")]
    speed = _advice(_speed, "Nothing found: this is as fast as it gets here.")
    return "\n".join([*lines, "", "What would make it faster", *speed])

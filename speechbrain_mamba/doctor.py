"""What the package finds on this machine, and what would make it faster."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from speechbrain_mamba import __version__, ops
from speechbrain_mamba.ops.backends.cpu.native import PATH, library

PACKAGES = ("torch", "torchaudio", "speechbrain", "triton", "mamba-ssm", "causal-conv1d")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def usable_cores() -> int:
    """Cores that this process may run on.

    Returns
    -------
    int
        At least 1; fewer than the machine has where the process is bound to some of them.

    Example
    -------
    >>> usable_cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _facts() -> Iterator[tuple[str, str]]:
    yield "speechbrain_mamba", __version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in PACKAGES:
        yield package, _version(package)
    yield "GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    yield "threads", f"{torch.get_num_threads()} on {usable_cores()} usable cores"
    unavailable = ops.unavailable_backends()
    for name in (*ops.available_backends(), *unavailable):
        yield f"backend {name}", unavailable.get(name, "available").rstrip(".")
    if "cpu" not in unavailable:
        kernels = library()
        yield "CPU kernels", f"{kernels.instruction_set} (this machine has {', '.join(kernels.instruction_sets)})"
        yield "CPU threads", "those of torch" if kernels.shares_torch_threads else "started for each call"


def _advice() -> Iterator[str]:
    problem = ops.unavailable_backends().get("cpu")
    if problem and PATH.exists():
        yield f"Make the CPU kernels work: {problem}"
    elif problem:
        yield (
            "Install a C compiler (on Debian and Ubuntu: apt install gcc) and this package again: the CPU kernels scan"
            " about a hundred times faster than the reference backend."
        )
    if problem:
        return
    kernels, threads, cores = library(), torch.get_num_threads(), usable_cores()
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


def report() -> str:
    """Describe versions, backends, instruction set and threads, and give advice.

    Returns
    -------
    str
        Lines of text.

    Example
    -------
    >>> "backend reference  available" in report()
    True
    """
    facts = list(_facts())
    width = max(len(name) for name, _ in facts) + 2
    lines = [f"{name:<{width}}{value}" for name, value in facts]
    advice = [f"- {line}" for line in _advice()] or ["- Nothing found: all is as fast as it gets here."]
    return "\n".join([*lines, "", "What would make it faster", *advice])

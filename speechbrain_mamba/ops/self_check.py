"""Whether a backend computes on this machine what the reference does: asked before it first serves, and by ``doctor``.

A kernel can be right in every test and still fail on a GPU, with a driver or with a version of Triton that nobody has
tried. So a small call, forward and backward, is compared with the reference in float64 on the CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends import reference
from speechbrain_mamba.ops.registry import available_backends, load_backend
from speechbrain_mamba.ops.sample_calls import OPERATIONS, SUMS, Case, call_of, make_inputs, run_case
from speechbrain_mamba.utils.files import write_json

ALLOWED = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2, torch.float64: 1e-10}
"""Largest error relative to a tensor's largest value. It leaves room for TF32; a wrong kernel is off by far more."""
ALLOWED_SUMS = 3
"""Factor on that for gradients that are sums over batch and time."""
PACKAGES = ("torch", "triton", "mamba-ssm", "causal-conv1d")


OUT_OF_MEMORY = "there is not enough memory for the check."


class Inconclusive(Exception):
    """A check that could not be done now, and says nothing about the backend."""


class Outcome(NamedTuple):
    """What a check found."""

    failure: str | None
    """A sentence on what is wrong, None if nothing is."""
    error: float
    """The largest error of any output or gradient, relative to what is allowed: right is below 1."""
    first_ms: float
    """Milliseconds of the first run, with what had to be compiled."""
    again_ms: float
    """Milliseconds of another run."""


def compare(backend: ModuleType, case: Case, device: torch.device) -> Outcome:
    """Compare a backend on a device with the reference. It runs in a thread of its own, where no autocast, transformed
    gradient, inference mode or tracing of the caller is in force.

    Arguments
    ---------
    backend : module
        The backend.
    case : Case
        The call.
    device : torch.device
        Where it runs.

    Returns
    -------
    Outcome
        Errors of the backend are part of it, not raised.
    """
    found: list[Outcome] = []

    def run() -> None:
        try:
            found.append(_compare(backend, case, device))
        except torch.OutOfMemoryError:
            found.append(Outcome(OUT_OF_MEMORY, float("nan"), float("nan"), float("nan")))
        except Exception as error:  # of any kind: compiling, launching
            lines = f"{type(error).__name__}: {error}".splitlines()
            found.append(Outcome(lines[0][:300], float("nan"), float("nan"), float("nan")))

    thread = threading.Thread(target=run, name="speechbrain_mamba self-check")
    thread.start()
    thread.join()
    return found[0]


def _compare(backend: ModuleType, case: Case, device: torch.device) -> Outcome:
    inputs = make_inputs(case)
    with _on(device):
        first, first_ms = _timed(lambda: run_case(backend, case, inputs, device))
        again, again_ms = _timed(lambda: run_case(backend, case, inputs, device))  # may be launched in another way
    right = run_case(reference, case, inputs, torch.device("cpu"), torch.float64)
    worst, name = max((_error(case, name, run[name], right[name]), name) for run in (first, again) for name in right)
    failure = None if worst < 1 else f"{_described(name)} is off by {worst:.2g} times what is allowed."
    return Outcome(failure, worst, first_ms, again_ms)


@contextlib.contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Make a GPU the current one; a debug mode that forbids to wait for it is not meant for this."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode(0)
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)


def _timed(function: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], float]:
    start = time.perf_counter()
    results = {name: t.cpu() for name, t in function().items()}  # which waits
    return results, 1e3 * (time.perf_counter() - start)


def _error(case: Case, name: str, result: Tensor, right: Tensor) -> float:
    """The error of a tensor relative to what is allowed; infinite for another shape or anything that is not finite."""
    if result.shape != right.shape or not result.isfinite().all():
        return float("inf")
    if not right.numel():
        return 0.0
    error = (result.double() - right).abs().max().item() / max(right.abs().max().item(), 1e-30)
    return error / (ALLOWED[case.dtype] * (ALLOWED_SUMS if name.split()[-1] in SUMS else 1))


def _described(name: str) -> str:
    if name.isdigit():
        return f"output {name}"
    _, number, of = name.split()
    return f"the gradient of {of} (input {number})"


# ------------------------------------------------------------------------------------------------------- what was seen


@cache
def _machine(device_name: str) -> str:
    """What a result depends on: GPU, driver, versions and the source of the operations."""
    device = torch.device(device_name)
    facts = [platform.machine(), platform.python_version()]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts += [properties.name, f"{properties.major}.{properties.minor}", str(torch.version.cuda)]
    for package in PACKAGES:
        try:
            facts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            facts.append(f"{package} missing")
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        source.update(path.read_bytes())
    return "\n".join([*facts, source.hexdigest()])


def cache_folder() -> Path:
    """Where passed checks are remembered: ``speechbrain_mamba/self_check`` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "speechbrain_mamba" / "self_check"


def _record(name: str, case: Case, device: torch.device) -> Path:
    key = hashlib.sha256(f"{_machine(str(device))}\n{name}\n{case}".encode()).hexdigest()
    return cache_folder() / f"{name}-{case.op}-{key[:20]}.json"


def check(name: str, backend: ModuleType, case: Case, device: torch.device) -> str | None:
    """Check a backend unless it has passed on this machine before.

    A file for each case, written atomically, is what is remembered: processes that check at the same time do not
    disturb each other. A failure is not remembered, so that what was repaired is tried again.

    Arguments
    ---------
    name, backend : str, module
        The backend.
    case, device : Case, torch.device
        The call.

    Returns
    -------
    str or None
        A sentence on what is wrong, None if nothing is.

    Raises
    ------
    Inconclusive
        If there is no memory for it.
    """
    path: Path | None = None
    try:
        path = _record(name, case, device)
        if path.exists():
            return None
    except (OSError, RuntimeError):  # no home folder, or one that may not be read
        pass
    outcome = compare(backend, case, device)
    if outcome.failure == OUT_OF_MEMORY:
        raise Inconclusive(OUT_OF_MEMORY)
    if outcome.failure is None and path is not None:
        with contextlib.suppress(OSError):
            write_json(path, {"case": str(case), "device": str(device), **outcome._asdict()})
    return outcome.failure


class Checked(NamedTuple):
    """A check of one kind of call."""

    backend: str
    """Name of the backend."""
    device: str
    """Where it ran."""
    case: Case
    """The call."""
    outcome: Outcome
    """What it found."""


def check_machine() -> Iterator[Checked]:
    """Check every operation and type of every backend that is available here, on every device that it takes.

    Example
    -------
    >>> first = next(check_machine())
    >>> first.backend, first.case.op, first.outcome.failure
    ('reference', 'selective_scan', None)
    """
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for name in available_backends():
        backend = load_backend(name)
        for device in map(torch.device, devices):
            for op in OPERATIONS:
                for dtype in (torch.float32, torch.bfloat16, torch.float16):
                    case = Case(op, dtype)
                    if backend.unsupported(call_of(case, make_inputs(case), device)) is None:
                        yield Checked(name, str(device), case, compare(backend, case, device))

"""The backends of the operations: which are available, and which one serves a call.

A backend is a module with operations of :mod:`speechbrain_mamba.ops.backends.reference`, and two functions that return
a reason in words, or None: why it cannot be used on this machine (``unavailable()``), and why it cannot serve a call
(``unsupported(call)``), such as an operation that it does not have.

The choice is automatic, by device. :func:`use_backend` overrules it, and so does the environment variable
``SPEECHBRAIN_MAMBA_BACKEND`` for a whole process. Where it is automatic, a backend for GPUs is checked before it first
serves (:mod:`speechbrain_mamba.ops.self_check`), unless ``SPEECHBRAIN_MAMBA_SELF_CHECK`` is 0.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import os
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from speechbrain_mamba.utils._compat import constant_when_compiled, is_transforming

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "SPEECHBRAIN_MAMBA_BACKEND"
SELF_CHECK_VARIABLE = "SPEECHBRAIN_MAMBA_SELF_CHECK"

NO_TORCHSCRIPT = (
    "Mamba does not run in TorchScript, which would keep one length and could not be loaded without this package. Use "
    "torch.export or ONNX: see docs/deployment.md."
)

_MODULES = {
    "reference": "speechbrain_mamba.ops.backends.reference",
    "chunked": "speechbrain_mamba.ops.backends.chunked",
    "cpu": "speechbrain_mamba.ops.backends.cpu",
    "triton": "speechbrain_mamba.ops.backends.triton",
    "mamba_ssm": "speechbrain_mamba.ops.backends.mamba_ssm",
}
"""Every backend by name."""

_PREFERENCE: dict[str, tuple[str, ...]] = {"cpu": ("cpu",), "cuda": ("triton", "mamba_ssm")}
"""The order of preference on each type of device, before the backends in PyTorch: ``chunked``, then ``reference``."""
_CHECKED_DEVICES = {"cuda"}
"""Types of devices whose backends are checked before they first serve."""

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("speechbrain_mamba_backend", default=None)
_loaded: dict[str, ModuleType] = {}
_reasons: dict[str, str | None] = {}
_warned: set[str] = set()
_passed: dict[tuple, bool] = {}


class Call(NamedTuple):
    """What a backend is asked to serve."""

    op: str
    """Name of the operation."""
    tensor: Tensor
    """Its input, whose device decides."""
    others: tuple[Tensor | None, ...]
    """Its other tensors of floating-point type."""
    states: int = 0
    """States per channel."""
    width: int = 0
    """Frames of a filter."""
    rank: int = 0
    """Rank of the step's factor."""
    continues: bool = False
    """Whether a scan has an initial state."""
    head: int = 0
    """Channels of a head, where there are heads."""

    def wrong_tensor(self, device: str, dtypes: Collection[torch.dtype]) -> str | None:
        """A sentence on the first tensor that is not on a device or not of some dtypes, None if all are."""
        for tensor in (self.tensor, *self.others):
            if tensor is not None and (tensor.device.type != device or tensor.dtype not in dtypes):
                *names, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
                accepted = f"{', '.join(names)} and {last} on {device}"
                return f"it takes {accepted}, but got {tensor.dtype} on {tensor.device}."
        return None


def load_backend(name: str) -> ModuleType:
    """Import a backend by name, whether it can be used here or not.

    Example
    -------
    >>> load_backend("reference").unavailable()
    """
    if name not in _loaded:
        _loaded[name] = importlib.import_module(_MODULES[name])
    return _loaded[name]


# torch.compile calls this instead of tracing it.
@constant_when_compiled
def _unavailable(name: str) -> str | None:
    if name not in _reasons:
        _reasons[name] = load_backend(name).unavailable()
    return _reasons[name]


def is_available(name: str) -> bool:
    """Whether a backend can be used on this machine."""
    return _unavailable(name) is None


@constant_when_compiled
def _say_why_slow(device: str) -> None:
    """Warn once when no faster backend than the reference can be used on a type of device."""
    _unavailable("reference")  # loads it
    names = _PREFERENCE.get(device, ())
    if names and device not in _warned and all(_unavailable(name) for name in names):
        _warned.add(device)
        logger.warning(
            "Mamba runs on the slow reference backend, as %s. See `python -m speechbrain_mamba doctor`.",
            "; ".join(
                f"the backend '{name}' is not available: {(_unavailable(name) or '').rstrip('.')}" for name in names
            ),
        )


@constant_when_compiled
def _may_serve(name: str, device_type: str, device_index: int | None, traced: bool, *case: Any) -> bool:
    """Whether a backend has passed its self-check of a kind of call, or it cannot be done now."""
    if device_type not in _CHECKED_DEVICES or os.environ.get(SELF_CHECK_VARIABLE) == "0":
        return True
    key = (name, device_type, device_index, *case)
    if key not in _passed:
        if traced or (device_type == "cuda" and torch.cuda.is_current_stream_capturing()):
            return True
        passes = _passes(name, torch.device(device_type, device_index or 0), *case)
        if passes is None:
            return True
        _passed[key] = passes
    return _passed[key]


def _passes(name: str, device: torch.device, *case: Any) -> bool | None:
    """Whether a backend passes its self-check, None if there is no memory for it now."""
    from speechbrain_mamba.ops.sample_calls import Case
    from speechbrain_mamba.ops.self_check import Inconclusive, check

    checked = Case(*case)
    try:
        failure = check(name, load_backend(name), checked, device)
    except Inconclusive:
        return None
    if failure is not None and f"{name} failed" not in _warned:
        _warned.add(f"{name} failed")
        logger.warning(
            "The backend '%s' failed its self-check of %s in %s, so the next one serves: %s. Please report this with "
            "the output of `python -m speechbrain_mamba doctor --check`. %s=0 turns the check off.",
            name, checked.op, str(checked.dtype).removeprefix("torch."), failure.rstrip("."), SELF_CHECK_VARIABLE,
        )  # fmt: skip
    return failure is None


def _check_name(name: str, source: str) -> str:
    if name not in _MODULES:
        raise ValueError(
            f"{source} names the backend '{name}', which does not exist: choose one of {', '.join(_MODULES)}, or auto."
        )
    reason = _unavailable(name)
    if reason is not None:
        raise ValueError(f"{source} names the backend '{name}', which is not available here: {reason}")
    return name


def available_backends() -> list[str]:
    """Names of the backends that can be used on this machine.

    Returns
    -------
    list of str
        At least ``reference``.

    Example
    -------
    >>> "reference" in available_backends()
    True
    """
    return [name for name in _MODULES if _unavailable(name) is None]


def unavailable_backends() -> dict[str, str]:
    """Names of the backends that cannot be used on this machine, each with the reason in words.

    Returns
    -------
    dict of str to str
        Empty when every backend is available.

    Example
    -------
    >>> "reference" in unavailable_backends()
    False
    """
    reasons = {name: _unavailable(name) for name in _MODULES}
    return {name: reason for name, reason in reasons.items() if reason is not None}


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve all calls inside the context with one backend.

    Arguments
    ---------
    name : str
        One of :func:`available_backends`, or ``auto`` for the automatic choice.

    Raises
    ------
    ValueError
        When the backend does not exist, or is not available here. Inside the context, a call that the backend cannot
        serve raises a ValueError that says why.

    Example
    -------
    >>> with use_backend("reference"):
    ...     chosen_backend()
    'reference'
    """
    if name != "auto":
        _check_name(name, "use_backend")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@constant_when_compiled
def chosen_backend() -> str:
    """The backend that the user asked for, by :func:`use_backend` or by the environment; ``auto`` if none.

    A function compiled by ``torch.compile`` keeps the choice that held when it was compiled.

    Returns
    -------
    str
        A backend's name or ``auto``.

    Example
    -------
    >>> with use_backend("auto"):
    ...     chosen_backend()
    'auto'
    """
    name = _chosen.get()
    if name is None:
        name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
        if name != "auto":
            _check_name(name, f"The environment variable {ENVIRONMENT_VARIABLE}")
    return name


def cpu_kernels_serve() -> bool:
    """Whether kernels of the backend ``cpu`` are there, and no other backend was asked for."""
    return chosen_backend() in ("auto", "cpu") and is_available("cpu")


def is_plain_call(*tensors: Tensor | None) -> bool:
    """Whether nothing has to see an operation on tensors as one of torch's: no gradient, compiler, tracer,
    transformation or stand-in for tensors."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transforming():
        return False
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and ((grad and tensor.requires_grad) or type(tensor) not in (Tensor, Parameter)):
            return False
    return True


def select_backend(call: Call) -> ModuleType:
    """The backend that serves a call.

    Arguments
    ---------
    call : Call
        The operation, and what decides on its backend.

    Returns
    -------
    module
        The backend.

    Raises
    ------
    ValueError
        When the backend that the user asked for cannot serve the call, and in ``torch.jit.trace``.
    """
    if not torch.compiler.is_compiling() and torch.jit.is_tracing():
        raise ValueError(f"torch.jit.trace meets {call.op}: {NO_TORCHSCRIPT}")
    chosen = chosen_backend()
    if chosen != "auto":
        reason = load_backend(chosen).unsupported(call)
        if reason is not None:
            raise ValueError(
                f"The backend '{chosen}' cannot serve this {call.op}: {reason} Choose another backend, or auto."
            )
        return _as_operations(load_backend(chosen))
    device, traced = call.tensor.device, torch.compiler.is_compiling()
    case = (call.op, call.tensor.dtype, call.states, call.width, call.rank, call.continues, call.head)
    for name in _PREFERENCE.get(device.type, ()):
        serves = _unavailable(name) is None and load_backend(name).unsupported(call) is None
        if serves and _may_serve(name, device.type, device.index, traced, *case):
            return load_backend(name)
    if load_backend("chunked").unsupported(call) is None:
        return load_backend("chunked")
    _say_why_slow(device.type)
    return _as_operations(load_backend("reference"))


def _as_operations(backend: ModuleType) -> ModuleType:
    """The reference in the form that ``torch.export`` keeps whole, while it traces; other backends as they are."""
    if backend.__name__ != _MODULES["reference"] or not torch.compiler.is_exporting():
        return backend
    return importlib.import_module(f"{backend.__package__}.exported")

"""The backends of the operations: which are available, and which one serves a call.

A backend is a module with the six operations of :mod:`speechbrain_mamba.ops.backends.reference`, and two functions that
return a reason in words, or None: why it cannot be used on this machine (``unavailable()``), and why it cannot serve a
call (``unsupported(call)``).

The choice is automatic, by device. :func:`use_backend` overrules it, and so does the environment variable
``SPEECHBRAIN_MAMBA_BACKEND`` for a whole process.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import os
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "SPEECHBRAIN_MAMBA_BACKEND"

_MODULES = {
    "reference": "speechbrain_mamba.ops.backends.reference",
    "cpu": "speechbrain_mamba.ops.backends.cpu",
    "triton": "speechbrain_mamba.ops.backends.triton",
    "mamba_ssm": "speechbrain_mamba.ops.backends.mamba_ssm",
}
"""Every backend by name."""

_PREFERENCE: dict[str, tuple[str, ...]] = {"cpu": ("cpu",), "cuda": ("triton", "mamba_ssm")}
"""What is tried first on a type of device, before the reference backend, fastest first."""

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("speechbrain_mamba_backend", default=None)
_loaded: dict[str, ModuleType] = {}
_reasons: dict[str, str | None] = {}
_warned: set[str] = set()


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

    def wrong_tensor(self, device: str, dtypes: Collection[torch.dtype]) -> str | None:
        """A sentence on the first tensor that is not on a device or not of some dtypes, None if all are."""
        for tensor in (self.tensor, *self.others):
            if tensor is not None and (tensor.device.type != device or tensor.dtype not in dtypes):
                *names, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
                accepted = f"{', '.join(names)} and {last} on {device}"
                return f"it takes {accepted}, but got {tensor.dtype} on {tensor.device}."
        return None


def _module(name: str) -> ModuleType:
    if name not in _loaded:
        _loaded[name] = importlib.import_module(_MODULES[name])
    return _loaded[name]


# torch.compile calls this, rather than looking inside.
@torch.compiler.assume_constant_result
def _unavailable(name: str) -> str | None:
    if name not in _reasons:
        _reasons[name] = _module(name).unavailable()
    return _reasons[name]


@torch.compiler.assume_constant_result
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
    """Serve all calls inside the context by one backend.

    Arguments
    ---------
    name : str
        One of :func:`available_backends`, or ``auto`` for the automatic choice.

    Raises
    ------
    ValueError
        When there is no such backend, or it is not available here. Inside the context, a call that the backend cannot
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


@torch.compiler.assume_constant_result
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
        When the backend that the user asked for cannot serve the call.
    """
    chosen = chosen_backend()
    if chosen != "auto":
        reason = _module(chosen).unsupported(call)
        if reason is not None:
            raise ValueError(
                f"The backend '{chosen}' cannot serve this {call.op}: {reason} Choose another backend, or auto."
            )
        return _module(chosen)
    device = call.tensor.device.type
    for name in _PREFERENCE.get(device, ()):
        if _unavailable(name) is None and _module(name).unsupported(call) is None:
            return _module(name)
    _say_why_slow(device)
    return _module("reference")

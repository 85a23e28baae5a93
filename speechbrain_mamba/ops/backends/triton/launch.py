"""How kernels are launched.

Triton binds and inspects all arguments of a launch, which takes longer than a kernel on a short input. A compiled
kernel is launched directly when another launch had arguments of the same kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechbrain_mamba.utils._compat import triton_launcher

_compiled: dict[tuple, Callable[[tuple[int, int, int], int, list], None]] = {}
"""How kernels are launched, by what decides on them; kernels, which stay as long as their modules, by identity."""
_flags: dict[int, list[bool]] = {}
"""Of each kernel's arguments, whether it is compiled for their values."""


def launch(kernel: Any, programs: int | tuple[int, int], *arguments: Any, **constants: Any) -> None:
    """Launch a kernel.

    Arguments
    ---------
    kernel : triton.JITFunction
        The kernel.
    programs : int or tuple of two int
        Its programs.
    *arguments : Tensor, int or None
        Its arguments, but for constants; the first is a tensor.
    **constants
        Its constants and ``num_warps``.
    """
    grid = (programs, 1, 1) if isinstance(programs, int) else (*programs, 1)
    if not _compiles(arguments[0]):
        kernel[grid](*arguments, **constants)
        return
    device = torch.cuda.current_device()
    found, values = read(kernel, arguments)
    key = (id(kernel), device, *constants.items(), *found)
    start = _compiled.get(key)
    if start is None:
        _compiled[key] = triton_launcher(kernel[grid](*arguments, **constants))
    else:
        values += [constants[name] for name in kernel.arg_names[len(arguments) :]]
        start(grid, device, values)


def _compiles(tensor: Tensor) -> bool:
    """Whether a launch compiles a kernel: not in Triton's interpreter, and not if launches are only recorded."""
    return tensor.is_cuda


def read(kernel: Any, arguments: tuple) -> tuple[list, list]:
    """What decides on how a kernel is compiled for arguments, at least as finely as Triton tells them apart, and the
    arguments with addresses in place of tensors.

    The first are the dtype of a tensor and whether 16 bytes divide its address; an integer, unless the kernel leaves it
    open, and otherwise whether it has 32 bits.
    """
    values: list[Any] = [a if a is None or a.__class__ is int else a.data_ptr() for a in arguments]
    found = [
        (a if special else -(2**31) <= a < 2**31)
        if a.__class__ is int
        else (None if a is None else (a.dtype, value % 16 == 0))
        for a, value, special in zip(arguments, values, _specialized(kernel))
    ]
    return found, values


def _specialized(kernel: Any) -> list[bool]:
    found = _flags.get(id(kernel))  # whose own hash is slow
    if found is None:
        found = _flags[id(kernel)] = [not parameter.do_not_specialize for parameter in kernel.params]
    return found

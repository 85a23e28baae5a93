"""How kernels are launched.

Triton binds and inspects all arguments of a launch, which takes longer than a kernel on a short input. A compiled
kernel is launched directly when another launch had arguments of the same kinds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_compiled: dict[tuple, Any] = {}
"""Compiled kernels by what decides on them; kernels, which stay as long as their modules, by identity."""
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
    key = (id(kernel), torch.cuda.current_device(), *constants.items(), *kinds(kernel, arguments))
    compiled = _compiled.get(key)
    if compiled is None:
        _compiled[key] = kernel[grid](*arguments, **constants)
    else:
        compiled[grid](*arguments, *[constants[name] for name in kernel.arg_names[len(arguments) :]])


def _compiles(tensor: Tensor) -> bool:
    """Whether a launch compiles a kernel: not in Triton's interpreter, and not if launches are only recorded."""
    return tensor.is_cuda


def kinds(kernel: Any, arguments: tuple) -> list:
    """What decides on how a kernel is compiled for arguments, at least as finely as Triton tells them apart.

    These are the dtype of a tensor and whether 16 bytes divide its address; an integer, unless the kernel leaves it
    open, and otherwise whether it has 32 bits.
    """
    return [
        (a if special else -(2**31) <= a < 2**31)
        if a.__class__ is int
        else (None if a is None else (a.dtype, a.data_ptr() % 16))
        for a, special in zip(arguments, _specialized(kernel))
    ]


def _specialized(kernel: Any) -> list[bool]:
    found = _flags.get(id(kernel))  # whose own hash is slow
    if found is None:
        found = _flags[id(kernel)] = [not parameter.do_not_specialize for parameter in kernel.params]
    return found

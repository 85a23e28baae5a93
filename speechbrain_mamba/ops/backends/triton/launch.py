"""How kernels are launched."""

from __future__ import annotations

from typing import Any


def launch(kernel: Any, programs: int | tuple[int, int], *arguments: Any, **constants: Any) -> None:
    """Launch a kernel.

    Arguments
    ---------
    kernel : triton.JITFunction
        The kernel.
    programs : int or tuple of two int
        Its programs.
    *arguments : Tensor, int or None
        Its arguments, but for constants.
    **constants
        Its constants and ``num_warps``.
    """
    kernel[(programs,) if isinstance(programs, int) else programs](*arguments, **constants)

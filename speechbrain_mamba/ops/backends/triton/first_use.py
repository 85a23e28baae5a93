"""Says that kernels are being compiled when their first use takes long."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import triton

logger = logging.getLogger(__name__)

SECONDS = 2.0
"""Compilation that is worth an announcement."""


class FirstUse:
    """A listener of Triton's compiler, which announces once that this package's kernels are being compiled.

    Arguments
    ---------
    other : callable, optional
        A listener that was there before, and is still told.
    """

    def __init__(self, other: Callable[..., None] | None = None):
        self.other, self.seconds, self.kernels, self.announced = other, 0.0, 0, False

    def __call__(self, *, src: Any, times: Any, cache_hit: bool, **others: Any) -> None:
        """Hear of a kernel that was compiled, or found in Triton's cache."""
        function = getattr(getattr(src, "fn", None), "fn", None)
        if not cache_hit and getattr(function, "__module__", "").startswith("speechbrain_mamba."):
            self.seconds, self.kernels = self.seconds + times.total / 1e6, self.kernels + 1
            if self.seconds > SECONDS and not self.announced:
                self.announced = True
                logger.warning(
                    "Triton is compiling the GPU kernels of speechbrain_mamba for their first use: %d so far, in %.0f "
                    "s. It keeps them in its cache, so that the next run starts at once.",
                    self.kernels, self.seconds,
                )  # fmt: skip
        if self.other is not None:
            self.other(src=src, times=times, cache_hit=cache_hit, **others)


def listen() -> None:
    """Listen to Triton's compiler from now on."""
    compilation = triton.knobs.compilation
    if not isinstance(compilation.listener, FirstUse):
        compilation.listener = FirstUse(compilation.listener)

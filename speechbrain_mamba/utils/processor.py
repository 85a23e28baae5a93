"""What the processor can compute fast with."""

from __future__ import annotations

import functools
from pathlib import Path

_LISTED = Path("/proc/cpuinfo")


@functools.cache
def processor_flags() -> frozenset[str]:
    """The instructions that the processor has, by the names of Linux; none on other systems.

    Example
    -------
    >>> isinstance(processor_flags(), frozenset)
    True
    """
    try:
        lines = _LISTED.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, ()))


def bf16_unavailable() -> str | None:
    """Why bfloat16 is not computed fast here, None if it is.

    Example
    -------
    >>> reason = bf16_unavailable()
    >>> reason is None or reason.endswith(".")
    True
    """
    if processor_flags() & {"amx_bf16", "avx512_bf16", "bf16"}:
        return None
    return "this processor has no instructions for bfloat16 (AVX512_BF16, AMX, or BF16 of ARM) that are known here."

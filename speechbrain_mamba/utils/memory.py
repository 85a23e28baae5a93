"""What the process keeps: memory that was freed, kernels that were made for sizes of tensors, and modules."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt, from glibc's malloc.h
_SETTINGS = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 2**30, _TOP_PAD: 64 * 2**20}


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors for the next ones, for the rest of the process.

    By default glibc returns most of it to the system, which has to map and clear it again page by page: a quarter of
    the time of Mamba-TasNet M on a CPU. Peak memory falls too, as tensors of all sizes share one heap. The setting
    holds for the whole process: programs make it when they start, libraries do not.

    Returns
    -------
    bool
        Whether it was set; False if malloc is not glibc's, or the user has set one of its ``MALLOC_`` variables.

    Example
    -------
    >>> kept = keep_freed_memory()
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(parameter, value) for parameter, value in _SETTINGS.items()])


KERNELS = 256
"""Compiled kernels that oneDNN keeps: more than a model uses in one call."""
_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def limit_kernels() -> bool:
    """Let oneDNN, which computes convolutions, keep fewer kernels, for the rest of the process.

    It compiles one for each size of its input and keeps the last 1024: a process whose inputs have ever new lengths
    grows by some 100 MB until then. Models that are loaded for inference fill most inputs up to few sizes, see
    :func:`~speechbrain_mamba.nnet.grid_convolutions.settle_convolutions`; trainings and products of bfloat16 do not.
    The setting holds for the whole process, from its first convolution on: programs make it when they start, libraries
    do not.

    Returns
    -------
    bool
        Whether it was set; False if the user has set the environment variable ``ONEDNN_PRIMITIVE_CACHE_CAPACITY``, or
        its older name that begins with ``DNNL_``.

    Example
    -------
    >>> import os
    >>> limited = limit_kernels()
    >>> "ONEDNN_PRIMITIVE_CACHE_CAPACITY" in os.environ or not limited
    True
    """
    if _CACHE in os.environ or _CACHE.replace("ONEDNN", "DNNL") in os.environ:
        return False
    os.environ[_CACHE] = str(KERNELS)
    return True


PER_OCTAVE = 8
"""Sizes of the grid from one power of two to the next: a size grows by an eighth at most."""


def grid_length(length: int) -> int:
    """The first of few sizes that is not smaller.

    A kernel is compiled and kept for each size of its input. Inputs that are filled up to sizes of a grid meet few.

    Example
    -------
    >>> [grid_length(length) for length in (0, 1, 15, 16, 17, 1000, 1025)]
    [0, 1, 15, 16, 18, 1024, 1152]
    """
    step = max(1, (1 << max(length - 1, 0).bit_length()) // (2 * PER_OCTAVE))
    return -(-length // step) * step


_USUAL = gc.get_threshold()
_RARE = (100_000, *_USUAL[1:])


def collect_rarely() -> None:
    """Let Python look for garbage rarely while a program imports its modules, and never when it ends.

    Torch and SpeechBrain make hundreds of thousands of objects that stay; Python goes through them again and again,
    to find cycles that nobody needs any more. That is a seventh of the time of a short command. For programs, as their
    first step. :func:`collect_as_usual` takes it back before they work, since what is garbage may hold large tensors.

    Example
    -------
    >>> collect_rarely()
    >>> collect_as_usual()
    """
    if gc.get_threshold() == _USUAL:
        gc.set_threshold(*_RARE)
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)  # what is frozen is not gone through


def collect_as_usual() -> None:
    """Let Python look for garbage as it did before :func:`collect_rarely`."""
    if gc.get_threshold() == _RARE:
        gc.set_threshold(*_USUAL)


def settle_memory() -> None:
    """Make all settings: for programs, when all is imported, before they compute anything."""
    collect_as_usual()
    keep_freed_memory()
    limit_kernels()

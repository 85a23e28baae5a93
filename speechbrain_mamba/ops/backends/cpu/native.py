"""The native library: finding it, the choice of its instruction set, and its threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from speechbrain_mamba.utils._compat import openmp_parallel

ENVIRONMENT_VARIABLE = "SPEECHBRAIN_MAMBA_CPU_ISA"
PATH = Path(__file__).parent / "_kernels.so"
ABI = 10
"""SBM_ABI in csrc/api.h, which the structs written here follow."""
KERNELS = (
    "scan_forward",
    "scan_backward",
    "scan_step",
    "layer_step",
    "few_rows",
    "block_step",
    "conv_forward",
    "conv_backward",
    "quantize_rows",
    "finish_rows",
    "normalize_rows",
)


class KernelLibrary:
    """The loaded library.

    Arguments
    ---------
    path : Path
        The shared library.

    Attributes
    ----------
    chunk : int
        Frames between the states that a forward pass keeps for the backward pass.
    border_align : int
        Channels of kept states come in groups of this many.
    instruction_sets : list of str
        Those that this machine can run, fastest first.
    instruction_set : str
        The one in use.
    shares_torch_threads : bool
        Whether the kernels run on the threads of torch, rather than on their own.

    Raises
    ------
    OSError
        When it cannot be loaded, or was built from other sources than these.
    ValueError
        When the environment variable ``SPEECHBRAIN_MAMBA_CPU_ISA`` names an instruction set that this machine lacks.
    """

    def __init__(self, path: Path):
        # CDLL releases the interpreter's lock during calls.
        self._library = ctypes.CDLL(str(path))
        if not hasattr(self._library, "sbm_abi") or self._library.sbm_abi() != ABI:
            raise OSError(f"{path} was built from another version of its sources: install the package again.")
        self.chunk: int = self._library.sbm_chunk()
        self.border_align: int = self._library.sbm_border_align()
        self._library.sbm_instruction_set.restype = ctypes.c_char_p
        self._functions = {}
        for name in KERNELS:
            function = getattr(self._library, f"sbm_{name}")
            function.argtypes = [ctypes.c_char_p]
            self._functions[name] = function
        self.shares_torch_threads = self._share_torch_threads()
        self.instruction_sets = list(self._list_instruction_sets())
        self.choose(os.environ.get(ENVIRONMENT_VARIABLE) or self.instruction_sets[0], f"{ENVIRONMENT_VARIABLE} names")

    def _share_torch_threads(self) -> bool:
        """Hand the OpenMP runtime of torch to the library."""
        parallel = openmp_parallel()
        if parallel is not None:
            self._library.sbm_use_openmp(ctypes.cast(parallel, ctypes.c_void_p))
        return parallel is not None

    def _list_instruction_sets(self) -> Iterator[str]:
        index = 0
        while (name := self._library.sbm_instruction_set(index)) is not None:
            yield name.decode()
            index += 1

    def choose(self, name: str, source: str = "instruction_set got") -> None:
        """Use an instruction set for all later calls."""
        if not self._library.sbm_choose(name.encode()):
            raise ValueError(
                f"{source} the instruction set '{name}', which this machine lacks: choose one of "
                f"{', '.join(self.instruction_sets)}."
            )
        self.instruction_set = name

    def call(self, kernel: str, *fields: int) -> None:
        """Call a kernel with its struct, which consists of 8-byte fields (see csrc/api.h)."""
        if self._functions[kernel](struct.pack(f"{len(fields)}q", *fields)) != 0:
            raise MemoryError(f"The CPU kernel {kernel} got no memory for its intermediate results.")


@functools.cache
def library() -> KernelLibrary:
    """The library, loaded at the first call."""
    return KernelLibrary(PATH)


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Run the kernels with one instruction set, for tests and benchmarks. Holds for the whole process.

    Arguments
    ---------
    name : str
        One of ``library().instruction_sets``: ``avx512``, ``avx2``, ``portable``.

    Raises
    ------
    ValueError
        When this machine lacks it.
    """
    before = library().instruction_set
    library().choose(name)
    try:
        yield
    finally:
        library().choose(before)

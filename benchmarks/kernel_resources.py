"""The resources that kernels need on a GPU, from the compiled code: registers, spills, instructions. No GPU is needed.

The launches of an operation are recorded instead of run, and then compiled.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

ARCHITECTURES = (80, 89, 90)
"""Compute capabilities: A100, L40, H100."""
_DTYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments that decide how it is compiled.

    Arguments
    ---------
    kernel : JITFunction
        The kernel.
    signature : tuple
        Name and type of each argument, ``constexpr`` for a constant.
    constants : tuple
        Position and value of each constant.
    aligned : tuple of int
        Positions of pointers and integers that 16 divides.
    warps : int
        Warps of a program.
    registers : int or None
        Most registers of a thread that the launch allows.
    stages : int
        Blocks of a loop that are loaded ahead.
    """

    kernel: JITFunction
    signature: tuple
    constants: tuple
    aligned: tuple[int, ...]
    warps: int
    registers: int | None = None
    stages: int = 3

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.fn.__name__

    def source(self) -> ASTSource:
        """What Triton compiles."""
        attributes = {(i,): [["tt.divisibility", 16]] for i in self.aligned}
        constants = {(i,): value for i, value in self.constants}
        return ASTSource(self.kernel, dict(self.signature), constants, attributes)


def _launch(kernel: JITFunction, args: tuple, kwargs: dict) -> Launch:
    values = dict(zip(kernel.arg_names, args)) | {k: v for k, v in kwargs.items() if k in kernel.arg_names}
    signature, constants, aligned = [], [], []
    for i, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and special):
            signature.append((parameter.name, "constexpr"))
            constants.append((i, value))
        elif isinstance(value, Tensor):
            signature.append((parameter.name, _DTYPES[value.dtype]))
            if _offset(value) % 16 == 0:
                aligned.append(i)
        else:
            signature.append((parameter.name, "i32" if -(2**31) <= value < 2**31 else "i64"))
            if value % 16 == 0 and special:
                aligned.append(i)
    options = kwargs.get("num_warps", 4), kwargs.get("maxnreg"), kwargs.get("num_stages", 3)
    return Launch(kernel, tuple(signature), tuple(constants), tuple(aligned), *options)


def _offset(tensor: Tensor) -> int:
    """Bytes from an aligned address to a tensor's first element; memory that is not there would be aligned."""
    return tensor.storage_offset() * tensor.element_size() if tensor.is_meta else tensor.data_ptr()


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Record launches of kernels, each once, in place of running them."""
    launches: list[Launch] = []
    run = JITFunction.run

    def record(self, *args, grid, warmup, **kwargs):
        launch = _launch(self, args, kwargs)
        if launch not in launches:
            launches.append(launch)

    JITFunction.run = record
    try:
        yield launches
    finally:
        JITFunction.run = run


def launches_of(function: Callable[[], object]) -> list[Launch]:
    """The launches that a function makes, on CPU tensors whose results are void."""
    with recorded() as launches:
        function()
    return launches


def resources(launch: Launch, architecture: int) -> dict[str, int]:
    """Compile a launch.

    Arguments
    ---------
    launch : Launch
        What is compiled.
    architecture : int
        Compute capability, such as 90.

    Returns
    -------
    dict of str to int
        ``registers`` per thread, ``spill_bytes`` per thread, ``shared_bytes`` per program, ``code_bytes``, and of the
        longest inner loop ``loop_instructions`` and, among them, ``loop_exponentials`` and others of the same slow
        unit, ``loop_shuffles`` and ``loop_barriers``, and ``loop_spills``, its moves of spilled
        registers.
    """
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": launch.warps, "maxnreg": launch.registers, "num_stages": launch.stages}
    compiled = triton.compile(launch.source(), target=target, options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        Path(path).write_bytes(compiled.asm["cubin"])
        found = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", _disassembler("cuobjdump", "-res-usage", path)))
        loop = _longest_loop(_disassembler("nvdisasm", "-c", path))
    return {
        "registers": int(found["REG"]),
        "spill_bytes": int(found["STACK"]) + int(found["LOCAL"]),
        "shared_bytes": max(int(found["SHARED"]), compiled.metadata.shared),  # what is asked for at the launch too
        "code_bytes": len(compiled.asm["cubin"]),
        "loop_instructions": len(loop),
        "loop_exponentials": sum(name.startswith("MUFU") for name in loop),
        "loop_shuffles": sum(name.startswith("SHFL") for name in loop),
        "loop_barriers": sum(name.startswith("BAR") for name in loop),
        "loop_spills": sum(name.startswith(("LDL", "STL")) for name in loop),
    }


def _disassembler(tool: str, *arguments: str) -> str:
    """The output of one of NVIDIA's tools that come with Triton."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def _longest_loop(assembly: str) -> list[str]:
    """Names of the instructions of the longest loop without one inside, from its label to the last jump back to it."""
    labels, names, loops = {}, [], {}
    for line in assembly.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(names)
        elif instruction := re.search(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9.]*)(.*)", line):
            names.append(instruction[1])
            target = re.search(r"\.L\w+", instruction[2])
            if target and labels.get(target[0], len(names)) < len(names) - 1:  # not the trap behind the last
                loops[labels[target[0]]] = len(names)
    inner = [
        range(begin, end)
        for begin, end in loops.items()
        if not any(begin <= other and last <= end for other, last in loops.items() if (other, last) != (begin, end))
    ]
    longest = max(inner, key=len, default=range(0))
    return names[longest.start : longest.stop]

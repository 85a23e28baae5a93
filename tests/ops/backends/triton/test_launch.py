"""Compiled kernels are launched directly, and only for arguments of the kinds that they were compiled for."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

pytest.importorskip("triton")

from speechbrain_mamba.ops.backends.triton import INTERPRETED, launch
from speechbrain_mamba.ops.backends.triton.launch import read
from speechbrain_mamba.ops.backends.triton.layer_kernels import mask_kernel
from speechbrain_mamba.utils import _compat

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")


class Kernel:
    """Stands in for a kernel: records how it is compiled and launched."""

    arg_names, params = mask_kernel.arg_names, mask_kernel.params

    def __init__(self):
        self.compiled, self.launched = [], []

    def __getitem__(self, grid):
        def run(*arguments, **constants):
            self.compiled.append((grid, arguments, constants))
            return Compiled(self)

        return run


class Compiled:
    """Stands in for a compiled kernel, which takes constants by their positions."""

    function, packed_metadata = "function", "metadata"

    def __init__(self, kernel):
        self.kernel = kernel

    def run(self, *arguments):
        assert arguments[3:9] == ("stream", "function", "metadata", None, None, None)
        self.kernel.launched.append((arguments[:3], arguments[9:]))


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(launch, "_compiles", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(_compat, "_raw_stream", lambda device: "stream")
    monkeypatch.setattr(_compat, "TRITON_LAUNCHED", [tuple(map(int, version("triton").split(".")[:2]))])
    return Kernel()


def run(kernel, x, time=5, lengths=None, features=3, block=16):
    launch.launch(kernel, (2, 1), x, lengths, x, time, features, 5, 32, BLOCK_F=128, BLOCK_T=block, num_warps=4)


def test_a_second_launch_is_direct_with_its_own_arguments(kernel):
    first, second = torch.zeros(64), torch.ones(64)
    run(kernel, first, time=5)
    run(kernel, second, time=7)
    assert len(kernel.compiled) == 1
    [(grid, arguments)] = kernel.launched
    assert grid == (2, 1, 1)
    assert arguments[0] == second.data_ptr()  # which the launcher need not ask for
    assert arguments[1:2] + arguments[3:] == (None, 7, 3, 5, 32, 16, 128)  # constants in the kernel's order


@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.zeros(64, dtype=torch.bfloat16)},
        {"x": torch.zeros(64)[1:]},  # not aligned
        {"features": 16},
        {"features": 1},
        {"lengths": torch.zeros(2, dtype=torch.long)},
        {"time": 2**31},
        {"block": 8},
    ],
)
def test_other_kinds_of_arguments_are_compiled(kernel, changes):
    run(kernel, torch.zeros(64))
    run(kernel, **({"x": torch.zeros(64)} | changes))
    assert len(kernel.compiled) == 2
    assert not kernel.launched


def test_kinds_are_at_least_as_fine_as_those_of_triton():
    """For any two lists of arguments that Triton tells apart, the kinds differ."""
    tensors = [torch.zeros(64), torch.zeros(64)[1:], torch.zeros(64, dtype=torch.float16), None]
    numbers = [1, 3, 16, 17, 2**31]
    from kernel_resources import _launch

    seen = {}
    for x in tensors[:3]:
        for lengths in (None, torch.zeros(1, dtype=torch.long)):
            for time in numbers:
                for features in numbers:
                    arguments = (x, lengths, x, time, features, 5, 32)
                    ours = tuple(read(mask_kernel, arguments)[0])
                    theirs = _launch(mask_kernel, arguments, {"BLOCK_T": 16, "BLOCK_F": 128})
                    assert seen.setdefault(ours, theirs) == theirs
    assert len(seen) > 30

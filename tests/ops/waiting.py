"""Where the CPU would wait for a GPU, counted on a machine without one: tensors that only have a shape and a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_mamba import ops


class Transfers(TorchDispatchMode):
    """Counts copies to and from the GPU. A value that is read from it raises an error, as it does in a FakeTensorMode.

    Values on the CPU are read as 0: they are known there, but not to a FakeTensorMode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.to_gpu: list[bool] = []
        """Of each copy to the GPU, whether the CPU goes on at once."""
        self.from_gpu = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function is torch.ops.aten._local_scalar_dense.default and arguments[0].device.type == "cpu":
            return 0
        y = function(*arguments, **options)
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = [t for t in arguments if isinstance(t, Tensor)][-1]
            if source.device.type == "cpu" and y.device.type == "cuda":
                self.to_gpu.append(bool(options.get("non_blocking") or True in arguments[2:]))
            self.from_gpu += source.device.type == "cuda" and y.device.type == "cpu"
        return y


@contextmanager
def gpu_of_shapes() -> Iterator[torch.device]:
    """A GPU whose tensors have no values; there, the reference backend serves."""
    with FakeTensorMode(allow_non_fake_inputs=True), ops.use_backend("reference"):
        try:
            torch.empty(1, device="cuda")[:1]
        except RuntimeError as error:  # torch 2.8 starts CUDA even for them
            pytest.skip(f"this torch cannot make tensors without values for a GPU that is not there: {error}")
        yield torch.device("cuda")

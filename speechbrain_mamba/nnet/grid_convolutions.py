"""Convolutions that meet inputs of ever new lengths, by kernels for few lengths.

oneDNN, which computes convolutions on a CPU, compiles a kernel for each shape of the input and keeps it: a process that
gets recordings of ever new lengths grows with them, and each new length takes the time of compiling. Zeros behind an
input do not change what a convolution gives before them. So inputs get as many zeros as they lack to one of a few
lengths, and outputs are cut.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.utils.memory import grid_length

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d)


def settle_convolutions(model: nn.Module) -> int:
    """Let the convolutions of a model pad their inputs on a CPU to lengths of a grid, and cut their outputs.

    Arguments
    ---------
    model : torch.nn.Module
        The model. Its convolutions of one and two axes, and transposed ones of one, get a subclass of their class;
        names, parameters and results stay. Those that pad with other values than zeros are left alone.

    Returns
    -------
    int
        The number of convolutions.

    Example
    -------
    >>> conv, x = nn.Conv1d(3, 5, 4, stride=2, padding=1), torch.randn(2, 3, 1001)
    >>> y = conv(x)
    >>> settle_convolutions(conv), torch.allclose(conv(x), y, atol=1e-6)
    (1, True)
    """
    found = [
        layer
        for layer in model.modules()
        if isinstance(layer, _CONVOLUTIONS) and not isinstance(layer, _OnGrid) and layer.padding_mode == "zeros"
    ]
    for layer in found:
        layer.__class__ = _subclass(type(layer))
    return len(found)


def class_of(layer: nn.Module) -> type:
    """The class that a layer has, or had before :func:`settle_convolutions`.

    Example
    -------
    >>> conv = nn.Conv1d(3, 5, 4)
    >>> settle_convolutions(conv), type(conv) is nn.Conv1d, class_of(conv) is nn.Conv1d
    (1, False, True)
    """
    return type(layer).__mro__[2] if isinstance(layer, _OnGrid) else type(layer)


def pad_for(layer: nn.Module, x: Tensor, axis: int) -> Tensor:
    """Pad an input with zeros as a settled convolution does, for callers that compute with its weight themselves.

    Arguments
    ---------
    layer : torch.nn.Module
        The convolution. If :func:`settle_convolutions` was not applied to it, the input is returned unchanged.
    x : Tensor
        The input, of any shape.
    axis : int
        The axis to be padded, at its end.

    Returns
    -------
    Tensor
        The padded input. The caller cuts the output to the length that it has without the padding.

    Example
    -------
    >>> conv, x = nn.Conv1d(3, 5, 4), torch.randn(2, 3, 1001)
    >>> settle_convolutions(conv), pad_for(conv, x, 2).shape
    (1, torch.Size([2, 3, 1024]))
    """
    if not isinstance(layer, _OnGrid) or not _is_eager(x):
        return x
    size = int(x.shape[axis])
    missing = grid_length(size) - size
    return F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [0, missing]) if missing else x


class _OnGrid:
    """What a class of convolutions inherits from before it does from its own."""

    def forward(self: Any, x: Tensor, *arguments: Any) -> Tensor:
        """The convolution of the padded input, cut to the length that it has without the padding."""
        axes = len(self.kernel_size)
        sizes = [int(size) for size in x.shape[-axes:]] if _is_eager(x) and not arguments else []
        missing = [grid_length(size) - size for size in sizes]
        if not any(missing):
            return super().forward(x, *arguments)  # type: ignore[misc]  # that of the convolution
        y = super().forward(F.pad(x, [n for size in reversed(missing) for n in (0, size)]))  # type: ignore[misc]
        for axis, size in enumerate(sizes):
            y = y.narrow(axis - axes, 0, self._length(axis, size))
        return y

    def _length(self: Any, axis: int, size: int) -> int:
        """The length of the output along an axis."""
        stride, reach = self.stride[axis], self.dilation[axis] * (self.kernel_size[axis] - 1)
        if self.padding == "same":
            return size
        around = 0 if self.padding == "valid" else 2 * self.padding[axis]
        if isinstance(self, nn.ConvTranspose1d):
            return (size - 1) * stride - around + reach + self.output_padding[axis] + 1
        return (size + around - reach - 1) // stride + 1

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        """Copies and pickles are made of the class that is importable."""
        return _restore, (class_of(self), self.__dict__.copy())


def _is_eager(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def _restore(cls: Any, state: dict[str, Any]) -> Any:
    layer = cls.__new__(cls)
    layer.__dict__.update(state)
    layer.__class__ = _subclass(cls)
    return layer


_subclasses: dict[type, type] = {}


def _subclass(cls: type) -> type:
    """The subclass of a class of convolutions, of the same name."""
    if cls not in _subclasses:
        _subclasses[cls] = type(cls.__name__, (_OnGrid, cls), {"__module__": cls.__module__})
    return _subclasses[cls]


__all__ = ["class_of", "pad_for", "settle_convolutions"]

"""What stands around a product and works on one row at a time: normalization before it, activation after it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.registry import cpu_kernels_serve, load_backend
from speechbrain_mamba.ops.torch_ops import asks_for_gradient
from speechbrain_mamba.utils._compat import is_transforming

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of rows that kernels take and give."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Norm(NamedTuple):
    """A normalization over the channels."""

    kind: str
    """``rms`` or ``layer``."""
    epsilon: float
    """Added to the mean square or variance."""
    weight: Tensor | None = None
    """(channels,)"""
    bias: Tensor | None = None
    """(channels,)"""
    activation: str | None = None
    """What the normalized values go through, one of :data:`ACTIVATIONS`."""


def normalize(x: Tensor, norm: Norm | None) -> Tensor:
    """Normalize (..., channels), and put the norm's activation on it; None leaves it as it is.

    Example
    -------
    >>> normalize(torch.tensor([[1.0, 3.0]]), Norm("layer", 0.0))
    tensor([[-1.,  1.]])
    """
    if norm is None:
        return x
    if norm.kind == "rms":
        y = F.rms_norm(x, x.shape[-1:], norm.weight, norm.epsilon)
    else:
        y = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.epsilon)
    return activate(y, norm.activation)


def normalize_to(x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """Normalize (..., channels) and round to a type, in one pass on a CPU where no gradient is asked for.

    Example
    -------
    >>> normalize_to(torch.tensor([[1.0, 3.0]]), Norm("layer", 0.0), torch.bfloat16)
    tensor([[-1.,  1.]], dtype=torch.bfloat16)
    """
    if dtype not in DTYPES or not _may_use_kernels(x, norm.weight, norm.bias):
        return normalize(x, norm).to(dtype)
    return row_kernels().normalize_rows(x.reshape(-1, x.shape[-1]), norm, dtype).view(x.shape)


def finish_product(y: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """Put a bias and an activation on a product (..., channels), in one pass on a CPU where no gradient is asked for,
    which overwrites it.

    Example
    -------
    >>> finish_product(torch.tensor([[1.0, 3.0]]), torch.tensor([-2.0, 2.0]), "relu")
    tensor([[0., 5.]])
    """
    if not (y.is_contiguous() and _may_use_kernels(y, bias)):
        return activate(y if bias is None else y + bias.to(y.dtype), activation)
    rows = y.view(-1, y.shape[-1])
    row_kernels().finish_rows(rows, None, None if bias is None else bias.float().contiguous(), rows, activation)
    return y


def _may_use_kernels(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether kernels for rows take this input: nothing records what happens to it."""
    seen = torch.compiler.is_compiling() or is_transforming() or asks_for_gradient(x, *parameters)
    return not seen and x.device.type == "cpu" and x.dtype in DTYPES


def row_kernels() -> ModuleType:
    """The backend that works on rows on a CPU: ``cpu``, or ``reference`` where that is not there or not wanted."""
    return load_backend("cpu" if cpu_kernels_serve() else "reference")


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Put an activation on (..., channels), one of :data:`ACTIVATIONS`; None leaves it as it is.

    Example
    -------
    >>> activate(torch.tensor([-1.0, 1.0]), "relu")
    tensor([0., 1.])
    """
    return x if activation is None else ACTIVATIONS[activation](x)


__all__ = ["ACTIVATIONS", "DTYPES", "Norm", "activate", "finish_product", "normalize", "normalize_to", "row_kernels"]

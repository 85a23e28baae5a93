"""What stands around a product and works on one row at a time: normalization before it, activation after it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.registry import available_backends, chosen_backend, load_backend
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


def normalize(x: Tensor, norm: Norm | None) -> Tensor:
    """Normalize (..., channels); None leaves it as it is.

    Example
    -------
    >>> normalize(torch.tensor([[1.0, 3.0]]), Norm("layer", 0.0))
    tensor([[-1.,  1.]])
    """
    if norm is None:
        return x
    if norm.kind == "rms":
        return F.rms_norm(x, x.shape[-1:], norm.weight, norm.epsilon)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.epsilon)


def normalize_to(x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """Normalize (..., channels) and round to a type, in one pass on a CPU where no gradient is asked for.

    Example
    -------
    >>> normalize_to(torch.tensor([[1.0, 3.0]]), Norm("layer", 0.0), torch.bfloat16)
    tensor([[-1.,  1.]], dtype=torch.bfloat16)
    """
    seen = torch.compiler.is_compiling() or is_transforming() or asks_for_gradient(x, *norm)
    if seen or x.device.type != "cpu" or x.dtype not in DTYPES or dtype not in DTYPES:
        return normalize(x, norm).to(dtype)
    return row_kernels().normalize_rows(x.reshape(-1, x.shape[-1]), norm, dtype).view(x.shape)


def row_kernels() -> ModuleType:
    """The backend that works on rows on a CPU: ``cpu``, or ``reference`` where that is not there or not wanted."""
    native = chosen_backend() in ("auto", "cpu") and "cpu" in available_backends()
    return load_backend("cpu" if native else "reference")


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Put an activation on (..., channels), one of :data:`ACTIVATIONS`; None leaves it as it is.

    Example
    -------
    >>> activate(torch.tensor([-1.0, 1.0]), "relu")
    tensor([0., 1.])
    """
    return x if activation is None else ACTIVATIONS[activation](x)


__all__ = ["ACTIVATIONS", "DTYPES", "Norm", "activate", "normalize", "normalize_to", "row_kernels"]

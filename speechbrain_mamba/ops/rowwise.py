"""What stands around a product and works on one row at a time: normalization before it, activation after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

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
    >>> import torch
    >>> normalize(torch.tensor([[1.0, 3.0]]), Norm("layer", 0.0))
    tensor([[-1.,  1.]])
    """
    if norm is None:
        return x
    if norm.kind == "rms":
        return F.rms_norm(x, x.shape[-1:], norm.weight, norm.epsilon)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.epsilon)


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Put an activation on (..., channels), one of :data:`ACTIVATIONS`; None leaves it as it is.

    Example
    -------
    >>> import torch
    >>> activate(torch.tensor([-1.0, 1.0]), "relu")
    tensor([0., 1.])
    """
    return x if activation is None else ACTIVATIONS[activation](x)


__all__ = ["ACTIVATIONS", "Norm", "activate", "normalize"]

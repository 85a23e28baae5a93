"""What plain modules consist of, as operations take it that do the work of several modules."""

from __future__ import annotations

import torch
from torch import nn

from speechbrain_mamba.ops.rowwise import Norm
from speechbrain_mamba.utils._compat import has_forward_hooks


def norm_part(norm: nn.Module, activation: nn.Module | None = None) -> Norm | None:
    """The parameters of a normalization over the channels, with an activation that follows it if there is one; None
    where either is more than what operations know.

    Example
    -------
    >>> norm_part(nn.RMSNorm(4, eps=1e-5)).kind, norm_part(nn.GroupNorm(1, 4))
    ('rms', None)
    >>> norm_part(nn.LayerNorm(4), nn.GELU()).activation, norm_part(nn.LayerNorm(4), nn.Tanh())
    ('gelu', None)
    """
    if activation is not None:
        known, name = norm_part(norm), name_of_activation(activation)
        return None if known is None or name is None else known._replace(activation=name)
    if type(norm) not in (nn.LayerNorm, nn.RMSNorm) or has_forward_hooks(norm):
        return None
    if len(norm.normalized_shape) != 1:  # type: ignore[arg-type]  # both have a tuple
        return None
    if isinstance(norm, nn.LayerNorm):
        return Norm("layer", norm.eps, norm.weight, norm.bias)
    epsilon = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
    return Norm("rms", epsilon, norm.weight)  # type: ignore[arg-type]  # a float


def name_of_activation(activation: nn.Module) -> str | None:
    """What operations call an activation, None if :data:`speechbrain_mamba.ops.rowwise.ACTIVATIONS` lacks it.

    Example
    -------
    >>> name_of_activation(nn.GELU()), name_of_activation(nn.GELU("tanh"))
    ('gelu', None)
    """
    if has_forward_hooks(activation):
        return None
    if type(activation) is nn.ReLU or (type(activation) is nn.GELU and activation.approximate == "none"):
        return type(activation).__name__.lower()
    return None


__all__ = ["name_of_activation", "norm_part"]

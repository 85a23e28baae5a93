"""Linear layers and feed-forward networks in steps of a model, which are of a few examples."""

from __future__ import annotations

from torch import Tensor, nn

from speechbrain_mamba.nnet.mamba_layer import ScaledLinear
from speechbrain_mamba.nnet.plain_parts import name_of_activation
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear
from speechbrain_mamba.ops import Linear, few_rows_linear
from speechbrain_mamba.utils._compat import has_forward_hooks

_PLAIN = (nn.Linear, ScaledLinear, ReducedLinear)


def plain_linear(layer: nn.Module) -> Linear | None:
    """The parameters of a linear layer, None for one that is more than those: with hooks, an adapter, or a norm.

    Example
    -------
    >>> plain_linear(nn.Linear(4, 3)).weight.shape
    torch.Size([3, 4])
    """
    if type(layer) in _PLAIN and not has_forward_hooks(layer) and getattr(layer, "norm", None) is None:
        return Linear(layer.weight, layer.bias)  # type: ignore[arg-type]
    return None


def linear_step(layer: nn.Module, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
    """Run a linear layer over (batch, channels), with an activation and a residual after it.

    Plain linear layers and those of fewer bits go to :func:`speechbrain_mamba.ops.few_rows_linear`. Others, such as
    those with hooks or adapters, are called.

    Example
    -------
    >>> import torch
    >>> layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    >>> torch.allclose(linear_step(layer, x, "relu", x), x + layer(x).relu(), atol=1e-6)
    True
    """
    plain = plain_linear(layer)
    if plain is not None:
        return few_rows_linear(x, plain.weight, plain.bias, activation, residual)
    y = layer(x)
    if activation is not None:
        y = getattr(nn.functional, activation)(y)
    return y if residual is None else residual + y


def feed_forward_step(ffn: nn.Sequential, x: Tensor, residual: Tensor) -> Tensor:
    """Run a feed-forward network over (batch, channels), and add the residual. It consists of a linear layer, an
    activation, dropout and another linear layer.

    Example
    -------
    >>> import torch
    >>> ffn, x = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 4)).eval(), torch.randn(2, 4)
    >>> torch.allclose(feed_forward_step(ffn, x, x), x + ffn(x), atol=1e-6)
    True
    """
    parts = parts_of_network(ffn)
    if parts is None:
        return residual + ffn(x)
    first, activation, last = parts
    name = name_of_activation(activation)
    hidden = linear_step(first, x, name)
    return linear_step(last, hidden if name else activation(hidden), residual=residual)


def parts_of_network(ffn: nn.Sequential) -> tuple[nn.Module, nn.Module, nn.Module] | None:
    """The first linear layer, activation and last linear layer of a feed-forward network; None where dropout is at
    work, or hooks."""
    if ffn.training or has_forward_hooks(ffn):
        return None
    first, activation, _, last = ffn
    return first, activation, last

"""Linear layers and feed-forward networks in steps of a model, which are of a few examples."""

from __future__ import annotations

from torch import Tensor, nn

from speechbrain_mamba.nnet.mamba_layer import ScaledLinear
from speechbrain_mamba.ops import few_rows_linear
from speechbrain_mamba.utils._compat import has_forward_hooks


def linear_step(layer: nn.Module, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
    """Run a linear layer over (batch, channels), with an activation and a residual after it.

    Plain linear layers go to :func:`speechbrain_mamba.ops.few_rows_linear`. Others, such as those with hooks, adapters
    or quantized weights, are called.

    Example
    -------
    >>> import torch
    >>> layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    >>> torch.allclose(linear_step(layer, x, "relu", x), x + layer(x).relu(), atol=1e-6)
    True
    """
    if type(layer) in (nn.Linear, ScaledLinear) and not has_forward_hooks(layer):
        return few_rows_linear(x, layer.weight, layer.bias, activation, residual)  # type: ignore[arg-type]
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
    if ffn.training or has_forward_hooks(ffn):
        return residual + ffn(x)
    first, activation, _, last = ffn
    name = None
    if type(activation) is nn.ReLU or (type(activation) is nn.GELU and activation.approximate == "none"):
        name = type(activation).__name__.lower()
    hidden = linear_step(first, x, name)
    return linear_step(last, hidden if name else activation(hidden), residual=residual)

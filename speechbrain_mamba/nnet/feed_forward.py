"""Feed-forward networks over whole sequences."""

from __future__ import annotations

from speechbrain.nnet.attention import PositionalwiseFeedForward
from torch import Tensor, nn

from speechbrain_mamba.nnet.few_rows import parts_of_network, plain_linear
from speechbrain_mamba.nnet.plain_parts import name_of_activation, norm_part
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear
from speechbrain_mamba.utils._compat import has_forward_hooks


def feed_forward(network: nn.Module, x: Tensor, norm: nn.Module | None = None) -> Tensor:
    """Run a feed-forward network. Where its first weight was reduced to fewer bits, what rounds the inputs to them
    normalizes them too; with 8-bit integers, what makes floats of the products puts the activation on them.

    Arguments
    ---------
    network : torch.nn.Module
        SpeechBrain's ``PositionalwiseFeedForward``, or any other network, which is called.
    x : Tensor
        Input (..., channels).
    norm : torch.nn.Module, optional
        A normalization that the input goes through first.

    Returns
    -------
    Tensor
        ``network(norm(x))``, up to rounding.

    Example
    -------
    >>> import torch
    >>> network = PositionalwiseFeedForward(8, input_size=4, activation=nn.GELU).eval()
    >>> norm, x = nn.LayerNorm(4), torch.randn(2, 10, 4)
    >>> torch.equal(feed_forward(network, x, norm), network(norm(x)))
    True
    """
    plain = type(network) is PositionalwiseFeedForward and not has_forward_hooks(network)
    parts = parts_of_network(network.ffn) if plain else None  # type: ignore[arg-type]  # a Sequential
    if parts is not None and isinstance(parts[0], ReducedLinear):
        first, last = parts[0], parts[2]
        known, activation = None if norm is None else norm_part(norm), name_of_activation(parts[1])
        if activation is not None and (known is None) == (norm is None) and plain_linear(first) is not None:
            return last(first.run(x, known, activation))
    return network(x if norm is None else norm(x))


__all__ = ["feed_forward"]

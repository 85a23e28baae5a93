"""Embeddings of phonemes and codec tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Encode positions (...), counted from 0, as sinusoids (..., d_model): all sines, then all cosines (Vaswani et al.,
    arXiv 1706.03762, section 3.5). The number of channels ``d_model`` is even.

    Example
    -------
    >>> sinusoids(torch.arange(2), 4)
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.8415, 0.0100, 0.5403, 0.9999]])
    """
    half = d_model // 2
    rates = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000.0) / half))
    angles = positions[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class TokenEmbedding(nn.Module):
    """Embeds tokens in ``d_model`` channels, and with ``positions`` adds their positions with a learned weight.

    The weight starts at ``d_model**-0.5``, the size of an embedding's elements; positions need an even ``d_model``.

    Example
    -------
    >>> TokenEmbedding(40, 8)(torch.randint(40, (2, 10))).shape
    torch.Size([2, 10, 8])
    """

    def __init__(self, n_tokens: int, d_model: int, positions: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, d_model)
        self.position_weight = nn.Parameter(torch.full((1,), d_model**-0.5)) if positions else None
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)

    def forward(self, tokens: Tensor, first: Tensor | int = 0) -> Tensor:
        """Embed tokens, integers (batch, time), the first of which is at ``first``, an int or integers (batch,)."""
        return self.place(self.embedding(tokens), first)

    def place(self, x: Tensor, first: Tensor | int = 0) -> Tensor:
        """Add the positions to (batch, time, d_model), the first of which is at ``first``."""
        if self.position_weight is not None:
            steps = torch.arange(x.shape[1], device=x.device)
            positions = steps + (first[:, None] if isinstance(first, Tensor) else first)
            x = x + self.position_weight * sinusoids(positions, x.shape[2]).to(x.dtype)
        return self.dropout(x)

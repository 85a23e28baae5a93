"""Attention with a prefix that all frames see, and a cache to continue step by step."""

from __future__ import annotations

from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.mamba import ScaledLinear
from speechbrain_mamba.ops import valid_frames

GROWTH = 256
"""Frames by which a full cache is extended."""


class PrefixCache(TypedDict):
    """The state of a :class:`PrefixCrossAttention`: what has been seen."""

    key: Tensor
    """(batch, nhead, time, channels of a head)"""
    value: Tensor
    """(batch, nhead, time, channels of a head)"""
    valid: Tensor
    """Which frames are not padding, boolean (batch, time)."""


class GrowingCache(PrefixCache):
    """The state of a :class:`PrefixAttention`."""

    used: int
    """Frames that are filled; there may be room for more."""


class MultiHeadProjections(nn.Module):
    """The projections that all kinds of attention share.

    Arguments
    ---------
    d_model, nhead : int
        Channels of input and output, and number of heads.
    dropout : float
        Dropout rate of the attention weights.
    d_attention : int, optional
        Channels of all heads together, ``d_model`` by default.
    bias : bool
        Whether the projections have one.
    out_proj_init_scale : float
        Factor on the initial weights of the output projection.

    Raises
    ------
    ValueError
        When the heads do not divide the channels.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dropout: float = 0.0,
        d_attention: int | None = None,
        bias: bool = True,
        out_proj_init_scale: float = 1.0,
    ):
        super().__init__()
        name, width = ("d_model", d_model) if d_attention is None else ("d_attention", d_attention)
        if width % nhead:
            raise ValueError(f"{name} is {width}, which nhead, {nhead}, does not divide.")
        self.nhead, self.dropout = nhead, dropout
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d_model, width, bias=bias) for _ in range(3))
        self.out_proj = ScaledLinear(width, d_model, bias=bias, init_scale=out_proj_init_scale)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.nhead, -1)).transpose(1, 2)

    def _attend(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attention of x, (batch, time, d_model), to keys where mask, (batch, 1, 1 or time, keys), is true."""
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(self._heads(self.q_proj(x)), key, value, mask, dropout)
        return self.out_proj(y.transpose(1, 2).flatten(-2))


class PrefixAttention(MultiHeadProjections):
    """Multi-head self-attention: causal except for a prefix that all frames see entirely, or over everything.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    nhead : int
        Number of heads.
    dropout : float
        Dropout rate of the attention weights.
    causal : bool
        Whether frames after the prefix see no later ones.

    Raises
    ------
    ValueError
        When the heads do not divide the channels.

    Example
    -------
    >>> layer = PrefixAttention(d_model=8, nhead=2).eval()
    >>> x, lengths, prefix = torch.randn(2, 10, 8), torch.tensor([9, 6]), torch.tensor([3, 4])
    >>> y, cache = layer(x, lengths, prefix, return_state=True)
    >>> y.shape
    torch.Size([2, 10, 8])
    >>> next_frame, cache = layer.step(torch.randn(2, 8), cache)
    """

    def __init__(self, d_model: int, nhead: int, dropout: float = 0.0, causal: bool = True):
        super().__init__(d_model, nhead, dropout)
        self.causal = causal

    def forward(
        self, x: Tensor, lengths: Tensor, prefix_lengths: Tensor, return_state: bool = False
    ) -> Tensor | tuple[Tensor, GrowingCache]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model), finite.
        lengths : Tensor
            Valid frames per example, at least 1, integers (batch,).
        prefix_lengths : Tensor
            Frames of the prefix, integers (batch,).
        return_state : bool
            Whether to return a cache for :meth:`step`; for causal layers.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the cache.
        """
        key, value = self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        valid = valid_frames(lengths, x.shape[1])
        y = self._attend(x, key, value, self._mask(valid, prefix_lengths))
        cache: GrowingCache = {"key": key, "value": value, "valid": valid, "used": x.shape[1]}
        return (y, cache) if return_state else y

    def _mask(self, valid: Tensor, prefix_lengths: Tensor) -> Tensor:
        if not self.causal:
            return valid[:, None, None]
        time = valid.shape[1]
        earlier = torch.ones(time, time, dtype=torch.bool, device=valid.device).tril()
        inside = valid_frames(prefix_lengths, time)
        seen = earlier | (inside[:, :, None] & inside[:, None])
        return (seen & valid[:, None])[:, None]

    def step(self, x_t: Tensor, state: GrowingCache) -> tuple[Tensor, GrowingCache]:
        """Run the layer over one frame.

        Arguments
        ---------
        x_t : Tensor
            Input frame (batch, d_model).
        state : dict
            Cache before the frame. Its buffers are reused by the returned cache; discard it.

        Returns
        -------
        y_t : Tensor
            Output frame (batch, d_model).
        state : dict
            Cache after the frame.
        """
        x, used = x_t[:, None], state["used"]
        key, value, valid = state["key"], state["value"], state["valid"]
        if used == key.shape[2]:
            key, value, valid = _grow(key, 2), _grow(value, 2), _grow(valid, 1)
        key[:, :, used : used + 1] = self._heads(self.k_proj(x))
        value[:, :, used : used + 1] = self._heads(self.v_proj(x))
        valid[:, used] = True
        seen = used + 1
        y = self._attend(x, key[:, :, :seen], value[:, :, :seen], valid[:, None, None, :seen])
        return y[:, 0], {"key": key, "value": value, "valid": valid, "used": seen}


def _grow(cache: Tensor, axis: int) -> Tensor:
    room = list(cache.shape)
    room[axis] = GROWTH
    return torch.cat([cache, cache.new_zeros(room)], axis)


class PrefixCrossAttention(MultiHeadProjections):
    """Multi-head attention of all frames to those of the prefix only, so that keys and values do not grow with time.

    Arguments
    ---------
    d_model, nhead, dropout
        As in :class:`PrefixAttention`.

    Raises
    ------
    ValueError
        When the heads do not divide the channels.

    Example
    -------
    >>> layer = PrefixCrossAttention(d_model=8, nhead=2)
    >>> layer(torch.randn(2, 10, 8), torch.tensor([3, 4]), prefix_time=4).shape
    torch.Size([2, 10, 8])
    """

    def forward(
        self, x: Tensor, prefix_lengths: Tensor, prefix_time: int, return_state: bool = False
    ) -> Tensor | tuple[Tensor, PrefixCache]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model), finite.
        prefix_lengths : Tensor
            Frames of the prefix, at least 1, integers (batch,).
        prefix_time : int
            Length of the longest prefix.
        return_state : bool
            Whether to return the state for :meth:`step`.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        prefix = x[:, :prefix_time]
        key, value = self._heads(self.k_proj(prefix)), self._heads(self.v_proj(prefix))
        valid = valid_frames(prefix_lengths, prefix_time)
        y = self._attend(x, key, value, valid[:, None, None])
        return (y, PrefixCache(key=key, value=value, valid=valid)) if return_state else y

    def step(self, x_t: Tensor, state: PrefixCache) -> tuple[Tensor, PrefixCache]:
        """Run the layer over one frame, as :meth:`PrefixAttention.step` does; the state is not changed."""
        return self._attend(x_t[:, None], state["key"], state["value"], state["valid"][:, None, None])[:, 0], state

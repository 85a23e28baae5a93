"""Attention with text that all later frames see, and a cache to continue step by step."""

from __future__ import annotations

from typing import TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.few_rows import linear_step
from speechbrain_mamba.nnet.mamba import ScaledLinear
from speechbrain_mamba.nnet.single_query import attend_from_one, keep_for_steps
from speechbrain_mamba.nnet.text_blocks import take_frames
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


class WindowCache(PrefixCache):
    """The state of a :class:`PrefixAttention` with a window, which does not grow."""

    text: int
    """Frames of text, which come first; those after them are the last frames of speech."""


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

    def _heads_of_frame(self, layer: nn.Module, x_t: Tensor) -> Tensor:
        """A projection of one frame, (batch, d_model), as (batch, nhead, 1, channels of a head)."""
        return linear_step(layer, x_t).unflatten(-1, (self.nhead, 1, -1))

    def _attend_from_frame(self, x_t: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
        """As :meth:`_attend` from one frame to those that are valid, (batch, keys)."""
        dropout = self.dropout if self.training else 0.0
        query = self._heads_of_frame(self.q_proj, x_t)
        y = attend_from_one(query, key, value, valid[:, None, None], dropout)
        return linear_step(self.out_proj, y.flatten(1))


class PrefixAttention(MultiHeadProjections):
    """Multi-head self-attention over text and speech: causal except for blocks of text, which their frames see whole,
    or over everything.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    nhead : int
        Number of heads.
    dropout : float
        Dropout rate of the attention weights.
    causal : bool
        Whether frames see no later ones outside their own block of text.
    d_attention : int, optional
        Channels of all heads together, ``d_model`` by default.
    window : int, optional
        The frames of speech that a frame sees: itself and ``window - 1`` before it, and as many after it unless the
        layer is causal. Text is seen at any distance. All by default.

    Raises
    ------
    ValueError
        When the heads do not divide the channels, or for a window below 1.

    Example
    -------
    >>> layer = PrefixAttention(d_model=8, nhead=2).eval()
    >>> x, lengths, prefix = torch.randn(2, 10, 8), torch.tensor([9, 6]), torch.tensor([3, 4])
    >>> y, cache = layer(x, lengths, prefix, return_state=True)
    >>> y.shape
    torch.Size([2, 10, 8])
    >>> next_frame, cache = layer.step(torch.randn(2, 8), cache)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dropout: float = 0.0,
        causal: bool = True,
        d_attention: int | None = None,
        window: int | None = None,
    ):
        super().__init__(d_model, nhead, dropout, d_attention)
        check_window(window)
        self.causal, self.window = causal, window

    def forward(
        self, x: Tensor, lengths: Tensor, prefix_lengths: Tensor, return_state: bool = False
    ) -> Tensor | tuple[Tensor, GrowingCache | WindowCache]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model), finite.
        lengths : Tensor
            Valid frames per example, at least 1, integers (batch,).
        prefix_lengths : Tensor
            Frames of text at the beginning, at least 1, integers (batch,); or the block of text that each frame belongs
            to, counted from 1, and 0 for speech, integers (batch, time).
        return_state : bool
            Whether to return a cache for :meth:`step`; for causal layers.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the cache.
        """
        time = x.shape[1]
        blocks = valid_frames(prefix_lengths, time).long() if prefix_lengths.dim() == 1 else prefix_lengths
        key, value = self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        valid = valid_frames(lengths, time)
        y = self._attend(x, key, value, self._mask(valid, blocks))
        if not return_state:
            return y
        key, value = keep_for_steps(key), keep_for_steps(value)
        if self.window is not None:
            return y, _keep_window(key, value, valid & (blocks > 0), lengths, self.window)
        return y, GrowingCache(key=key, value=value, valid=valid, used=time)

    def _mask(self, valid: Tensor, blocks: Tensor) -> Tensor:
        if not self.causal and self.window is None:
            return valid[:, None, None]
        frames = torch.arange(valid.shape[1], device=valid.device)
        distance = frames[:, None] - frames
        text = blocks > 0
        seen = (distance >= 0)[None] if self.causal else torch.ones_like(distance, dtype=torch.bool)[None]
        if self.window is not None:
            seen = seen & ((distance.abs() < self.window) | text[:, None])
        if self.causal:
            seen = seen | ((blocks[:, :, None] == blocks[:, None]) & text[:, None])
        return (seen & valid[:, None])[:, None]

    def step(self, x_t: Tensor, state: GrowingCache | WindowCache) -> tuple[Tensor, GrowingCache | WindowCache]:
        """Run the layer over one frame of speech.

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
        new = self._heads_of_frame(self.k_proj, x_t), self._heads_of_frame(self.v_proj, x_t)
        if "text" in state:
            window = cast(WindowCache, state)
            key, value = (torch.cat([old, part], 2) for old, part in zip((window["key"], window["value"]), new))
            valid = F.pad(window["valid"], (0, 1), value=True)
            y, text = self._attend_from_frame(x_t, key, value, valid), window["text"]
            key, value = (torch.cat([part[:, :, :text], part[:, :, text + 1 :]], 2) for part in (key, value))
            valid = torch.cat([valid[:, :text], valid[:, text + 1 :]], 1)
            return y, WindowCache(key=key, value=value, valid=valid, text=text)
        growing = cast(GrowingCache, state)
        key, value, valid, used = growing["key"], growing["value"], growing["valid"], growing["used"]
        if torch.compiler.is_exporting():  # a program writes into no input, and has no room left in its caches
            key, value = (torch.cat([old, part], 2) for old, part in zip((key, value), new))
            valid = F.pad(valid, (0, 1), value=True)
            y = self._attend_from_frame(x_t, key, value, valid)
            return y, GrowingCache(key=key, value=value, valid=valid, used=used + 1)
        if used == key.shape[2]:
            key, value, valid = _grow(key, 2), _grow(value, 2), _grow(valid, 1)
        key[:, :, used : used + 1], value[:, :, used : used + 1] = new
        valid[:, used] = True
        seen = used + 1
        y = self._attend_from_frame(x_t, key[:, :, :seen], value[:, :, :seen], valid[:, :seen])
        return y, GrowingCache(key=key, value=value, valid=valid, used=seen)


def _prefix_cache(key: Tensor, value: Tensor, valid: Tensor) -> PrefixCache:
    return PrefixCache(key=keep_for_steps(key), value=keep_for_steps(value), valid=valid)


def check_window(window: int | None) -> None:
    """Raise a ValueError for a window that leaves nothing to attend to."""
    if window is not None and window < 1:
        raise ValueError(f"The window of attention is {window}, but a frame must see at least 1, itself.")


def _keep_window(key: Tensor, value: Tensor, text: Tensor, lengths: Tensor, window: int) -> WindowCache:
    """The cache after each example's last frame: all text, and the last frames of speech that later ones can see."""
    n_text = int(text.sum(1).max())
    written = text.long().argsort(dim=1, descending=True, stable=True)[:, :n_text]
    recent = lengths[:, None] - (window - 1) + torch.arange(window - 1, device=lengths.device)
    spoken = (recent >= 0) & ~text.gather(1, recent.clamp(min=0))
    index = torch.cat([written, recent.clamp(min=0)], 1)
    valid = torch.cat([text.gather(1, written), spoken], 1)
    key, value = (
        part.gather(2, index[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3])) for part in (key, value)
    )
    return WindowCache(key=key, value=value, valid=valid, text=n_text)


def _grow(cache: Tensor, axis: int) -> Tensor:
    room = list(cache.shape)
    room[axis] = GROWTH
    return torch.cat([cache, cache.new_zeros(room)], axis)


class PrefixCrossAttention(MultiHeadProjections):
    """Multi-head attention of all frames to text only, so that keys and values do not grow with time.

    The text is a prefix that all frames see, or several blocks, each of which its own frames and all later ones see.
    A frame before any text reads zeros.

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
            Frames of the prefix, at least 1, integers (batch,); or what each frame belongs to, integers (batch, time),
            see :func:`~speechbrain_mamba.nnet.text_blocks.mark_blocks`.
        prefix_time : int
            Length of the longest prefix, or frames of text in the example with the most.
        return_state : bool
            Whether to return the state for :meth:`step`.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        if prefix_lengths.dim() == 2:
            return self._attend_to_blocks(x, prefix_lengths, prefix_time, return_state)
        prefix = x[:, :prefix_time]
        key, value = self._heads(self.k_proj(prefix)), self._heads(self.v_proj(prefix))
        valid = valid_frames(prefix_lengths, prefix_time)
        y = self._attend(x, key, value, valid[:, None, None])
        return (y, _prefix_cache(key, value, valid)) if return_state else y

    def _attend_to_blocks(
        self, x: Tensor, blocks: Tensor, text_time: int, return_state: bool
    ) -> Tensor | tuple[Tensor, PrefixCache]:
        text, text_lengths, index = take_frames(x, blocks > 0, text_time)
        key, value = self._heads(self.k_proj(text)), self._heads(self.v_proj(text))
        valid = valid_frames(text_lengths, text.shape[1])
        latest = blocks.cummax(1).values[..., None]  # the last text that each frame knows
        seen = valid[:, None] & (blocks.gather(1, index)[:, None] <= latest)
        nothing = ~seen.any(2, keepdim=True)
        y = self._attend(x, key, value, (seen | nothing)[:, None])  # a softmax over nothing would be NaN
        y = y.masked_fill(nothing, 0.0)
        return (y, _prefix_cache(key, value, valid)) if return_state else y

    def step(self, x_t: Tensor, state: PrefixCache) -> tuple[Tensor, PrefixCache]:
        """Run the layer over one frame, as :meth:`PrefixAttention.step` does; the state is not changed."""
        return self._attend_from_frame(x_t, state["key"], state["value"], state["valid"]), state

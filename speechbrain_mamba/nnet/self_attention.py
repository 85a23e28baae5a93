"""Self-attention as a mixer of a stack: with the lengths, the chunks and the state that Mamba layers have."""

from __future__ import annotations

from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.nnet.attention import MultiHeadProjections, check_window
from speechbrain_mamba.nnet.single_query import attend_from_one, keep_for_steps
from speechbrain_mamba.ops import mask_frames
from speechbrain_mamba.ops.checks import check_lengths

LEAST_BLOCK = 64
"""Fewest queries that windowed attention works on together: smaller blocks would cost more calls than they save."""


class AttentionState(TypedDict):
    """The state of a :class:`SelfAttention` between two frames: the keys and values of earlier frames."""

    key: Tensor
    """(batch, frames, nhead, channels of a head), the last frame at the end"""
    value: Tensor
    """(batch, frames, nhead, channels of a head)"""
    position: Tensor
    """How many frames each example has seen, integers (batch,); the cache may have room for more."""


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate the channels of queries or keys by their positions (rotary positions, arXiv 2104.09864).

    The product of a query and a key then depends on the distance of their positions only. Angles are computed in
    float64, since in float32 they would be wrong by 0.01 after some minutes of frames of a millisecond.

    Arguments
    ---------
    x : Tensor
        Queries or keys (batch, time, nhead, channels), an even number of channels.
    positions : Tensor
        Their positions, integers (batch or 1, time).

    Returns
    -------
    Tensor
        A tensor like ``x``.

    Example
    -------
    >>> q, k = torch.randn(2, 1, 1, 1, 8)
    >>> at = lambda x, position: rotate(x, torch.tensor([[position]]))
    >>> torch.allclose((at(q, 9) * at(k, 7)).sum(), (at(q, 2) * at(k, 0)).sum(), atol=1e-5)
    True
    """
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angles = positions[..., None, None] * rates
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    first, second = x.to(dtype).split(half, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)


class SelfAttention(MultiHeadProjections):
    """Multi-head self-attention with rotary positions and the interface of a Mamba layer.

    A causal one runs in chunks or step by step from a state, with the same output as in one go. With a window its state
    has a constant size, and its time and memory grow linearly.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    nhead : int, optional
        Number of heads; by default about one for 64 channels.
    d_attention : int, optional
        Channels of all heads together, ``d_model`` by default.
    causal : bool
        Whether a frame sees no later frames.
    window : int, optional
        The frames that a frame sees: itself and ``window - 1`` before it, and as many after it unless the layer is
        causal. All by default.
    rotary : bool
        Whether queries and keys get rotary positions. Without them the order of frames is unknown to the layer.
    dropout : float
        Dropout rate of the attention weights.
    bias : bool
        Whether the projections have one.
    out_proj_init_scale : float
        Factor on the initial weights of the output projection; stacks of residual layers set 1 / sqrt(layers).
    masks_input : bool
        As in :class:`speechbrain_mamba.nnet.mamba.Mamba`.

    Raises
    ------
    ValueError
        For heads that do not divide the channels, an odd number of channels of a head, or a window below 1.

    Example
    -------
    >>> layer = SelfAttention(d_model=8, nhead=2, window=4)
    >>> x = torch.randn(2, 10, 8)
    >>> y = layer(x, lengths=torch.tensor([7, 10]))
    >>> y.shape
    torch.Size([2, 10, 8])
    >>> head, state = layer(x[:, :4], return_state=True)
    >>> fifth, state = layer.step(x[:, 4], state)
    >>> torch.allclose(fifth, y[:, 4], atol=1e-5)
    True
    """

    def __init__(
        self,
        d_model: int,
        nhead: int | None = None,
        d_attention: int | None = None,
        causal: bool = True,
        window: int | None = None,
        rotary: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        out_proj_init_scale: float = 1.0,
        masks_input: bool = True,
    ):
        width = d_model if d_attention is None else d_attention
        nhead = usual_heads(width) if nhead is None else nhead
        super().__init__(d_model, nhead, dropout, d_attention, bias, out_proj_init_scale)
        if rotary and width // nhead % 2:
            raise ValueError(
                f"Each of {nhead} heads has {width // nhead} of the {width} channels of attention, but rotary "
                "positions need an even number: change nhead or d_attention."
            )
        check_window(window)
        self.d_model, self.causal, self.window = d_model, causal, window
        self.rotary, self.masks_input = rotary, masks_input

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: AttentionState | None = None,
        return_state: bool = False,
        chunk_size: int | None = None,
    ) -> Tensor | tuple[Tensor, AttentionState]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model).
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.
        state : dict, optional
            State to start from, returned by :meth:`init_state` or an earlier call. Unless the layer is causal, that
            call ended with a whole chunk.
        return_state : bool
            Whether to return the state after each example's last valid frame too.
        chunk_size : int, optional
            For layers that are not causal: a frame sees later ones in its own chunk of this many frames only.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        batch, time, _ = x.shape
        lengths = check_lengths("SelfAttention", lengths, batch, time, x.device)
        x = mask_frames(x, lengths) if self.masks_input else x
        if not self.causal and chunk_size is None and (state is not None or return_state):
            chunk_size = max(time, 1)
        seen = torch.zeros(1, dtype=torch.long, device=x.device) if state is None else state["position"]
        query, key, value = (
            project(x).unflatten(-1, (self.nhead, -1)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.rotary:
            positions = seen[:, None] + torch.arange(time, device=x.device)
            query, key = rotate(query, positions), rotate(key, positions)
        if state is not None:
            if time == 1:
                key, value = keep_for_steps(key), keep_for_steps(value)
            key = torch.cat([state["key"].to(key.dtype), key], 1)
            value = torch.cat([state["value"].to(value.dtype), value], 1)
        y = self._attend_to_visible(query, key, value, lengths, None if self.causal else chunk_size, seen)
        y = mask_frames(self.out_proj(y.flatten(-2)), lengths)
        return (y, self._remember(key, value, lengths, time, seen)) if return_state else y

    def _attend_to_visible(
        self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, chunk_size: int | None, seen: Tensor
    ) -> Tensor:
        """The heads' outputs for queries (batch, time, nhead, channels), given keys and values that begin with those of
        earlier frames."""
        batch, time = query.shape[:2]
        past, window = key.shape[1] - time, self.window
        if window is None and not past and chunk_size is None and (self.causal or lengths is None):
            # valid frames of a causal layer see none past their length, as these are later
            return self._dot_product(query, key, value, causal=self.causal)
        if window is None or time <= (block := max(window, LEAST_BLOCK)):
            mask = self._visible(torch.arange(time, device=query.device), past + time, past, lengths, chunk_size, seen)
            return self._dot_product(query, key, value, mask)
        # each block of queries meets the keys that their windows reach
        before, after = window - 1, 0 if self.causal else (chunk_size or window) - 1
        blocks = -(-time // block)
        query = F.pad(query, (0, 0, 0, 0, 0, blocks * block - time)).unflatten(1, (blocks, block))
        padding = (0, 0, 0, 0, before - past, blocks * block - time + after)
        key, value = (
            F.pad(part, padding).unfold(1, before + block + after, block).permute(0, 1, 4, 2, 3)
            for part in (key, value)
        )
        frames = torch.arange(blocks * block, device=query.device).unflatten(0, (blocks, block))
        mask = self._visible(frames, before + block + after, before, lengths, chunk_size, seen, time)
        mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)
        y = self._dot_product(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), mask)
        return y.reshape(batch, blocks * block, *y.shape[2:])[:, :time]

    def _dot_product(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Scaled dot-product attention over (batch, time, nhead, channels), where mask, (batch or 1, queries, keys), is
        true."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mask = None if mask is None else mask[:, None]
        dropout = self.dropout if self.training else 0.0
        if query.shape[2] == 1:
            return attend_from_one(query, key, value, mask, dropout).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal).transpose(1, 2)

    def _visible(
        self,
        frames: Tensor,
        n_keys: int,
        before: int,
        lengths: Tensor | None,
        chunk_size: int | None,
        seen: Tensor,
        time: int | None = None,
    ) -> Tensor:
        """Which keys the queries see, booleans (batch or 1, [blocks,] queries, keys).

        ``frames`` are the queries' places in the input, ([blocks,] queries); the keys of a block begin ``before``
        frames before its first query. Places below 0 are of earlier frames, of which each example has ``seen`` some.
        ``time`` is the number of frames in the input, if there are keys past it.
        """
        query = frames[..., None]
        key = frames[..., :1, None] - before + torch.arange(n_keys, device=frames.device)
        last = query
        if not self.causal and chunk_size is None:
            last = query + n_keys if self.window is None else query + self.window - 1
        elif chunk_size is not None:
            last = query // chunk_size * chunk_size + chunk_size - 1
        visible = key <= last
        if self.window is not None:
            visible = visible & (key > query - self.window)
        if time is not None:
            visible = visible & (key < time)
        by_example = (-1,) + (1,) * visible.dim()
        valid = key >= -seen.view(by_example)
        if lengths is not None:
            valid = valid & (key < lengths.view(by_example))
        # a frame past its example's length sees itself, so that no row is empty
        return (visible & valid) | (key == query)

    def _remember(self, key: Tensor, value: Tensor, lengths: Tensor | None, time: int, seen: Tensor) -> AttentionState:
        """The state after each example's last valid frame, with the keys of earlier frames before the new ones."""
        batch, frames = key.shape[:2]
        kept = frames if self.window is None else self.window - 1
        if kept > frames:
            key, value = (F.pad(part, (0, 0, 0, 0, kept - frames, 0)) for part in (key, value))
        elif lengths is None:
            key, value = (part[:, frames - kept :] for part in (key, value))
        if lengths is not None:
            shift = (lengths - time)[:, None]
            index = torch.arange(key.shape[1] - kept, key.shape[1], device=key.device) + shift
            index = index.clamp(min=0)[..., None, None].expand(-1, -1, *key.shape[2:])
            key, value = key.gather(1, index), value.gather(1, index)
        added = torch.full((batch,), time, device=key.device) if lengths is None else lengths
        return {"key": key, "value": value, "position": seen + added}

    def init_state(
        self, batch_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> AttentionState:
        """The state before the first frame.

        Arguments
        ---------
        batch_size : int
            Number of examples.
        device : torch.device, optional
            Device; that of the parameters by default.
        dtype : torch.dtype, optional
            Type of keys and values; that of the parameters by default.

        Returns
        -------
        dict of str to Tensor
            ``key`` and ``value`` (batch, frames, nhead, channels of a head): 0 frames, or ``window - 1``; and
            ``position``, integers (batch,).

        Raises
        ------
        TypeError
            When the layer is not causal.
        """
        if not self.causal:
            raise TypeError("Attention to later frames has no state before the first one: set causal to True.")
        weight = self.k_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        frames = 0 if self.window is None else self.window - 1
        shape = (batch_size, frames, self.nhead, self.k_proj.out_features // self.nhead)
        return {
            "key": torch.zeros(shape, device=device, dtype=dtype),
            "value": torch.zeros(shape, device=device, dtype=dtype),
            "position": torch.zeros(batch_size, device=device, dtype=torch.long),
        }

    def step(self, x_t: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """Run the layer over one frame.

        Arguments
        ---------
        x_t : Tensor
            Input frame (batch, d_model).
        state : dict
            State before the frame.

        Returns
        -------
        y_t : Tensor
            Output frame (batch, d_model).
        state : dict
            State after the frame; the given one is not changed.
        """
        y, state = self(x_t[:, None], state=state, return_state=True)
        return y[:, 0], state


def usual_heads(channels: int) -> int:
    """The number of heads with about 64 channels each that divide some channels into even parts, or 1.

    Example
    -------
    >>> usual_heads(512), usual_heads(144), usual_heads(8)
    (8, 2, 1)
    """
    return next((n for n in range(channels // 64, 1, -1) if channels % (2 * n) == 0), 1)

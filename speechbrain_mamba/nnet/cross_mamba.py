"""Layers through which targets read a memory: a text, or the output of an encoder.

One contract for all: a layer consumes the memory once, then runs over the targets like any causal mixer.

    state = consume(layer, memory, memory_lengths)
    y, state = layer(targets, lengths, state=state, return_state=True)     # all targets
    y_t, state = layer.step(target_t, state)                               # or one by one, with the same output

A causal mixer, such as :class:`~speechbrain_mamba.nnet.mamba.Mamba`, has this contract as it is: it then runs over the
memory followed by the targets, which is the cross-Mamba of "Speech Slytherin" (arXiv 2407.09732).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_mamba.nnet.hidden_attention import HiddenAttention
from speechbrain_mamba.nnet.interleaving import Interleaved
from speechbrain_mamba.nnet.mimetic import initialize_mimetically
from speechbrain_mamba.nnet.outer_bidirectional import reverse_frames
from speechbrain_mamba.nnet.places import PlaceAdvance, place_frequencies, rotate_to_places
from speechbrain_mamba.ops import lengths_on, mask_frames, valid_frames

CROSS_KINDS = ("concat", "attention", "prefix_bidirectional", "hidden_attention", "interleaved")
INITS = ("default", "mimetic")


def consume(layer: Any, memory: Tensor, lengths: Tensor | None = None, places: Tensor | None = None) -> Any:
    """Read the memory.

    Arguments
    ---------
    layer : torch.nn.Module
        A layer of :func:`build_cross`, or any causal mixer.
    memory : Tensor
        Memory (batch, memory time, d_model); values past the lengths may be anything.
    lengths : Tensor, optional
        Valid frames of each memory, integers (batch,).
    places : Tensor, optional
        Only for :class:`~speechbrain_mamba.nnet.interleaving.Interleaved`, which needs them.

    Returns
    -------
    dict of str to Tensor
        The state before the first target, with the batch first in every tensor.

    Example
    -------
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> layer = Mamba(8)
    >>> memory, targets = torch.randn(2, 10, 8), torch.randn(2, 3, 8)
    >>> y = layer(targets, state=consume(layer, memory))
    >>> torch.allclose(y, layer(torch.cat([memory, targets], 1))[:, 10:], atol=1e-5)
    True
    """
    lengths = None if lengths is None else lengths_on(lengths, memory.device)
    if isinstance(layer, Interleaved):
        return layer.consume(memory, lengths, places)
    if hasattr(layer, "consume"):
        return layer.consume(memory, lengths)
    return layer(mask_frames(memory, lengths), lengths, return_state=True)[1]


class PrefixBidirectional(nn.Module):
    """Both directions over the memory, causal over the targets: speech prefixing of MADEON (arXiv 2411.06968).

    A second mixer runs backwards over the memory, and its output is added to what the causal one reads there, so that
    no frame is written into the state before its future is known.

    Arguments
    ---------
    mixer, reverse : torch.nn.Module
        Two causal mixers of the same width.

    Example
    -------
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> layer = PrefixBidirectional(Mamba(8), Mamba(8))
    >>> state = layer.consume(torch.randn(2, 10, 8), torch.tensor([10, 6]))
    >>> layer(torch.randn(2, 3, 8), state=state).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, mixer: nn.Module, reverse: nn.Module) -> None:
        super().__init__()
        self.mixer: Any = mixer
        self.reverse: Any = reverse

    def look_back(self, memory: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The output of the reverse mixer over the memory, whose padding is finite; zero past each length."""
        return reverse_frames(self.reverse(reverse_frames(memory, lengths), lengths), lengths)

    def consume(self, memory: Tensor, lengths: Tensor | None = None) -> Any:
        """Read the memory as :func:`consume` does."""
        memory = mask_frames(memory, lengths)
        return self.mixer(memory + self.look_back(memory, lengths), lengths, return_state=True)[1]

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: Any = None, return_state: bool = False) -> Any:
        """Run over targets (batch, time, d_model), as the causal mixer does."""
        return self.mixer(x, lengths, state=state, return_state=return_state)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run over one target, (batch, d_model), as the causal mixer does."""
        return self.mixer.step(x_t, state)

    @property
    def stepper(self) -> Any:
        """The mixer whose steps are those of the layer."""
        return self.mixer


class CrossAttention(nn.Module):
    """Multi-head attention of targets to the memory (Vaswani et al., arXiv 1706.03762): the upper bound, whose cost
    grows with the product of both lengths.

    With ``positions`` memory and targets have learned places (:mod:`~speechbrain_mamba.nnet.places`), those of
    :class:`~speechbrain_mamba.nnet.hidden_attention.HiddenAttention`: the keys and queries of each head are rotated by
    them, so that a target can look for a place beside content. This addition is ours.

    Arguments
    ---------
    d_model, nhead : int
        Channels, and number of heads.
    dropout : float
        Dropout rate of the attention weights.
    positions : bool
        Whether memory and targets have places.
    d_key : int, optional
        Channels of a head's keys and queries, even with ``positions``; as many as its values have by default.

    Raises
    ------
    ValueError
        For sizes that do not fit.

    Example
    -------
    >>> layer = CrossAttention(8, nhead=2, positions=True, d_key=16)
    >>> state = layer.consume(torch.randn(2, 10, 8), torch.tensor([10, 6]))
    >>> targets = torch.randn(2, 3, 8)
    >>> y = layer(targets, state=state)
    >>> first, state = layer.step(targets[:, 0], state)
    >>> torch.allclose(first, y[:, 0], atol=1e-5)
    True
    """

    frequencies: Tensor

    def __init__(
        self, d_model: int, nhead: int, dropout: float = 0.0, positions: bool = False, d_key: int | None = None
    ) -> None:
        super().__init__()
        if d_model % nhead:
            raise ValueError(f"d_model is {d_model}, which nhead, {nhead}, does not divide.")
        d_key = d_model // nhead if d_key is None else d_key
        if d_key < 1 or (positions and d_key % 2):
            wanted = "an even number of at least 2 with positions" if positions else "at least 1"
            raise ValueError(f"CrossAttention: d_key, the channels of a head's keys, is {d_key}, but must be {wanted}.")
        self.nhead, self.dropout = nhead, dropout
        self.q_proj, self.k_proj = (nn.Linear(d_model, nhead * d_key) for _ in range(2))
        self.v_proj, self.out_proj = (nn.Linear(d_model, d_model) for _ in range(2))
        self.memory_advance = PlaceAdvance(d_model) if positions else None
        self.target_advance = PlaceAdvance(d_model, nhead) if positions else None
        self.register_buffer("frequencies", place_frequencies(d_key) if positions else None, persistent=False)
        if (
            positions
        ):  # keys and queries have a part that does not depend on content, by which places alone are compared
            nn.init.ones_(self.q_proj.bias)
            nn.init.ones_(self.k_proj.bias)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.nhead, -1)).transpose(1, 2)

    def _rotate(self, heads: Tensor, places: Tensor) -> Tensor:
        """Rotate keys or queries (batch, nhead, time, d_key) by places (batch, time, 1 or nhead)."""
        turned = rotate_to_places(heads.to(places.dtype), places.transpose(1, 2), self.frequencies)
        return turned.to(heads.dtype)

    def consume(self, memory: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Read the memory as :func:`consume` does. The state is ``key`` and ``value``, (batch, nhead, memory time,
        channels of a head), ``valid``, booleans (batch, memory time), and with ``positions`` ``target_place``, the
        places that the targets have reached, (batch, nhead)."""
        memory = mask_frames(memory, lengths)
        batch, time = memory.shape[:2]
        valid = memory.new_ones(batch, time, dtype=torch.bool) if lengths is None else valid_frames(lengths, time)
        key, value = self._heads(self.k_proj(memory)), self._heads(self.v_proj(memory))
        state = {"key": key, "value": value, "valid": valid}
        if self.memory_advance is not None:
            wide = torch.promote_types(key.dtype, torch.float32)
            places, _ = self.memory_advance(memory, memory.new_zeros(batch, 1, dtype=wide), lengths)
            state["key"] = self._rotate(key, places)
            state["target_place"] = memory.new_zeros(batch, self.nhead, dtype=wide)
        return state

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Any = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Run over targets (batch, time, d_model) from a state returned by :meth:`consume` or an earlier call; without
        ``positions`` the state stays as it is. Where the memory is empty, targets read zeros."""
        x = mask_frames(x, lengths)
        valid, query = state["valid"], self._heads(self.q_proj(x))
        if self.target_advance is not None:
            places, last = self.target_advance(x, state["target_place"], lengths)
            query, state = self._rotate(query, places), {**state, "target_place": last}
        some = valid.any(1)[:, None]
        seen = (valid | ~some)[:, None, None]  # a softmax over nothing would be NaN
        dropout = self.dropout if self.training else 0.0
        if valid.shape[1]:
            y = F.scaled_dot_product_attention(query, state["key"], state["value"], seen, dropout)
            y = self.out_proj(y.transpose(1, 2).flatten(-2)).masked_fill(~some[..., None], 0.0)
        else:
            y = torch.zeros_like(x)
        y = mask_frames(y, lengths)
        return (y, state) if return_state else y

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run over one target, (batch, d_model). Returns the output and the state after it; the given one is not
        changed."""
        y, state = self(x_t[:, None], state=state, return_state=True)
        return y[:, 0], state


def build_cross(
    kind: str,
    d_model: int,
    make_mixer: Callable[..., nn.Module],
    *,
    nhead: int = 4,
    dropout: float = 0.0,
    init: str = "default",
    **options: Any,
) -> nn.Module:
    """Build a layer by which targets read a memory.

    Arguments
    ---------
    kind : str
        ``concat``: a causal mixer over the memory followed by the targets, as published. ``attention``:
        :class:`CrossAttention`. ``prefix_bidirectional``: :class:`PrefixBidirectional`. ``hidden_attention``:
        :class:`~speechbrain_mamba.nnet.hidden_attention.HiddenAttention`. ``interleaved``:
        :class:`~speechbrain_mamba.nnet.interleaving.Interleaved`.
    d_model : int
        Channels of memory and targets.
    make_mixer : callable
        Makes a causal mixer of this width, given further arguments of it by name.
    nhead, dropout : int, float
        Of ``attention``.
    init : str
        ``default``, or ``mimetic``: :func:`~speechbrain_mamba.nnet.mimetic.initialize_mimetically`.
    **options
        Further arguments of :class:`CrossAttention`, of
        :class:`~speechbrain_mamba.nnet.hidden_attention.HiddenAttention`, or of the mixers, such as ``d_state``.

    Returns
    -------
    torch.nn.Module
        The layer, for :func:`consume`.

    Raises
    ------
    ValueError
        For an unknown ``kind`` or ``init``, or options that nothing uses.

    Example
    -------
    >>> from functools import partial
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> layer = build_cross("hidden_attention", 8, partial(Mamba, 8), d_state=32, headdim=8, init="mimetic")
    >>> y_t, state = layer.step(torch.randn(2, 8), consume(layer, torch.randn(2, 10, 8)))
    >>> y_t.shape
    torch.Size([2, 8])
    """
    if kind not in CROSS_KINDS:
        raise ValueError(f"cross is {kind!r}, but must be one of {', '.join(CROSS_KINDS)}.")
    if init not in INITS:
        raise ValueError(f"init of cross is {init!r}, but must be one of {', '.join(INITS)}.")
    if init == "mimetic" and kind == "attention":
        raise ValueError("init of cross is 'mimetic', but attention has no states to initialize: leave it out.")
    if kind == "attention":
        foreign = ", ".join(options.keys() - {"positions", "d_key"})
        if foreign:
            raise ValueError(
                f"cross 'attention' takes nhead, positions and d_key, but {foreign} is given: leave it out."
            )
        return CrossAttention(d_model, nhead, dropout, **options)
    layer: nn.Module
    if kind == "hidden_attention":
        layer = HiddenAttention(d_model, **options)
    elif kind == "prefix_bidirectional":
        layer = PrefixBidirectional(make_mixer(**options), make_mixer(**options))
    else:
        mixer = make_mixer(**options)
        layer = Interleaved(mixer) if kind == "interleaved" else mixer
    if init == "mimetic":
        initialize_mimetically(layer)
    return layer

"""Layers that treat the text and the speech of one sequence differently."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.nnet.cross_mamba import PrefixBidirectional
from speechbrain_mamba.nnet.hidden_attention import HiddenAttention
from speechbrain_mamba.ops import mask_frames, valid_frames

PADDING = -1


def mark_blocks(prefix_lengths: Tensor, lengths: Tensor, time: int) -> Tensor:
    """Say for each frame what it belongs to: 1 for text, 0 for the speech after it, -1 for padding.

    Arguments
    ---------
    prefix_lengths, lengths : Tensor
        Frames of text, and of text and speech, integers (batch,).
    time : int
        Frames of the longest example.

    Returns
    -------
    Tensor
        Integers (batch, time). With several texts in an example, these are counted from 1.

    Example
    -------
    >>> mark_blocks(torch.tensor([2, 1]), torch.tensor([4, 3]), 4)
    tensor([[ 1,  1,  0,  0],
            [ 1,  0,  0, -1]])
    """
    return valid_frames(prefix_lengths, time).long().masked_fill(~valid_frames(lengths, time), PADDING)


def take_frames(x: Tensor, chosen: Tensor, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Take some frames of each example.

    Arguments
    ---------
    x : Tensor
        Features (batch, time, channels).
    chosen : Tensor
        Which frames to take, booleans (batch, time).
    most : int, optional
        Frames of the result: at least those that are chosen in any example, which is what it has by default.

    Returns
    -------
    frames, lengths, index : Tensor
        The frames in order, (batch, most frames, channels), zero past each example's number of them, (batch,); and
        where they were, integers (batch, most frames).

    Example
    -------
    >>> take_frames(torch.tensor([[[5], [6], [7]]]), torch.tensor([[True, False, True]]))[0].flatten()
    tensor([5, 7])
    """
    lengths = chosen.sum(1)
    most = int(lengths.max()) if most is None else most
    place = torch.where(chosen, chosen.cumsum(1), lengths[:, None] + (~chosen).cumsum(1)) - 1  # the others come last
    frames = torch.arange(chosen.shape[1], device=chosen.device).expand_as(place)
    index = torch.zeros_like(place).scatter(1, place, frames)[:, :most]
    return mask_frames(x.gather(1, _expand(index, x)), lengths), lengths, index


def _put_frames(y: Tensor, frames: Tensor, index: Tensor) -> Tensor:
    """Add frames, zero past their lengths, to where they were taken from."""
    return y.scatter_add(1, _expand(index, frames), frames.to(y.dtype))


def _expand(index: Tensor, values: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, values.shape[2])


class TextBidirectional(PrefixBidirectional):
    """A causal mixer over text and speech with a second one that runs backwards over each text, to which it adds
    (speech prefixing of MADEON, arXiv 2411.06968, here of text). Speech hears of the text's future in the next layer.

    Arguments
    ---------
    mixer, reverse : torch.nn.Module
        Two causal mixers of the same width.

    Example
    -------
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> layer = TextBidirectional(Mamba(8), Mamba(8))
    >>> lengths = torch.tensor([10, 7])
    >>> layer(torch.randn(2, 10, 8), lengths, mark_blocks(torch.tensor([3, 4]), lengths, 10)).shape
    torch.Size([2, 10, 8])
    """

    def forward(self, x: Tensor, lengths: Tensor, blocks: Tensor, return_state: bool = False) -> Any:  # type: ignore[override]
        """Run the layer over a sequence.

        Arguments
        ---------
        x, lengths : Tensor
            Input (batch, time, d_model), finite, and valid frames, integers (batch,).
        blocks : Tensor
            What each frame belongs to, see :func:`mark_blocks`.
        return_state : bool
            Whether to return the state for :meth:`step`.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        y, state = self.mixer(x, lengths, return_state=True)
        for block in range(1, int(blocks.max()) + 1):
            text, text_lengths, index = take_frames(x, blocks == block)
            y = _put_frames(y, self.look_back(text, text_lengths), index)
        return (y, state) if return_state else y


class HiddenTextAttention(nn.Module):
    """Hidden attention of speech to the text before it, in the place of
    :class:`~speechbrain_mamba.nnet.attention.PrefixCrossAttention`.

    Each text is read into the state after those before it, and the speech that follows begins at its first frame. Text
    itself reads nothing.

    Arguments
    ---------
    d_model : int
        Channels.
    **options
        As in :class:`~speechbrain_mamba.nnet.hidden_attention.HiddenAttention`.

    Example
    -------
    >>> layer = HiddenTextAttention(8, d_state=16, headdim=8)
    >>> blocks = mark_blocks(torch.tensor([3, 4]), torch.tensor([10, 7]), 10)
    >>> layer(torch.randn(2, 10, 8), blocks).shape
    torch.Size([2, 10, 8])
    """

    def __init__(self, d_model: int, **options: Any) -> None:
        super().__init__()
        self.reader = HiddenAttention(d_model, **options)

    def forward(self, x: Tensor, blocks: Tensor, prefix_time: int | None = None, return_state: bool = False) -> Any:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model), finite.
        blocks : Tensor
            What each frame belongs to, see :func:`mark_blocks`.
        prefix_time : int, optional
            Ignored; an argument of ``PrefixCrossAttention``.
        return_state : bool
            Whether to return the state for :meth:`step`.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        latest = blocks.cummax(1).values  # the last text that each frame knows
        state, y = self.reader.init_state(x.shape[0], x.device, x.dtype), torch.zeros_like(x)
        for block in range(1, int(blocks.max()) + 1):
            text, text_lengths, _ = take_frames(x, blocks == block)
            begins = state["memory_place"].expand_as(state["target_place"])
            place = torch.where(text_lengths[:, None] > 0, begins, state["target_place"])
            state = {**self.reader.consume(text, text_lengths, state), "target_place": place}
            speech, speech_lengths, index = take_frames(x, (blocks == 0) & (latest == block))
            if speech.shape[1]:
                read, state = self.reader(speech, speech_lengths, state=state, return_state=True)
                y = _put_frames(y, read, index)
        return (y, state) if return_state else y

    def step(self, x_t: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the layer over one frame of speech, (batch, d_model); the given state is not changed."""
        return self.reader.step(x_t, state)

"""Bidirectional Mamba layers that can look into the future within chunks only."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.nnet.mamba import BiMamba, MambaState
from speechbrain_mamba.nnet.mamba2 import BiMamba2
from speechbrain_mamba.ops import causal_conv1d, mask_frames, ssd
from speechbrain_mamba.ops.checks import check_lengths


def split_chunks(x: Tensor, lengths: Tensor | None, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Make each chunk of some sequences an example of its own.

    Arguments
    ---------
    x : Tensor
        Sequences (batch, time, channels).
    lengths : Tensor, optional
        Valid frames per sequence, integers (batch,).
    chunk_size : int
        Frames per chunk.

    Returns
    -------
    chunks : Tensor
        (batch * chunks, chunk_size, channels), the last chunk of each sequence padded.
    lengths : Tensor
        Valid frames per chunk, integers (batch * chunks,).

    Example
    -------
    >>> chunks, lengths = split_chunks(torch.arange(5.0).view(1, 5, 1), None, 2)
    >>> chunks[..., 0], lengths
    (tensor([[0., 1.],
            [2., 3.],
            [4., 0.]]), tensor([2, 2, 1]))
    """
    batch, time, channels = x.shape
    first = torch.arange(0, time, chunk_size, device=x.device)
    if lengths is None:
        lengths = torch.full((batch,), time, device=x.device)
    lengths = (lengths.to(x.device)[:, None] - first).clamp(0, chunk_size).flatten()
    return F.pad(x, (0, 0, 0, -time % chunk_size)).reshape(len(lengths), chunk_size, channels), lengths


def join_chunks(chunks: Tensor, batch: int, time: int) -> Tensor:
    """Undo :func:`split_chunks`: sequences (batch, time, ...) from chunks (batch * chunks, chunk_size, ...)."""
    return chunks.reshape(batch, -1, *chunks.shape[2:])[:, :time]


class ChunkedBiMamba(BiMamba):
    """:class:`~speechbrain_mamba.nnet.mamba.BiMamba` that can run chunk by chunk, with the same arguments and weights.

    With a chunk size the forward direction scans the whole sequence, and the reverse direction each chunk on its own. A
    chunk then depends on itself and the past only, and a state of constant size holds the past.

    Example
    -------
    >>> layer = ChunkedBiMamba(d_model=8, d_state=4)
    >>> x = torch.randn(2, 10, 8)
    >>> y = layer(x, chunk_size=4)
    >>> _, state = layer(x[:, :4], chunk_size=4, return_state=True)
    >>> rest = layer(x[:, 4:], chunk_size=4, state=state)
    >>> torch.allclose(rest, y[:, 4:], atol=1e-5)
    True
    """

    def forward(  # type: ignore[override]  # adds chunks and a state to BiMamba's arguments
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        chunk_size: int | None = None,
        state: MambaState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, MambaState]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x, lengths
            As in :class:`~speechbrain_mamba.nnet.mamba.BiMamba`.
        chunk_size : int, optional
            Frames per chunk; without it the reverse direction scans the whole sequence too.
        state, return_state
            As in :class:`~speechbrain_mamba.nnet.mamba.Mamba`: the state is that of the forward direction, and comes
            from a call that ended with a whole chunk.

        Returns
        -------
        Tensor
            Output like ``x``; and with ``return_state`` the state.
        """
        if chunk_size is None and state is None and not return_state:
            return super().forward(x, lengths)
        batch, time, _ = x.shape
        projected = self._project_in(x, lengths)
        x, z = projected.chunk(2, dim=-1)
        forward, state = self._scan(x, z, lengths, state=state)
        chunks, chunk_lengths = split_chunks(projected, lengths, chunk_size or max(time, 1))
        x, z = chunks.chunk(2, dim=-1)
        reverse, _ = self._scan(x, z, chunk_lengths, "_b", reverse=True)
        y = self._project_out(0.5 * forward + 0.5 * join_chunks(reverse, batch, time), lengths)
        return (y, state) if return_state else y


class ChunkedBiMamba2(BiMamba2):
    """:class:`~speechbrain_mamba.nnet.mamba2.BiMamba2` that can run chunk by chunk, as :class:`ChunkedBiMamba` does.

    Example
    -------
    >>> layer = ChunkedBiMamba2(d_model=8, d_state=4, headdim=4)
    >>> x = torch.randn(2, 10, 8)
    >>> y = layer(x, chunk_size=4)
    >>> _, state = layer(x[:, :4], chunk_size=4, return_state=True)
    >>> rest = layer(x[:, 4:], chunk_size=4, state=state)
    >>> torch.allclose(rest, y[:, 4:], atol=1e-5)
    True
    """

    def forward(  # type: ignore[override]  # adds chunks and a state to BiMamba2's arguments
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        chunk_size: int | None = None,
        state: MambaState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, MambaState]:
        """Run the layer over a sequence; arguments and results as in :meth:`ChunkedBiMamba.forward`."""
        if chunk_size is None and state is None and not return_state:
            return super().forward(x, lengths)
        batch, time, _ = x.shape
        lengths = check_lengths("ChunkedBiMamba2", lengths, batch, time, x.device)
        mlp, z, inputs, delta = self._project_in(mask_frames(x, lengths) if self.masks_input else x)

        def scan(
            parts: tuple[Tensor, Tensor, Tensor], lengths: Tensor | None, suffix: str, state: MambaState | None
        ) -> tuple[Tensor, MambaState]:
            z, inputs, delta = parts
            reverse = suffix == "_b"
            convolved, conv = causal_conv1d(
                inputs, *self._filters(suffix), "silu", lengths=lengths, reverse=reverse,
                initial_state=None if state is None else state["conv"], return_final_state=True,
            )  # fmt: skip
            y, last = ssd(
                *self._scan_arguments(convolved, delta, z, suffix), lengths=lengths, chunk_size=self.chunk_size,
                reverse=reverse, initial_state=None if state is None else state["ssm"], return_last_state=True,
            )  # fmt: skip
            return y, {"conv": conv, "ssm": last}

        parts = (z, inputs, delta)
        forward, state = scan(parts, lengths, "", state)
        split = [split_chunks(part, lengths, chunk_size or max(time, 1)) for part in parts]
        chunks = cast("tuple[Tensor, Tensor, Tensor]", tuple(chunk for chunk, _ in split))
        reverse, _ = scan(chunks, split[0][1], "_b", None)
        y = 0.5 * (forward + join_chunks(reverse, batch, time))
        y = mask_frames(self._project_out(mlp, y, z), lengths)
        return (y, state) if return_state else y

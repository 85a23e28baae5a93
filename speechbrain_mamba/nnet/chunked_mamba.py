"""Bidirectional Mamba layers that can look into the future within chunks only."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.nnet.mamba import BiMamba, MambaState
from speechbrain_mamba.nnet.mamba2 import BiMamba2
from speechbrain_mamba.nnet.mamba_layer import BidirectionalLayer
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
    # A chunk of zeros is cut to what is missing, so that an exported program takes any number of frames: torch would
    # bind a size that may be 0 or 1 to the one that it meets. F.pad of torch 2.8 refuses tensors without channels.
    padded = torch.cat([x, x.new_zeros(batch, chunk_size, channels)], 1)[:, : first.shape[0] * chunk_size]
    return padded.reshape(lengths.shape[0], chunk_size, channels), lengths


def join_chunks(chunks: Tensor, batch: int, time: int) -> Tensor:
    """Undo :func:`split_chunks`: sequences (batch, time, ...) from chunks (batch * chunks, chunk_size, ...)."""
    return chunks.reshape(batch, -1, *chunks.shape[2:])[:, :time]


class ChunkedLayer(BidirectionalLayer):
    """A bidirectional layer that can run chunk by chunk.

    With a chunk size the forward direction scans the whole sequence, and the reverse direction each chunk on its own. A
    chunk then depends on itself and the past only, and a state of constant size holds the past.
    """

    def forward(  # type: ignore[override]  # adds chunks and a state to the arguments
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
        x : Tensor
            Input (batch, time, d_model).
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.
        chunk_size : int, optional
            Frames per chunk; without it the reverse direction scans the whole sequence too.
        state, return_state
            As in :class:`~speechbrain_mamba.nnet.mamba.Mamba`: the state is that of the forward direction, and comes
            from a call that ended with a whole chunk.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        if chunk_size is None and state is None and not return_state:
            return super().forward(x, lengths)
        batch, time, _ = x.shape
        lengths = check_lengths(type(self).__name__, lengths, batch, time, x.device)
        parts = self._project_in(self._mask_input(x, lengths))
        forward, state = self._scan(parts, lengths, state=state)
        split = [split_chunks(part, lengths, chunk_size or max(time, 1)) for part in parts]
        reverse, _ = self._scan(tuple(chunks for chunks, _ in split), split[0][1], "_b", reverse=True)
        y = self._finish(0.5 * forward + 0.5 * join_chunks(reverse, batch, time), parts, lengths)
        return (y, state) if return_state else y


class ChunkedBiMamba(ChunkedLayer, BiMamba):
    """:class:`~speechbrain_mamba.nnet.mamba.BiMamba` that can run chunk by chunk, with the same arguments and weights.

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


class ChunkedBiMamba2(ChunkedLayer, BiMamba2):
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

"""A bidirectional Mamba layer that can look into the future within chunks only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.nnet.mamba import BiMamba


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
        state: dict[str, Tensor] | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
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
        parts = self._project_in(self._mask_input(x, lengths))
        forward, state = self._scan(parts, lengths, state=state)
        reverse = self._reverse_in_chunks(parts, lengths, chunk_size or x.shape[1])
        y = self._finish(0.5 * forward + 0.5 * reverse, parts, lengths)
        return (y, state) if return_state else y

    def _reverse_in_chunks(self, parts: tuple[Tensor, ...], lengths: Tensor | None, chunk_size: int) -> Tensor:
        (batch, time, _), device = parts[0].shape, parts[0].device
        first = torch.arange(0, time, chunk_size, device=device)
        if lengths is None:
            lengths = torch.full((batch,), time, device=device)
        lengths = (lengths.to(device)[:, None] - first).clamp(0, chunk_size).flatten()
        padding = (0, 0, 0, -time % chunk_size)
        chunks = tuple(F.pad(part, padding).reshape(len(lengths), chunk_size, part.shape[-1]) for part in parts)
        y, _ = self._scan(chunks, lengths, "_b", reverse=True)
        return y.reshape(batch, len(first) * chunk_size, *y.shape[2:])[:, :time]

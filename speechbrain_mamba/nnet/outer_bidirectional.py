"""Both directions of time by two whole layers, each of which sees one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.nnet.chunked_mamba import join_chunks, split_chunks
from speechbrain_mamba.nnet.pieces import lengths_in
from speechbrain_mamba.ops import mask_frames
from speechbrain_mamba.ops.checks import check_lengths

MERGES = ("add", "concat")


def reverse_frames(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Reverse the valid frames of each example.

    Arguments
    ---------
    x : Tensor
        Frames (batch, time, channels).
    lengths : Tensor, optional
        Valid frames per example, integers (batch,).

    Returns
    -------
    Tensor
        A tensor like ``x``, zero past each length.

    Example
    -------
    >>> reverse_frames(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([2]))[0, :, 0]
    tensor([2., 1., 0.])
    """
    if lengths is None:
        return x.flip(1)
    index = (lengths[:, None] - 1 - torch.arange(x.shape[1], device=x.device)).clamp(min=0)
    return mask_frames(x.gather(1, index[..., None].expand_as(x)), lengths)


class OuterBidirectional(nn.Module):
    """Two whole causal layers, one of which runs from the end: the external form of bidirectional Mamba of "Mamba in
    Speech" (arXiv 2405.12609), where inner forms such as :class:`~speechbrain_mamba.nnet.mamba.BiMamba` share the
    projections.

    Arguments
    ---------
    forward_mixer, reverse_mixer : torch.nn.Module
        Causal layers, such as :class:`~speechbrain_mamba.nnet.mamba.Mamba`.
    d_model : int
        Channels of input and output.
    merge : str
        ``add``: the outputs are added; ``concat``: they are concatenated and projected to ``d_model`` channels.
    masks_input : bool
        As in :class:`~speechbrain_mamba.nnet.mamba.Mamba`, whatever the two layers say.

    Raises
    ------
    ValueError
        For another ``merge``.

    Example
    -------
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> layer = OuterBidirectional(Mamba(8), Mamba(8), d_model=8)
    >>> x, lengths = torch.randn(2, 10, 8), torch.tensor([7, 10])
    >>> y = layer(x, lengths)
    >>> alone = layer(x[:1, :7])
    >>> torch.allclose(y[:1, :7], alone, atol=1e-5)
    True
    """

    def __init__(
        self,
        forward_mixer: nn.Module,
        reverse_mixer: nn.Module,
        d_model: int,
        merge: str = "add",
        masks_input: bool = True,
    ):
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge is '{merge}', but must be one of {', '.join(MERGES)}.")
        self.masks_input = masks_input
        self.forward_mixer: Any = forward_mixer
        self.reverse_mixer: Any = reverse_mixer
        self.merge_proj = nn.Linear(2 * d_model, d_model, bias=False) if merge == "concat" else None

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        chunk_size: int | None = None,
        state: Any = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Any]:
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model).
        lengths : Tensor, optional
            Valid frames per example, integers (batch,); frames past them give zeros.
        chunk_size : int, optional
            Frames per chunk: with it a frame sees later ones in its own chunk only.
        state, return_state
            As in :class:`~speechbrain_mamba.nnet.mamba.Mamba`: the state is that of the forward layer, and comes from a
            call that ended with a whole chunk.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state.
        """
        batch, time, _ = x.shape
        lengths = check_lengths("OuterBidirectional", lengths, batch, time, x.device)
        x = mask_frames(x, lengths) if self.masks_input else x
        forward, state = self.forward_mixer(x, lengths, state=state, return_state=True)
        if chunk_size is None:
            reverse = reverse_frames(self.reverse_mixer(reverse_frames(x, lengths), lengths), lengths)
        else:
            chunks, ends = split_chunks(x, lengths, chunk_size)
            reverse = reverse_frames(self.reverse_mixer(reverse_frames(chunks, ends), ends), ends)
            reverse = join_chunks(reverse, batch, time)
        y = self._merge(forward, reverse)
        return (y, state) if return_state else y

    def _merge(self, forward: Tensor, reverse: Tensor) -> Tensor:
        return forward + reverse if self.merge_proj is None else self.merge_proj(torch.cat([forward, reverse], -1))

    def outputs(
        self, read: Callable[[slice], Tensor], pieces: Sequence[slice], lengths: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Run the layer over pieces of frames, as
        :meth:`~speechbrain_mamba.nnet.mamba_layer.BidirectionalLayer.outputs` does."""

        def masked(piece: slice) -> tuple[Tensor, Tensor | None]:
            x, own = read(piece), lengths_in(piece, lengths)
            return (mask_frames(x, own) if self.masks_input else x), own

        reversed_outputs: list[Tensor] = []
        state = None
        for piece in reversed(pieces):
            x, own = masked(piece)
            y, state = self.reverse_mixer(reverse_frames(x, own), own, state=state, return_state=True)
            reversed_outputs.append(reverse_frames(y, own))
        state = None
        for piece in pieces:
            x, own = masked(piece)
            y, state = self.forward_mixer(x, own, state=state, return_state=True)
            yield piece, self._merge(y, reversed_outputs.pop())

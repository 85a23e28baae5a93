"""Several padded sequences as one per example, without padding in between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops import valid_frames


class Packing:
    """Where the frames of several padded sequences go when each example's valid ones are put one after the other.

    A scan would run over padding between the sequences, so that there must be none.

    Arguments
    ---------
    lengths : sequence of Tensors
        Valid frames per example of each sequence, integers (batch,).
    times : sequence of int
        Frames of each sequence, padding included.

    Attributes
    ----------
    part_lengths : sequence of Tensor
        The lengths of the sequences as they were given.
    lengths : Tensor
        Valid frames per example of the whole, integers (batch,).
    time : int
        Frames of the whole, padding included; at least those of the first sequence.

    Example
    -------
    >>> text, speech = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[4.0], [5.0]])
    >>> packing = Packing([torch.tensor([2, 1]), torch.tensor([1, 1])], [2, 1])
    >>> whole = packing.pack([text[..., None], speech[..., None]])
    >>> whole[..., 0]
    tensor([[1., 2., 4.],
            [3., 5., 0.]])
    >>> packing.unpack(whole, 1)[..., 0]
    tensor([[4.],
            [5.]])
    """

    def __init__(self, lengths: Sequence[Tensor], times: Sequence[int]):
        self.part_lengths = lengths
        self._valid = [valid_frames(length, time) for length, time in zip(lengths, times)]
        self.lengths = torch.zeros_like(lengths[0])
        self._index = []
        for length, time in zip(lengths, times):
            self._index.append(self.lengths[:, None] + torch.arange(time, device=length.device))
            self.lengths = self.lengths + length
        self.time = max(int(self.lengths.max()), times[0])  # seldom is one example the longest in all sequences

    def pack(self, sequences: Sequence[Tensor]) -> Tensor:
        """One sequence per example.

        Arguments
        ---------
        sequences : sequence of Tensors
            The sequences (batch, time, features).

        Returns
        -------
        Tensor
            The whole (batch, time, features), zero past each length.
        """
        first = sequences[0]
        whole = first.new_zeros(first.shape[0], self.time + 1, first.shape[2])  # padding goes to the frame too many
        for sequence, index, valid in zip(sequences, self._index, self._valid):
            index = index.masked_fill(~valid, self.time)[..., None].expand_as(sequence)
            whole = whole.scatter(1, index, sequence)
        return whole[:, :-1].masked_fill(~valid_frames(self.lengths, self.time)[..., None], 0)

    def unpack(self, whole: Tensor, part: int) -> Tensor:
        """The frames of one of the sequences.

        Arguments
        ---------
        whole : Tensor
            The whole (batch, time, features).
        part : int
            Which sequence.

        Returns
        -------
        Tensor
            Its frames (batch, time of the sequence, features), zero past each length.
        """
        index = self._index[part].clamp(max=self.time - 1)[..., None].expand(-1, -1, whole.shape[2])
        return whole.gather(1, index).masked_fill(~self._valid[part][..., None], 0)


def split_at(sequence: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Split each example in two.

    Arguments
    ---------
    sequence : Tensor
        The whole (batch, time, ...).
    lengths : Tensor
        How many frames of each example go to the first part, integers (batch,).

    Returns
    -------
    tuple of Tensors
        Both parts (batch, time of the longest, ...), the second one moved to the front; what is past their lengths is
        of no account.

    Example
    -------
    >>> split_at(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([2, 1]))
    (tensor([[1, 2],
            [4, 5]]), tensor([[3, 3],
            [5, 6]]))
    """
    time = sequence.shape[1]
    frames = torch.arange(time - int(lengths.min()), device=sequence.device)
    index = (frames + lengths[:, None]).clamp(max=max(time - 1, 0))
    index = index.view(*index.shape, *[1] * (sequence.dim() - 2)).expand(-1, -1, *sequence.shape[2:])
    return sequence[:, : int(lengths.max())], sequence.gather(1, index)

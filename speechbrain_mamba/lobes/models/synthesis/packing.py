"""Several padded sequences as one per example, without padding in between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.dataio.prompted_batch import Padded
from speechbrain_mamba.ops import mask_frames, valid_frames


class Packing:
    """Padded sequences put one after the other, the valid frames of each example alone.

    A scan would run over padding between the sequences, so there must be none. The ``parts`` are (batch, time, ...),
    alike but for their time; the attribute ``whole`` is (batch, time of the longest, ...), zero past each length.

    Example
    -------
    >>> text = Padded(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]))
    >>> packing = Packing([text, Padded(torch.tensor([[4], [5]]), torch.tensor([1, 1]))])
    >>> packing.whole.values
    tensor([[1, 2, 4],
            [3, 5, 0]])
    >>> packing.unpack(packing.whole.values, 1)
    tensor([[4],
            [5]])
    """

    def __init__(self, parts: Sequence[Padded]) -> None:
        lengths = torch.stack([part.lengths for part in parts])
        ends = lengths.cumsum(0)
        # a program that is exported takes any lengths, up to those of the tensors
        whole = sum(part.values.shape[1] for part in parts)
        time = whole if torch.compiler.is_exporting() else int(ends[-1].max())
        self._lengths, self._index = lengths, []
        first = parts[0].values
        values = first.new_zeros(first.shape[0], time + 1, *first.shape[2:])  # padding goes to the extra frame
        for part, length, end in zip(parts, lengths, ends):
            steps = torch.arange(part.values.shape[1], device=length.device)
            self._index.append((end - length)[:, None] + steps)
            index = self._index[-1].masked_fill(~valid_frames(length, len(steps)), time)
            values = values.scatter(1, _expand(index, part.values), part.values)
        self.whole = Padded(mask_frames(values[:, :-1], ends[-1]), ends[-1])

    def mark(self, marks: Sequence[int], padding: int = -1) -> Tensor:
        """Say for each frame of the whole what it belongs to: the mark of its sequence, or of padding. Returns integers
        (batch, time)."""
        ends = self._lengths.cumsum(0)
        steps = torch.arange(self.whole.values.shape[1], device=ends.device)
        part = (steps >= ends[..., None]).sum(0)
        return torch.tensor([*marks, padding], device=ends.device)[part]

    def unpack(self, values: Tensor, part: int) -> Tensor:
        """Take the frames of one sequence, the ``part``-th, from features of the whole (batch, time, ...). Returns
        (batch, time of the sequence, ...), zero past each length."""
        index = self._index[part].clamp(max=max(values.shape[1] - 1, 0))
        return mask_frames(values.gather(1, _expand(index, values)), self._lengths[part])


def _expand(index: Tensor, values: Tensor) -> Tensor:
    """An index of frames (batch, frames) as one of all features of some values (batch, time, ...)."""
    return index.view(*index.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])


def split_at(whole: Padded, lengths: Tensor) -> tuple[Padded, Padded]:
    """Split each of some sequences (batch, time, ...) in two, after a number of frames, integers (batch,).

    Example
    -------
    >>> whole = Padded(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([3, 3]))
    >>> first, second = split_at(whole, torch.tensor([2, 1]))
    >>> first.values, second.values[1], second.lengths
    (tensor([[1, 2],
            [4, 5]]), tensor([5, 6]), tensor([1, 2]))
    """
    values, time = whole.values, whole.values.shape[1]
    frames = torch.arange(time - int(lengths.min()), device=values.device)
    index = (frames + lengths[:, None]).clamp(max=max(time - 1, 0))
    second = Padded(values.gather(1, _expand(index, values)), whole.lengths - lengths)
    return Padded(values[:, : int(lengths.max())], lengths), second

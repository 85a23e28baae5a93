"""Padded sequences put one after the other, and split again."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba.dataio.prompted_batch import Padded
from speechbrain_mamba.lobes.models.synthesis.packing import Packing, split_at


def test_parts_are_put_one_after_the_other_without_what_pads_them():
    lengths = [torch.tensor([2, 3]), torch.tensor([0, 2]), torch.tensor([3, 1])]
    parts = [torch.arange(2 * time * 2.0).reshape(2, time, 2) + 100 * time for time in (3, 4, 5)]
    for part, length in zip(parts, lengths):
        part[torch.arange(part.shape[1]) >= length[:, None]] = torch.nan
    packing = Packing(list(map(Padded, parts, lengths)))
    whole = packing.whole.values
    assert packing.whole.lengths.tolist() == [5, 6]
    assert whole.shape == (2, 6, 2)
    for example in range(2):
        expected = torch.cat([part[example, : length[example]] for part, length in zip(parts, lengths)])
        assert torch.equal(whole[example, : len(expected)], expected)
        assert not whole[example, len(expected) :].any()
    for index, part in enumerate(parts):
        assert torch.equal(packing.unpack(whole, index), part.nan_to_num(0))


def test_tokens_are_put_one_after_the_other_too():
    parts = [
        Padded(torch.tensor([[1, 2], [3, 9]]), torch.tensor([2, 1])),
        Padded(torch.tensor([[4], [9]]), torch.tensor([1, 0])),
    ]
    whole = Packing(parts).whole
    assert whole.values.tolist() == [[1, 2, 4], [3, 0, 0]] and whole.lengths.tolist() == [3, 1]
    nothing = Packing([Padded(torch.zeros(2, 0), torch.zeros(2, dtype=torch.long))] * 2)
    assert nothing.whole.values.shape == nothing.unpack(nothing.whole.values, 1).shape == (2, 0)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_examples_are_split_where_they_are_told(shape):
    values, lengths = torch.arange(3 * 5 * 2).reshape(3, 5, 2), torch.tensor([0, 2, 3])
    values = values if shape else values[..., 0]
    whole = Padded(values, torch.tensor([5, 3, 4]))
    first, second = split_at(whole, lengths)
    assert torch.equal(first.lengths, lengths) and second.lengths.tolist() == [5, 1, 1]
    assert first.values.shape == (3, 3, *shape)
    assert second.values.shape == (3, 5, *shape)
    assert split_at(whole, lengths.clamp(min=1))[1].values.shape == (3, 4, *shape)
    shortest = split_at(Padded(values[:2, :1], torch.tensor([1, 1])), torch.tensor([0, 1]))
    assert torch.equal(shortest[1].values[0], values[0, :1]) and torch.equal(shortest[0].values[1], values[1, :1])
    for example, length in enumerate(lengths):
        assert torch.equal(first.values[example, :length], values[example, :length])
        assert torch.equal(second.values[example, : 5 - length], values[example, length:])


def test_marks_say_what_each_frame_belongs_to():
    lengths = [torch.tensor([1, 0]), torch.tensor([2, 1]), torch.tensor([1, 1])]
    packing = Packing([Padded(torch.zeros(2, 3), length) for length in lengths])
    assert packing.mark([5, 0, 7]).tolist() == [[5, 0, 0, 7], [0, 7, -1, -1]]

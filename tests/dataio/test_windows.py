"""Windows of signals that come in blocks."""

import pytest
import torch

from speechbrain_mamba.dataio.windows import cut_windows


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("block", [1, 7, 24, 1000])
@pytest.mark.parametrize("samples", [0, 1, 23, 24, 25, 27, 40, 41, 55, 56, 57, 72, 200])
def test_windows_cover_the_signal_and_none_is_short(samples, block, align):
    signal = torch.randn(2, samples)
    windows = list(cut_windows(signal.split(block, 1), 24, 8, align))
    assert [start for start, _ in windows[:-1]] == [16 * i for i in range(len(windows) - 1)]
    end = 0
    for start, part in windows:
        assert start % align == 0 and torch.equal(part, signal[:, start : start + part.shape[1]])
        assert part.shape[1] == samples if samples < 24 else 24 <= part.shape[1] < 24 + align
        assert start == 0 or end - start >= 8  # the overlap
        assert start + part.shape[1] > end or samples == 0
        end = start + part.shape[1]
    assert end == samples


@pytest.mark.parametrize("block", [1, 10, 2400])
def test_memory_does_not_grow_with_the_signal(block):
    blocks = (torch.zeros(1, block) for _ in range(2400 // block))
    sizes = [part.untyped_storage().nbytes() // 4 for _, part in cut_windows(blocks, 24, 8)]
    assert len(sizes) > 100 and max(sizes) <= 3 * 24


@pytest.mark.parametrize(("length", "overlap", "align"), [(0, 0, 1), (10, 6, 1), (10, -1, 1), (10, 4, 4), (12, 3, 4)])
def test_windows_that_do_not_fit_are_refused(length, overlap, align):
    with pytest.raises(ValueError, match=f"Windows of {length} samples that overlap by {overlap} cannot be cut"):
        next(cut_windows([torch.zeros(1, 50)], length, overlap, align))

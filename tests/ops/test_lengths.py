"""Lengths on another device than the frames, and lengths from relative ones."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba import ops
from speechbrain_mamba.ops.lengths import absolute_lengths, lengths_on
from tests.ops.cases import bidirectional_scan_inputs, bidirectional_ssd_inputs, layer_inputs, scan_inputs
from tests.ops.waiting import Transfers, gpu_of_shapes

LENGTHS = torch.tensor([3, 6])
CALLS = {
    "scan": lambda: (ops.selective_scan, scan_inputs(2, 6, 5, 3)),
    "both scans": lambda: (ops.bidirectional_selective_scan, bidirectional_scan_inputs(2, 6, 5, 3)),
    "both scans of Mamba-2": lambda: (ops.bidirectional_ssd, bidirectional_ssd_inputs(2, 6, 4, 3, 2, 2)),
    "convolution": lambda: (ops.causal_conv1d, {"x": torch.randn(2, 6, 5), "weight": torch.randn(5, 4)}),
    "layer": lambda: (ops.bidirectional_mamba_inner, layer_inputs(2, 6, 5, 3, 2)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_an_operation_copies_lengths_on_the_cpu_once(name, dtype):
    lengths = LENGTHS.to(dtype)
    with gpu_of_shapes() as device:
        with device:
            op, inputs = CALLS[name]()
        with Transfers() as transfers:
            op(**inputs, lengths=lengths)
    assert transfers.to_gpu == [True] and transfers.from_gpu == 0


def test_relative_lengths_become_absolute_where_the_frames_are():
    relative = torch.tensor([0.5, 1.0])
    assert absolute_lengths(relative, 7, torch.device("cpu")).tolist() == [4, 7]
    assert absolute_lengths(relative, 7, torch.device("meta")).device.type == "meta"
    assert absolute_lengths(None, 7, torch.device("meta")) is None
    assert lengths_on(LENGTHS, LENGTHS.device) is LENGTHS

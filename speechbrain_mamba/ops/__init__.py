"""Tensor operations of Mamba. The only place that knows that there are several backends."""

from speechbrain_mamba.ops.approximation import approximate_exponentials
from speechbrain_mamba.ops.block_step import (
    FeedForwardPart,
    Linear,
    MixerPart,
    Norm,
    PackedBlock,
    block_step,
    pack_block,
)
from speechbrain_mamba.ops.conv import bidirectional_causal_conv1d, causal_conv1d, causal_conv1d_update
from speechbrain_mamba.ops.depthwise import depthwise_conv1d
from speechbrain_mamba.ops.directions import Direction, Filters, ScanInputs, SsdInputs
from speechbrain_mamba.ops.few_rows import few_rows_linear
from speechbrain_mamba.ops.layer import bidirectional_mamba_inner, mamba_inner, scan_arguments
from speechbrain_mamba.ops.lengths import absolute_lengths, lengths_on, mask_frames, valid_frames
from speechbrain_mamba.ops.registry import available_backends, unavailable_backends, use_backend
from speechbrain_mamba.ops.scan import bidirectional_selective_scan, selective_scan, selective_state_update
from speechbrain_mamba.ops.ssd import bidirectional_ssd, ssd, ssd_update
from speechbrain_mamba.ops.step import PackedStep, mamba_inner_update, pack_step

__all__ = [
    "Direction",
    "FeedForwardPart",
    "Filters",
    "Linear",
    "MixerPart",
    "Norm",
    "PackedBlock",
    "PackedStep",
    "ScanInputs",
    "SsdInputs",
    "absolute_lengths",
    "approximate_exponentials",
    "available_backends",
    "bidirectional_causal_conv1d",
    "bidirectional_mamba_inner",
    "bidirectional_selective_scan",
    "bidirectional_ssd",
    "block_step",
    "causal_conv1d",
    "causal_conv1d_update",
    "depthwise_conv1d",
    "few_rows_linear",
    "lengths_on",
    "mamba_inner",
    "mamba_inner_update",
    "mask_frames",
    "pack_block",
    "pack_step",
    "scan_arguments",
    "selective_scan",
    "selective_state_update",
    "ssd",
    "ssd_update",
    "unavailable_backends",
    "use_backend",
    "valid_frames",
]

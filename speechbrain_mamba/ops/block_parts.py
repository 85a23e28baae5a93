"""The parameters of a residual block around a Mamba layer, as its step takes them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from speechbrain_mamba.ops.directions import Direction
from speechbrain_mamba.ops.int8 import PackedWeight
from speechbrain_mamba.ops.rowwise import Norm


class Linear(NamedTuple):
    """A linear layer."""

    weight: Tensor | PackedWeight
    """(outputs, inputs)"""
    bias: Tensor | None = None
    """(outputs,)"""


class MixerPart(NamedTuple):
    """A Mamba layer with what stands around it."""

    norm: Norm | None
    """Normalization before it."""
    in_proj: Linear
    """To twice the inner channels."""
    direction: Direction
    """What is between the projections."""
    out_proj: Linear
    """Back to the channels of the input."""
    adds_input: bool
    """Whether the input is added to the output."""


class FeedForwardPart(NamedTuple):
    """A feed-forward network, to whose output the input is added."""

    norm: Norm | None
    """Normalization before it."""
    first: Linear
    """To the hidden channels."""
    activation: str | None
    """``relu``, ``gelu`` or none."""
    last: Linear
    """Back to the channels of the input."""

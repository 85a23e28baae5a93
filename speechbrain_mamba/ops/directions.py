"""The tensors of one direction of time: of a layer, and of the convolution and the scan inside it.

A layer makes a :class:`Direction` of its parameters for each direction of time, and every backend takes it as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Filters(NamedTuple):
    """What a convolution needs beside its input."""

    weight: Tensor
    """(channels, width)"""
    bias: Tensor | None = None
    """(channels,)"""


class ScanInputs(NamedTuple):
    """What a scan needs beside its gate and its initial state."""

    u: Tensor
    """(batch, time, channels)"""
    delta: Tensor
    """(batch, time, channels)"""
    A: Tensor
    """(channels, state)"""
    B: Tensor
    """(batch, time, state)"""
    C: Tensor
    """(batch, time, state)"""
    D: Tensor | None = None
    """(channels,)"""
    delta_bias: Tensor | None = None
    """(channels,)"""


class SsdInputs(NamedTuple):
    """What a scan of Mamba-2 needs beside its gate and its initial state."""

    x: Tensor
    """(batch, time, heads, head channels)"""
    delta: Tensor
    """(batch, time, heads)"""
    A: Tensor
    """(heads,)"""
    B: Tensor
    """(batch, time, groups, state)"""
    C: Tensor
    """(batch, time, groups, state)"""
    D: Tensor | None = None
    """(heads,) or (heads, head channels)"""
    delta_bias: Tensor | None = None
    """(heads,)"""


class Direction(NamedTuple):
    """Parameters of a Mamba layer for one direction of time."""

    conv_weight: Tensor
    """Filters, (channels, width)."""
    conv_bias: Tensor | None
    """Their bias, (channels,)."""
    x_proj_weight: Tensor
    """Projection to the step's low-rank factor, B and C, (dt_rank + 2 * state, channels)."""
    dt_proj_weight: Tensor
    """Projection of that factor to the step, (channels, dt_rank)."""
    delta_bias: Tensor
    """Added to the step before its softplus, (channels,)."""
    A: Tensor
    """State matrix, diagonal, usually negative, (channels, state)."""
    D: Tensor
    """Skip connection, (channels,)."""

    @property
    def filters(self) -> Filters:
        """The convolution's part."""
        return Filters(self.conv_weight, self.conv_bias)

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split what ``x_proj_weight`` projects to into the step's factor, B and C."""
        state = self.A.shape[1]
        factor, B, C = projected.split([self.dt_proj_weight.shape[1], state, state], dim=-1)
        return factor, B, C

"""The causal convolution on the Triton kernels, in one direction or in two over the same input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.conv_kernels import conv_backward_kernel, conv_kernel
from speechbrain_mamba.ops.backends.triton.strides import frames, on_device, parameter, strides
from speechbrain_mamba.ops.directions import Filters
from speechbrain_mamba.ops.kernel_backend import ConvGradients, ConvShared, conv_outputs

_TILE, _BACKWARD_TILE = (32, 64), (8, 64)
"""Frames and channels of a program."""


def _tensors(directions: Sequence[Filters], shared: ConvShared, x: Tensor) -> list[Tensor | None]:
    """Inputs in the order of the kernels."""
    filters = [parameter(tensor) for direction in directions for tensor in direction]
    absent = [None] * (4 - len(filters))
    return [x, *filters, *absent, parameter(shared.initial_state), shared.lengths]


def _constants(directions: Sequence[Filters], silu: bool, reverse: bool, tile: tuple[int, int]) -> dict[str, Any]:
    return {
        "SILU": silu, "DIRECTIONS": len(directions), "REVERSE": reverse, "WIDTH": directions[0].weight.shape[1],
        "BLOCK_T": tile[0], "BLOCK_C": tile[1], "num_warps": 4,
    }  # fmt: skip


def conv_forward(
    directions: Sequence[Filters],
    shared: ConvShared,
    silu: bool,
    reverse: bool,
    final_state: bool,
    ys: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of one or two directions and the final state, empty where there is none; ``ys`` is memory for outputs."""
    y, y_b, final = conv_outputs(directions, shared, silu, reverse, final_state)
    y, y_b = ys or (y, y_b)
    batch, time, channels = y.shape
    if batch * channels == 0 or (time == 0 and not final_state):
        return y, y_b, final
    (x,) = frames([shared.x])
    tile = _TILE if time > 1 else (1, _TILE[1])
    tiles = max(triton.cdiv(time, tile[0]), 1)
    has_final = final_state and final.numel() > 0
    with on_device(y):
        conv_kernel[(triton.cdiv(channels, tile[1]) * tiles * batch,)](
            *_tensors(directions, shared, x), y, y_b, final if has_final else None, time, channels, tiles,
            *strides(x), *strides(y), **_constants(directions, silu, reverse, tile),
        )  # fmt: skip
    return y, y_b, final


def conv_backward(
    directions: Sequence[Filters],
    shared: ConvShared,
    dy: Tensor | None,
    dy_b: Tensor | None,
    dfinal: Tensor | None,
    silu: bool,
    reverse: bool,
    dx: Tensor | None = None,
) -> ConvGradients:
    """Gradients, those of parameters in float32; ``dx`` is memory for that of x."""
    (x,), initial = frames([shared.x]), shared.initial_state
    (batch, time, channels), width, count = x.shape, directions[0].weight.shape[1], len(directions)
    dx = x.new_empty(x.shape) if dx is None else dx
    dinitial = None if initial is None else initial.new_zeros(initial.shape, dtype=torch.float32)
    begin = 0 if initial is None else 1 - width
    tiles = max(triton.cdiv(time - begin, _BACKWARD_TILE[0]), 1)
    dweights = x.new_zeros((batch, tiles, count, width, channels), dtype=torch.float32)
    dbiases = x.new_zeros((batch, tiles, count, channels), dtype=torch.float32)
    like = next((d for d in (dy, dy_b) if d is not None), x)
    dys = frames([torch.zeros_like(like) if d is None else d for d in (dy, dy_b)])
    if batch * channels:
        with on_device(x):
            conv_backward_kernel[(triton.cdiv(channels, _BACKWARD_TILE[1]) * tiles * batch,)](
                *_tensors(directions, shared, x), *dys, parameter(dfinal) if width > 1 else None, dx, dweights,
                dbiases, dinitial if width > 1 else None, begin, time, channels, tiles, *strides(x), *strides(dys[0]),
                *strides(dx), **_constants(directions, silu, reverse, _BACKWARD_TILE),
            )  # fmt: skip
    sums = zip(directions, dweights.sum((0, 1)).transpose(-1, -2), dbiases.sum((0, 1)))
    gradients = [Filters(dweight, None if d.bias is None else dbias) for d, dweight, dbias in sums]
    return gradients, ConvShared(dx, dinitial)

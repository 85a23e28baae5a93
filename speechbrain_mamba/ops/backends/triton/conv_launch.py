"""The causal convolution on the Triton kernels, in one direction or in two over the same input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.conv_kernels import conv_backward_kernel, conv_kernel
from speechbrain_mamba.ops.backends.triton.launch import launch
from speechbrain_mamba.ops.backends.triton.layer_kernels import sums_kernel
from speechbrain_mamba.ops.backends.triton.plan import power_of_2, processors_of
from speechbrain_mamba.ops.backends.triton.strides import frames, layout, on_device, parameter, zeros_like
from speechbrain_mamba.ops.directions import Filters
from speechbrain_mamba.ops.kernel_backend import ConvGradients, ConvShared, conv_outputs

_TILE, _WIDE_TILE, _BACKWARD_TILE = (32, 64), (32, 128), (8, 64)
"""Frames and channels of a program; the wide tile is that of both directions."""
_BACKWARD_PROGRAMS_OF_A_PROCESSOR = 16
"""Programs of the backward pass that a multiprocessor has at a time."""


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


def run_conv(
    directions: Sequence[Filters],
    shared: ConvShared,
    silu: bool,
    reverse: bool,
    ys: Sequence[Tensor],
    final: Tensor | None = None,
) -> None:
    """Compute the outputs of one or two directions, and a final state, into their memory."""
    (x,) = frames([shared.x])
    batch, time, channels = x.shape
    tile = _WIDE_TILE if len(directions) == 2 else (1, _TILE[1]) if time <= 1 else _TILE
    tiles = max(-(-time // tile[0]), 1)
    launch(
        conv_kernel, -(-channels // tile[1]) * tiles * batch,
        *_tensors(directions, shared, x), ys[0], ys[-1], final, time, channels, tiles, *layout(x), *layout(ys[0]),
        **_constants(directions, silu, reverse, tile),
    )  # fmt: skip


def conv_forward(
    directions: Sequence[Filters], shared: ConvShared, silu: bool, reverse: bool, final_state: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of one or two directions and the final state, empty where there is none."""
    y, y_b, final = conv_outputs(directions, shared, silu, reverse, final_state)
    batch, time, channels = y.shape
    if batch * channels and (time or final_state):
        has_final = final_state and final.numel() > 0
        with on_device(y):
            run_conv(directions, shared, silu, reverse, (y, y_b), final if has_final else None)
    return y, y_b, final


def run_conv_backward(
    directions: Sequence[Filters],
    shared: ConvShared,
    dys: Sequence[Tensor],
    dfinal: Tensor | None,
    silu: bool,
    reverse: bool,
    dx: Tensor | None,
    dinitial: Tensor | None,
    with_sums: bool,
) -> Tensor | None:
    """Compute the gradients of input and initial state into their memory, where there is any.

    Returns
    -------
    Tensor or None
        With ``with_sums`` what each program contributes to the gradients of the parameters, to be summed over the
        slots: (slot, direction, [weight (channel, tap), bias (channel)]).
    """
    (x,) = frames([shared.x])
    (batch, time, channels), width, count = x.shape, directions[0].weight.shape[1], len(directions)
    begin = 0 if dinitial is None else 1 - width
    tiles = max(-(-(time - begin) // _BACKWARD_TILE[0]), 1)
    total, blocks = tiles * batch, -(-channels // _BACKWARD_TILE[1])
    slots = min(total, max(processors_of(x.device) * _BACKWARD_PROGRAMS_OF_A_PROCESSOR // blocks, 1))
    sums = x.new_empty((slots, count, channels * (width + 1)), dtype=torch.float32) if with_sums else None
    launch(
        conv_backward_kernel, blocks * slots,
        *_tensors(directions, shared, x), dys[0], dys[-1], dfinal, dx, sums, dinitial, begin, time, channels, tiles,
        slots, total, *layout(x), *layout(dys[0]), *layout(dx),
        **_constants(directions, silu, reverse, _BACKWARD_TILE), BLOCK_W=power_of_2(width),
    )  # fmt: skip
    return sums


def conv_backward(
    directions: Sequence[Filters],
    shared: ConvShared,
    dy: Tensor | None,
    dy_b: Tensor | None,
    dfinal: Tensor | None,
    silu: bool,
    reverse: bool,
    *,
    needs: tuple[Sequence[Filters], ConvShared],
) -> ConvGradients:
    """Gradients, those of parameters in float32; where they are not needed, None."""
    x, initial, count = shared.x, shared.initial_state, len(directions)
    channels, width = directions[0].weight.shape
    dinitial = None if initial is None else initial.new_zeros(initial.shape, dtype=torch.float32)
    if x.shape[0] * channels == 0:
        nothing = [zeros_like(d) for d in directions]
        return nothing, ConvShared(torch.zeros_like(x), dinitial)
    like = next((d for d in (dy, dy_b) if d is not None), x)
    dys = frames([torch.zeros_like(like) if d is None else d for d in (dy, dy_b)[:count]])
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needs[1].x else None
    with_sums = any(any(need) for need in needs[0])
    taps = width > 1
    with on_device(x):
        partial = run_conv_backward(
            directions, shared, dys, parameter(dfinal) if taps else None, silu, reverse, dx,
            dinitial if taps else None, with_sums,
        )  # fmt: skip
        if partial is None:
            return [Filters(None, None)] * count, ConvShared(dx, dinitial)  # type: ignore[arg-type]
        return sum_filters(partial, directions), ConvShared(dx, dinitial)  # type: ignore[arg-type]


def sum_filters(partial: Tensor, directions: Sequence[Filters]) -> list[Filters]:
    """The gradients of weight and bias of each direction from what programs contribute, (slot, direction, [weight,
    bias])."""
    sums = partial.new_empty(partial.shape[1:])
    launch(
        sums_kernel, -(-sums.numel() // 64), partial, sums, partial.shape[0], sums.numel(),
        BLOCK_S=16, BLOCK=64, num_warps=4,
    )  # fmt: skip
    size = directions[0].weight.numel()
    return [
        Filters(s[:size].view(d.weight.shape), None if d.bias is None else s[size:]) for s, d in zip(sums, directions)
    ]

"""The causal convolution's kernels as torch operations, in one direction or in two over the same input."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.arguments import frames, on_device, parameter, strides
from speechbrain_mamba.ops.backends.triton.conv_kernels import conv_backward_kernel, conv_kernel
from speechbrain_mamba.ops.backends.triton.operations import OPERATIONS
from speechbrain_mamba.ops.conv_operations import CONV_INPUTS, conv_outputs, register_conv

_TILE, _BACKWARD_TILE = (32, 64), (8, 64)
"""Frames and channels of a program."""


def _prepare(given: dict) -> dict[str, Tensor | None]:
    named = dict.fromkeys(CONV_INPUTS) | given
    prepared = {name: parameter(tensor) for name, tensor in named.items() if name not in ("x", "lengths")}
    return named | prepared | {"x": frames(named["x"])[0]}


def _constants(named: dict, silu: bool, reverse: bool, tile: tuple[int, int]) -> dict:
    return {
        "SILU": silu, "DIRECTIONS": 1 if named["weight_b"] is None else 2, "REVERSE": reverse,
        "WIDTH": named["weight"].shape[1], "BLOCK_T": tile[0], "BLOCK_C": tile[1], "num_warps": 4,
    }  # fmt: skip


def conv_forward(given: dict, silu: bool, reverse: bool, final_state: bool,
                 into: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Convolve inputs given by name; returns the outputs of one or two directions, in ``into`` where it is given, and
    the final state, empty ones where there is none."""
    y, y_b, final = conv_outputs(given, final_state)
    y, y_b = into or (y, y_b)
    (batch, time, channels) = y.shape
    if batch * channels == 0 or (time == 0 and not final_state):
        return y, y_b, final
    named = _prepare(given)
    tile = _TILE if time > 1 else (1, _TILE[1])
    tiles = max(triton.cdiv(time, tile[0]), 1)
    has_final = final_state and final.numel() > 0
    with on_device(y):
        conv_kernel[(triton.cdiv(channels, tile[1]) * tiles * batch,)](
            *(named[name] for name in CONV_INPUTS), y, y_b, final if has_final else None, time, channels, tiles,
            *strides(named["x"]), *strides(y), **_constants(named, silu, reverse, tile),
        )  # fmt: skip
    return y, y_b, final


def conv_backward(given: dict, dy: Tensor | None, dy_b: Tensor | None, dfinal: Tensor | None, silu: bool,
                  reverse: bool, dx: Tensor | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by name, of inputs given by name, those of parameters in float32; ``dx`` is memory for that of x."""
    named = _prepare(given)
    x, initial = named["x"], named["initial_state"]
    (batch, time, channels), width = x.shape, named["weight"].shape[1]
    constants = _constants(named, silu, reverse, _BACKWARD_TILE)
    directions = constants["DIRECTIONS"]
    dx = x.new_empty(x.shape) if dx is None else dx
    dinitial = None if initial is None else torch.zeros_like(initial)
    begin = 0 if initial is None else 1 - width
    tiles = max(triton.cdiv(time - begin, _BACKWARD_TILE[0]), 1)
    dweight = x.new_zeros((batch, tiles, directions, width, channels), dtype=torch.float32)
    dbias = x.new_zeros((batch, tiles, directions, channels), dtype=torch.float32)
    given_dys = [d for d in (dy, dy_b) if d is not None]
    dys = frames(*(torch.zeros_like(given_dys[0] if given_dys else x) if d is None else d for d in (dy, dy_b)))
    if batch * channels:
        with on_device(x):
            conv_backward_kernel[(triton.cdiv(channels, _BACKWARD_TILE[1]) * tiles * batch,)](
                *(named[name] for name in CONV_INPUTS), *dys, parameter(dfinal) if width > 1 else None, dx, dweight,
                dbias, dinitial if width > 1 else None, begin, time, channels, tiles, *strides(x), *strides(dys[0]),
                *strides(dx), **constants,
            )  # fmt: skip
    dweight, dbias = dweight.sum((0, 1)).transpose(-1, -2), dbias.sum((0, 1))
    grads = {"x": dx, "initial_state": dinitial}
    for i, suffix in enumerate(("", "_b")[:directions]):
        grads |= {f"weight{suffix}": dweight[i], f"bias{suffix}": dbias[i]}
    return grads


causal_conv1d, bidirectional_causal_conv1d, causal_conv1d_update = register_conv(
    OPERATIONS, conv_forward, conv_backward
)

"""The causal convolution's kernels as torch operations, in one direction or in two over the same input."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from speechbrain_mamba.ops.triton.arguments import frames, on_device, parameter, strides
from speechbrain_mamba.ops.triton.conv_kernels import conv_backward_kernel, conv_kernel
from speechbrain_mamba.ops.triton.operations import call, forbid_gradient, register, register_gradient

_INPUTS = ("x", "weight", "bias", "weight_b", "bias_b", "initial_state", "lengths")
_TENSORS = ", ".join(f"Tensor{'' if name in ('x', 'weight') else '?'} {name}" for name in _INPUTS)
_TILE, _BACKWARD_TILE = (32, 64), (8, 64)
"""Frames and channels of a program."""


def _prepare(given: dict) -> dict[str, Tensor | None]:
    named = dict.fromkeys(_INPUTS) | given
    prepared = {name: parameter(tensor) for name, tensor in named.items() if name not in ("x", "lengths")}
    return named | prepared | {"x": frames(named["x"])[0]}


def _constants(named: dict, silu: bool, reverse: bool, tile: tuple[int, int]) -> dict:
    return {
        "SILU": silu, "DIRECTIONS": 1 if named["weight_b"] is None else 2, "REVERSE": reverse,
        "WIDTH": named["weight"].shape[1], "BLOCK_T": tile[0], "BLOCK_C": tile[1], "num_warps": 4,
    }  # fmt: skip


def _outputs(named: dict, final_state: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, initial = named["x"], named.get("initial_state")
    shape = (x.shape[0], x.shape[2], named["weight"].shape[1] - 1)
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape if named.get("weight_b") is not None else 0),
        x.new_empty(shape if final_state else 0, dtype=x.dtype if initial is None else initial.dtype),
    )


def conv_forward(given: dict, silu: bool, reverse: bool, final_state: bool,
                 into: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Convolve inputs given by name; returns the outputs of one or two directions, in ``into`` where it is given, and
    the final state, empty ones where there is none."""
    y, y_b, final = _outputs(given, final_state)
    y, y_b = into or (y, y_b)
    (batch, time, channels) = y.shape
    if batch * channels == 0 or (time == 0 and not final_state):
        return y, y_b, final
    named = _prepare(given)
    tiles = max(triton.cdiv(time, _TILE[0]), 1)
    has_final = final_state and final.numel() > 0
    with on_device(y):
        conv_kernel[(triton.cdiv(channels, _TILE[1]) * tiles * batch,)](
            *(named[name] for name in _INPUTS), y, y_b, final if has_final else None, time, channels, tiles,
            *strides(named["x"]), *strides(y), **_constants(named, silu, reverse, _TILE),
        )  # fmt: skip
    return y, y_b, final


def _conv(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return conv_forward(dict(zip(_INPUTS, arguments)), *arguments[len(_INPUTS) :])


def _conv_fake(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(dict(zip(_INPUTS, arguments)), arguments[-1])


def _differentiable(named: dict) -> list[str]:
    return [name for name in _INPUTS if name != "lengths" and named.get(name) is not None]


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
                *(named[name] for name in _INPUTS), *dys, parameter(dfinal) if width > 1 else None, dx, dweight,
                dbias, dinitial if width > 1 else None, begin, time, channels, tiles, *strides(x), *strides(dys[0]),
                *strides(dx), **constants,
            )  # fmt: skip
    dweight, dbias = dweight.sum((0, 1)).transpose(-1, -2), dbias.sum((0, 1))
    grads = {"x": dx, "initial_state": dinitial}
    for i, suffix in enumerate(("", "_b")[:directions]):
        grads |= {f"weight{suffix}": dweight[i], f"bias{suffix}": dbias[i]}
    return grads


def _conv_backward(*arguments) -> list[Tensor]:
    named = dict(zip(_INPUTS, arguments))
    grads = conv_backward(named, *arguments[len(_INPUTS) :])
    return [grads[name].to(named[name].dtype).contiguous() for name in _differentiable(named)]


def _conv_backward_fake(*arguments) -> list[Tensor]:
    named = dict(zip(_INPUTS, arguments))
    return [named[name].new_empty(named[name].shape) for name in _differentiable(named)]


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, silu, reverse, _ = inputs
    ctx.save_for_backward(*tensors)
    ctx.flags = silu, reverse
    ctx.set_materialize_grads(False)


def _backward(ctx, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    if all(d is None for d in dys):
        return (None,) * (len(inputs) + 3)
    outputs = call("conv_backward", *inputs, *dys, *ctx.flags)
    grads = dict(zip(_differentiable(dict(zip(_INPUTS, inputs))), outputs))
    return (*(grads.get(name) for name in _INPUTS), None, None, None)


register(
    "conv", f"({_TENSORS}, bool silu, bool reverse, bool final_state) -> (Tensor, Tensor, Tensor)", _conv, _conv_fake
)
register(
    "conv_backward",
    f"({_TENSORS}, Tensor? dy, Tensor? dy_b, Tensor? dfinal, bool silu, bool reverse) -> Tensor[]",
    _conv_backward,
    _conv_backward_fake,
)
register_gradient("conv", _setup_context, _backward)
forbid_gradient("conv_backward")


def causal_conv1d(x, weight, bias=None, activation=None, *, lengths=None, reverse=False, initial_state=None,
                  return_final_state=False):  # fmt: skip
    """The depthwise causal convolution; see :func:`speechbrain_mamba.ops.causal_conv1d`."""
    y, _, final_state = call(
        "conv", x, weight, bias, None, None, initial_state, lengths, activation is not None, reverse, return_final_state
    )
    return (y, final_state) if return_final_state else y


def bidirectional_causal_conv1d(x, weights, biases, activation, lengths):
    """Both directions at once; see :func:`speechbrain_mamba.ops.bidirectional_causal_conv1d`."""
    y, y_b, _ = call(
        "conv", x, weights[0], biases[0], weights[1], biases[1], None, lengths, activation is not None, False, False
    )
    return y, y_b


def causal_conv1d_update(x, state, weight, bias=None, activation=None):
    """One step of the convolution; see :func:`speechbrain_mamba.ops.causal_conv1d_update`."""
    y, state = causal_conv1d(x[:, None], weight, bias, activation, initial_state=state, return_final_state=True)
    return y[:, 0], state

"""A bidirectional Mamba layer after its input projection as one torch operation.

Kept for its backward pass are its inputs and the states that come into the chunks of the scan. Convolutions and
projections are computed again there; the steps are multiplied out of their low-rank factor inside the scan's kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.arguments import ALIGNMENT
from speechbrain_mamba.ops.backends.triton.conv import conv_backward, conv_forward
from speechbrain_mamba.ops.backends.triton.operations import OPERATIONS
from speechbrain_mamba.ops.backends.triton.plan import plan
from speechbrain_mamba.ops.backends.triton.scan import scan_backward, scan_forward
from speechbrain_mamba.ops.inner_inputs import (
    INNER_INPUTS,
    INNER_TENSORS,
    SUFFIXES,
    flatten_inner,
    inner_conv_inputs,
    inner_gradients,
)
from speechbrain_mamba.ops.torch_ops import asks_for_gradient


def _scan_inputs(named: dict) -> tuple[dict[str, Tensor | None], Tensor]:
    """Inputs of the scan by name, and what the input projections give, (direction, batch, time, features), whose parts
    some of these are: in float32, as the scan takes them, with frames at aligned strides."""
    xz = named["xz"]
    batch, time, _ = xz.shape
    ranks, states = named["dt_proj_weight"].shape[1], named["A"].shape[1]
    us = xz.new_empty((2, batch, time, named["A"].shape[0]))
    conv_forward(inner_conv_inputs(named), True, False, False, (us[0], us[1]))
    weights = torch.stack([named[f"x_proj_weight{suffix}"].to(xz.dtype) for suffix in SUFFIXES])
    size = ranks + 2 * states
    projected = us.new_empty((2, batch, time, -(-size // ALIGNMENT) * ALIGNMENT), dtype=torch.float32)
    projected[..., :size] = torch.bmm(us.flatten(1, 2), weights.transpose(1, 2)).unflatten(1, (batch, time))
    inputs = {"z": xz.chunk(2, dim=-1)[1], "lengths": named["lengths"]}
    for u, p, suffix in zip(us, projected, SUFFIXES):
        factor, B, C = p[..., :size].split([ranks, states, states], dim=-1)
        maps = {"u": u, "delta": factor, "B": B, "C": C, "delta_weight": named[f"dt_proj_weight{suffix}"]}
        maps |= {name: named[name + suffix] for name in ("A", "D", "delta_bias")}
        inputs |= {name + suffix: tensor for name, tensor in maps.items()}
    return inputs, projected


def _kept_shape(xz: Tensor, A: Tensor, dt_proj_weight: Tensor, keep: bool) -> tuple[int, ...]:
    """Shape of the states that are kept for the backward pass."""
    (batch, time, _), (channels, states) = xz.shape, A.shape
    chunks = plan(xz.device, batch, time, channels, states, dt_proj_weight.shape[1]).chunks
    return (2, batch, chunks, states, channels) if keep and chunks > 1 and xz.numel() else (0,)


def _inner(*arguments) -> tuple[Tensor, Tensor]:
    *inputs, keep = arguments
    named = dict(zip(INNER_INPUTS, inputs))
    scan_inputs, _ = _scan_inputs(named)
    y, _, states = scan_forward(scan_inputs, True, False, False)
    del scan_inputs
    if not keep or states is None:
        states = y.new_empty(0, dtype=torch.float32)
    bias = named["out_proj_bias"]
    return F.linear(y, named["out_proj_weight"].to(y.dtype), None if bias is None else bias.to(y.dtype)), states


def _inner_fake(*arguments) -> tuple[Tensor, Tensor]:
    *inputs, keep = arguments
    named = dict(zip(INNER_INPUTS, inputs))
    xz = named["xz"]
    kept = _kept_shape(xz, named["A"], named["dt_proj_weight"], keep)
    out = xz.new_empty((*xz.shape[:2], named["out_proj_weight"].shape[0]))
    return out, xz.new_empty(kept, dtype=torch.float32)


def _matrix_products(
    named: dict, us: tuple[Tensor, Tensor], projected: Tensor, d: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Gradients of the projections to steps, B and C; that of their input is added to that of the scan's input."""
    ranks, dtype, grads = named["dt_proj_weight"].shape[1], us[0].dtype, {}
    for i, suffix in enumerate(SUFFIXES):
        u, dsteps, du = (t.flatten(0, 1) for t in (us[i], d[f"delta{suffix}"], d[f"u{suffix}"]))
        factor = projected[i].flatten(0, 1)[:, :ranks].to(dtype)
        dprojected = u.new_empty(u.shape[0], named[f"x_proj_weight{suffix}"].shape[0])
        dprojected[:, :ranks] = dsteps @ named[f"dt_proj_weight{suffix}"].to(dtype)
        dprojected[:, ranks:] = torch.cat([d[f"B{suffix}"], d[f"C{suffix}"]], -1).flatten(0, 1)
        grads[f"dt_proj_weight{suffix}"] = dsteps.T @ factor
        grads[f"x_proj_weight{suffix}"] = dprojected.T @ u
        du.addmm_(dprojected, named[f"x_proj_weight{suffix}"].to(dtype))  # what u does by way of the projection
    return grads


def _inner_backward(*arguments) -> list[Tensor]:
    *inputs, states, dout = arguments
    named = dict(zip(INNER_INPUTS, inputs))
    xz, lengths = named["xz"], named["lengths"]
    names = inner_gradients(inputs)
    if xz.numel() == 0:
        return [torch.zeros_like(named[name]) for name in names]
    dxz = torch.empty_like(xz, memory_format=torch.contiguous_format)
    dx, dz = dxz.chunk(2, dim=-1)
    scan_inputs, projected = _scan_inputs(named)
    dy = dout @ named["out_proj_weight"].to(dout.dtype)
    d = scan_backward(scan_inputs, states if states.numel() else None, dy, None, True, False, {"z": dz}, output=True)
    del dy
    if lengths is not None:  # whatever stands in the padding
        valid = torch.arange(xz.shape[1], device=xz.device) < lengths[:, None]
        dout = dout.masked_fill(~valid[..., None], 0)
    grads = {"xz": dxz, "out_proj_weight": dout.flatten(0, 1).T @ d.pop("y").flatten(0, 1)}
    if named["out_proj_bias"] is not None:
        grads["out_proj_bias"] = dout.sum((0, 1))
    grads |= {name + suffix: d[name + suffix] for suffix in SUFFIXES for name in ("A", "D", "delta_bias")}
    us = (scan_inputs["u"], scan_inputs["u_b"])
    grads |= _matrix_products(named, us, projected, d)
    filters = conv_backward(inner_conv_inputs(named), d["u"], d["u_b"], None, True, False, dx)
    grads |= {f"conv_{name}": gradient for name, gradient in filters.items() if name != "x"}
    return [grads[name].to(named[name].dtype).contiguous() for name in names]


def _inner_backward_fake(*arguments) -> list[Tensor]:
    named = dict(zip(INNER_INPUTS, arguments))
    return [named[name].new_empty(named[name].shape) for name in inner_gradients(arguments[: len(INNER_INPUTS)])]


def _setup_context(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, keep = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.kept = keep
    ctx.set_materialize_grads(False)


def _backward(ctx, dout: Tensor | None, _) -> tuple[Tensor | None, ...]:
    *inputs, states = ctx.saved_tensors
    if dout is None:
        return (None,) * (len(inputs) + 1)
    if not ctx.kept:  # the forward pass was not told that gradients would be asked for
        _, states = OPERATIONS.call("inner", *inputs, True)
    grads = dict(zip(inner_gradients(inputs), OPERATIONS.call("inner_backward", *inputs, states, dout)))
    return (*(grads.get(name) for name in INNER_INPUTS), None)


OPERATIONS.register("inner", f"({INNER_TENSORS}, bool keep) -> (Tensor, Tensor)", _inner, _inner_fake)
OPERATIONS.register(
    "inner_backward",
    f"({INNER_TENSORS}, Tensor states, Tensor dout) -> Tensor[]",
    _inner_backward,
    _inner_backward_fake,
)
OPERATIONS.register_gradient("inner", _setup_context, _backward)
OPERATIONS.forbid_gradient("inner_backward")


def bidirectional_mamba_inner(xz, forward, reverse, out_proj_weight, out_proj_bias, lengths):
    """A bidirectional layer after its input projection; see :func:`speechbrain_mamba.ops.bidirectional_mamba_inner`.

    ``forward`` and ``reverse`` hold each direction's arguments by name.
    """
    tensors = flatten_inner(xz, forward, reverse, out_proj_weight, out_proj_bias, lengths)
    keep = asks_for_gradient(*tensors)
    return OPERATIONS.call("inner", *tensors, keep)[0]

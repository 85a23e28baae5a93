"""A bidirectional Mamba layer after its input projection as one torch operation.

Nothing is kept for its backward pass but its inputs. Convolutions, projections and scan are computed again there, which
takes a tenth of the time of the pass and saves most of the layer's memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.conv import conv_backward, conv_forward
from speechbrain_mamba.ops.backends.cpu.operations import OPERATIONS
from speechbrain_mamba.ops.backends.cpu.scan import scan_backward, scan_forward
from speechbrain_mamba.ops.inner_inputs import (
    INNER_INPUTS,
    INNER_TENSORS,
    SUFFIXES,
    flatten_inner,
    inner_conv_inputs,
    inner_gradients,
)


def _split(projected: Tensor, named: dict, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
    """The steps' factor, B and C of one direction."""
    dt_rank, state = named[f"dt_proj_weight{suffix}"].shape[1], named[f"A{suffix}"].shape[1]
    return projected.split([dt_rank, state, state], dim=-1)


def _scan_inputs(named: dict) -> tuple[dict[str, Tensor | None], list[Tensor]]:
    """What the scan takes for both directions, and the projections that its steps, B and C are slices of."""
    us = conv_forward(inner_conv_inputs(named), True, False, False)[:2]
    inputs = {"z": named["xz"].chunk(2, dim=-1)[1], "lengths": named["lengths"]}
    projections = []
    for u, suffix in zip(us, SUFFIXES):
        projections.append(F.linear(u, named[f"x_proj_weight{suffix}"].to(u.dtype)))
        factor, B, C = _split(projections[-1], named, suffix)
        maps = {"u": u, "delta": factor, "B": B, "C": C, "delta_weight": named[f"dt_proj_weight{suffix}"]}
        maps |= {name: named[name + suffix] for name in ("A", "D", "delta_bias")}
        inputs |= {name + suffix: tensor for name, tensor in maps.items()}
    return inputs, projections


def _inner(*arguments) -> Tensor:
    named = dict(zip(INNER_INPUTS, arguments))
    inputs, _ = _scan_inputs(named)
    y, _, _ = scan_forward(inputs, True, False, False, False)
    del inputs
    bias = named["out_proj_bias"]
    return F.linear(y, named["out_proj_weight"].to(y.dtype), None if bias is None else bias.to(y.dtype))


def _inner_fake(*arguments) -> Tensor:
    named = dict(zip(INNER_INPUTS, arguments))
    return named["xz"].new_empty((*named["xz"].shape[:2], named["out_proj_weight"].shape[0]))


def _inner_backward(*arguments) -> list[Tensor]:
    *inputs, dout = arguments
    named = dict(zip(INNER_INPUTS, inputs))
    dxz = torch.empty_like(named["xz"], memory_format=torch.contiguous_format)
    dx, dz = dxz.chunk(2, dim=-1)
    scan_inputs, projections = _scan_inputs(named)
    y, _, borders = scan_forward(scan_inputs, True, False, False, True)
    grads = {"xz": dxz, "out_proj_weight": dout.flatten(0, 1).T @ y.flatten(0, 1)}
    if named["out_proj_bias"] is not None:
        grads["out_proj_bias"] = dout.sum((0, 1))
    dy = dout @ named["out_proj_weight"].to(dout.dtype)

    into, dprojections = {"z": dz}, [torch.empty_like(projected) for projected in projections]
    for dprojected, suffix in zip(dprojections, SUFFIXES):
        _, into[f"B{suffix}"], into[f"C{suffix}"] = _split(dprojected, named, suffix)
    d = scan_backward(scan_inputs, borders, dy, None, True, False, into)
    for projected, dprojected, suffix in zip(projections, dprojections, SUFFIXES):
        grads |= {name + suffix: d[name + suffix] for name in ("A", "D", "delta_bias")}
        dsteps, du = (d[name + suffix].flatten(0, 1) for name in ("delta", "u"))
        factor, dfactor = (_split(p, named, suffix)[0].flatten(0, 1) for p in (projected, dprojected))
        torch.mm(dsteps, named[f"dt_proj_weight{suffix}"].to(dsteps.dtype), out=dfactor)
        # this way around, because the other is ten times slower in MKL
        grads[f"dt_proj_weight{suffix}"] = (factor.T @ dsteps).T.contiguous()
        dprojected = dprojected.flatten(0, 1)
        grads[f"x_proj_weight{suffix}"] = dprojected.T @ scan_inputs[f"u{suffix}"].flatten(0, 1)
        du.addmm_(dprojected, named[f"x_proj_weight{suffix}"].to(du.dtype))  # what u does by way of the projection
    filters = conv_backward(inner_conv_inputs(named), d["u"], d["u_b"], None, True, False, {"x": dx})
    grads |= {f"conv_{name}": gradient for name, gradient in filters.items() if name != "x"}
    return [grads[name].to(named[name].dtype) for name in inner_gradients(inputs)]


def _inner_backward_fake(*arguments) -> list[Tensor]:
    named = dict(zip(INNER_INPUTS, arguments))
    return [torch.empty_like(named[name]) for name in inner_gradients(arguments)]


def _setup_context(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


def _backward(ctx, dout: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    if dout is None:
        return (None,) * len(inputs)
    grads = dict(zip(inner_gradients(inputs), OPERATIONS.call("inner_backward", *inputs, dout)))
    return tuple(grads.get(name) for name in INNER_INPUTS)


OPERATIONS.register("inner", f"({INNER_TENSORS}) -> Tensor", _inner, _inner_fake)
OPERATIONS.register(
    "inner_backward", f"({INNER_TENSORS}, Tensor dout) -> Tensor[]", _inner_backward, _inner_backward_fake
)
OPERATIONS.register_gradient("inner", _setup_context, _backward)
OPERATIONS.forbid_gradient("inner_backward")


def bidirectional_mamba_inner(xz, forward, reverse, out_proj_weight, out_proj_bias, lengths):
    """A bidirectional layer after its input projection; see :func:`speechbrain_mamba.ops.bidirectional_mamba_inner`.

    ``forward`` and ``reverse`` hold each direction's arguments by name.
    """
    tensors = flatten_inner(xz, forward, reverse, out_proj_weight, out_proj_bias, lengths)
    return OPERATIONS.call("inner", *tensors)

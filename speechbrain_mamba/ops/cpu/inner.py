"""A bidirectional Mamba layer between its projections as one torch operation.

Its backward pass computes convolutions and steps again rather than keep them: of the tensors as large as the layer's
inner activations only the input ``xz`` is kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.cpu.arguments import wants_gradient
from speechbrain_mamba.ops.cpu.operations import call, forbid_gradient, register, register_gradient

_DIRECTION = ("conv_weight", "conv_bias", "x_proj_weight", "dt_proj_weight", "delta_bias", "A", "D")
_SUFFIXES = ("", "_b")
_PARAMETERS = tuple(name + suffix for suffix in _SUFFIXES for name in _DIRECTION)
_OPTIONAL = ("conv_bias", "conv_bias_b")
_TENSORS = ", ".join(["Tensor xz", *(f"Tensor{'?' * (name in _OPTIONAL)} {name}" for name in _PARAMETERS)])
_TENSORS += ", Tensor? lengths"
_SCAN_GRADIENTS = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def _filters(named: dict) -> list[Tensor | None]:
    return [named[f"conv_{part}{suffix}"] for suffix in _SUFFIXES for part in ("weight", "bias")]


def _convolve(x: Tensor, named: dict, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """The inputs of both scans."""
    return call("conv", x, *_filters(named), None, lengths, True, False, False)[:2]


def _split(projected: Tensor, named: dict, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
    """The step's low-rank factor, B and C of one direction."""
    sizes = [named[f"dt_proj_weight{suffix}"].shape[1], *[named[f"A{suffix}"].shape[1]] * 2]
    return projected.split(sizes, dim=-1)


def _scan_inputs(us: tuple[Tensor, Tensor], projections: list[Tensor], named: dict) -> list[Tensor]:
    """What the operation ``scan`` takes for both directions."""
    inputs = []
    for u, projected, suffix in zip(us, projections, _SUFFIXES):
        factor, B, C = _split(projected, named, suffix)
        delta = F.linear(factor, named[f"dt_proj_weight{suffix}"].to(u.dtype))
        inputs += [u, delta, named[f"A{suffix}"], B, C, named[f"D{suffix}"], named[f"delta_bias{suffix}"]]
    return inputs


def _inner(xz: Tensor, *arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *parameters, lengths, keep = arguments
    named = dict(zip(_PARAMETERS, parameters))
    x, z = xz.chunk(2, dim=-1)
    us = _convolve(x, named, lengths)
    projections = [F.linear(u, named[f"x_proj_weight{suffix}"].to(u.dtype)) for u, suffix in zip(us, _SUFFIXES)]
    inputs = _scan_inputs(us, projections, named)
    y, _, borders = call("scan", *inputs, z, None, lengths, True, False, False, keep)
    return y, *(projections if keep else [xz.new_empty(0) for _ in _SUFFIXES]), borders


def _inner_fake(xz: Tensor, *arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same on tensors without data: the operations called know their own shapes."""
    return _inner(xz, *arguments)


def _inner_backward(xz: Tensor, *arguments) -> list[Tensor]:
    *parameters, lengths, projected, projected_b, borders, dy = arguments
    named = dict(zip(_PARAMETERS, parameters))
    x, z = xz.chunk(2, dim=-1)
    us, projections = _convolve(x, named, lengths), [projected, projected_b]
    inputs = _scan_inputs(us, projections, named)
    *scan_grads, dz = call("scan_backward", *inputs, z, None, lengths, borders, dy, None, True, False)
    del inputs
    grads, dus = {}, []
    for index, suffix in enumerate(_SUFFIXES):
        first = index * len(_SCAN_GRADIENTS)
        d = dict(zip(_SCAN_GRADIENTS, scan_grads[first : first + len(_SCAN_GRADIENTS)]))
        grads |= {name + suffix: d[name] for name in ("A", "D", "delta_bias")}
        x_weight, dt_weight = (named[f"{name}_proj_weight{suffix}"] for name in ("x", "dt"))
        factor, _, _ = _split(projections[index], named, suffix)
        ddelta = d["delta"].flatten(0, 1)
        grads[f"dt_proj_weight{suffix}"] = (ddelta.T @ factor.flatten(0, 1)).to(dt_weight.dtype)
        dfactor = ddelta @ dt_weight.to(ddelta.dtype)
        dprojected = torch.cat([dfactor, d["B"].flatten(0, 1), d["C"].flatten(0, 1)], -1)
        grads[f"x_proj_weight{suffix}"] = (dprojected.T @ us[index].flatten(0, 1)).to(x_weight.dtype)
        du = torch.addmm(d["u"].flatten(0, 1), dprojected, x_weight.to(dprojected.dtype))
        dus.append(du.view_as(d["u"]))
    dx, *dfilters = call("conv_backward", x, *_filters(named), None, lengths, *dus, None, True, False)
    given = [name for name in _PARAMETERS if name.startswith("conv") and named[name] is not None]
    grads |= dict(zip(given, dfilters))
    return [torch.cat([dx, dz], -1), *(grads[name] for name in _PARAMETERS if named[name] is not None)]


def _inner_backward_fake(xz: Tensor, *arguments) -> list[Tensor]:
    parameters = arguments[: len(_PARAMETERS)]
    return [torch.empty_like(tensor) for tensor in (xz, *parameters) if tensor is not None]


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs[:-1], *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, dy: Tensor | None, *_) -> tuple[Tensor | None, ...]:
    *inputs, projected, projected_b, borders = ctx.saved_tensors
    if dy is None:
        return (None,) * (len(inputs) + 1)
    if borders.numel() == 0:  # the forward pass was not told that gradients would be asked for
        _, projected, projected_b, borders = call("inner", *inputs, True)
    grads = iter(call("inner_backward", *inputs, projected, projected_b, borders, dy))
    tensors = inputs[:-1]
    return (*(None if tensor is None else next(grads) for tensor in tensors), None, None)


register("inner", f"({_TENSORS}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)", _inner, _inner_fake)
register(
    "inner_backward",
    f"({_TENSORS}, Tensor projected, Tensor projected_b, Tensor borders, Tensor dy) -> Tensor[]",
    _inner_backward,
    _inner_backward_fake,
)
register_gradient("inner", _setup_context, _backward)
forbid_gradient("inner_backward")


def bidirectional_mamba_inner(xz, forward, reverse, lengths):
    """A bidirectional layer between its projections; see :func:`speechbrain_mamba.ops.bidirectional_mamba_inner`.

    ``forward`` and ``reverse`` hold each direction's arguments by name.
    """
    parameters = [direction[name] for direction in (forward, reverse) for name in _DIRECTION]
    return call("inner", xz, *parameters, lengths, wants_gradient(xz, *parameters))[0]

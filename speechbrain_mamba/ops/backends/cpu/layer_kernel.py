"""A Mamba layer after its input projection on the native kernels.

A bidirectional layer keeps nothing for its backward pass but its inputs. Convolutions, projections and scan are
computed again there, which takes a tenth of the time of the pass and saves most of the layer's memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.conv_kernel import conv_backward, conv_forward
from speechbrain_mamba.ops.backends.cpu.fields import memory_like
from speechbrain_mamba.ops.backends.cpu.scan_kernel import scan_backward, scan_forward
from speechbrain_mamba.ops.directions import Direction, ScanInputs
from speechbrain_mamba.ops.int8 import project
from speechbrain_mamba.ops.kernel_backend import ConvShared, LayerGradients, LayerShared, ScanShared


def layer_kept(directions: Sequence[Direction], shared: LayerShared) -> tuple[int, ...]:
    """Shape of the states that are kept for the backward pass: none are."""
    return (0,)


def _scan_inputs(directions: Sequence[Direction], shared: LayerShared) -> tuple[list[ScanInputs], list[Tensor]]:
    """Inputs of both scans, with factors in the place of steps, and the projections that these, B and C are slices
    of."""
    x, _ = shared.xz.chunk(2, dim=-1)
    filters = [d.filters for d in directions]
    us = conv_forward(filters, ConvShared(x, lengths=shared.lengths), True, False, False)[:2]
    projections = [project(u, d.x_proj_weight) for u, d in zip(us, directions)]
    inputs = []
    for d, u, projected in zip(directions, us, projections):
        factor, B, C = d.split(projected)
        inputs.append(ScanInputs(u, factor, d.A, B, C, d.D, d.delta_bias))
    return inputs, projections


def layer_forward(directions: Sequence[Direction], shared: LayerShared, keep: bool) -> tuple[Tensor, Tensor]:
    """Output, and nothing to keep."""
    xz, weight, bias, lengths = shared
    inputs = _scan_inputs(directions, shared)[0]
    weights = [d.dt_proj_weight for d in directions]
    gates = ScanShared(xz.chunk(2, dim=-1)[1], lengths=lengths)
    y, _, nothing = scan_forward(inputs, gates, True, False, False, False, weights)
    del inputs
    return project(y, weight, bias), nothing


def inner_forward(
    direction: Direction,
    x: Tensor,
    z: Tensor | None,
    conv_state: Tensor | None,
    scan_state: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output of one direction before the output projection, and the states of convolution and scan after it."""
    convolution = ConvShared(x, conv_state, lengths)
    u, _, conv_state = conv_forward([direction.filters], convolution, True, reverse, True)
    factor, B, C = direction.split(project(u, direction.x_proj_weight))
    scan = ScanInputs(u, factor, direction.A, B, C, direction.D, direction.delta_bias)
    shared, weights = ScanShared(z, scan_state, lengths), [direction.dt_proj_weight]
    y, scan_state, _ = scan_forward([scan], shared, True, reverse, True, False, weights)
    return y, conv_state, scan_state


def layer_backward(
    directions: Sequence[Direction], shared: LayerShared, kept: Tensor, doutput: Tensor
) -> LayerGradients:
    """Gradients."""
    xz, out_proj_weight, out_proj_bias, lengths = shared
    (x, z), dxz = xz.chunk(2, dim=-1), memory_like(xz)
    dx, dz = dxz.chunk(2, dim=-1)
    inputs, projections = _scan_inputs(directions, shared)
    weights, gates = [d.dt_proj_weight for d in directions], ScanShared(z, lengths=lengths)
    y, _, borders = scan_forward(inputs, gates, True, False, False, True, weights)
    dout_proj_weight = doutput.flatten(0, 1).T @ y.flatten(0, 1)
    dout_proj_bias = None if out_proj_bias is None else doutput.sum((0, 1))
    dy = doutput @ out_proj_weight.to(doutput.dtype)

    dprojections = [torch.empty_like(projected) for projected in projections]
    dfactors, dBs, dCs = zip(*(d.split(dprojected) for d, dprojected in zip(directions, dprojections)))
    scans, _ = scan_backward(inputs, gates, borders, dy, None, True, False, weights, dz, list(zip(dBs, dCs)))
    dweights = []
    for d, scan, given, dprojected, dfactor in zip(directions, scans, inputs, dprojections, dfactors):
        du, dsteps, factor = scan.u.flatten(0, 1), scan.delta.flatten(0, 1), given.delta.flatten(0, 1)
        torch.mm(dsteps, d.dt_proj_weight.to(dsteps.dtype), out=dfactor.flatten(0, 1))
        # this way around, because the other is ten times slower in MKL
        ddt_proj_weight = (factor.T @ dsteps).T
        rows = dprojected.flatten(0, 1)
        dweights.append((rows.T @ given.u.flatten(0, 1), ddt_proj_weight))
        du.addmm_(rows, d.x_proj_weight.to(du.dtype))  # the part of u that comes through the projection
    filters = [d.filters for d in directions]
    convolution = ConvShared(x, lengths=lengths)
    dfilters, _ = conv_backward(filters, convolution, scans[0].u, scans[1].u, None, True, False, dx)
    gradients = [
        Direction(f.weight, f.bias, dx_proj, ddt_proj, scan.delta_bias, scan.A, scan.D)  # type: ignore[arg-type]  # D and its bias are given
        for f, (dx_proj, ddt_proj), scan in zip(dfilters, dweights, scans)
    ]
    return gradients, LayerShared(dxz, dout_proj_weight, dout_proj_bias)

"""A bidirectional Mamba layer after its input projection on the Triton kernels.

Kept for its backward pass are its inputs and the states that come into the chunks of the scan. Convolutions and
projections are computed again there; the steps are multiplied out of their low-rank factor inside the scan's kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.conv_launch import conv_backward, conv_forward
from speechbrain_mamba.ops.backends.triton.scan_launch import kept_shape, scan_backward, scan_forward
from speechbrain_mamba.ops.backends.triton.strides import ALIGNMENT, zeros_like
from speechbrain_mamba.ops.directions import Direction, ScanInputs
from speechbrain_mamba.ops.kernel_backend import ConvShared, LayerGradients, LayerShared, ScanShared
from speechbrain_mamba.ops.lengths import mask_frames


def layer_kept(directions: Sequence[Direction], shared: LayerShared) -> tuple[int, ...]:
    """Shape of the states that are kept for the backward pass."""
    xz, (channels, states) = shared.xz, directions[0].A.shape
    return kept_shape(xz.device, xz.shape[0], xz.shape[1], channels, states, len(directions))


def _scan_inputs(directions: Sequence[Direction], shared: LayerShared) -> tuple[list[ScanInputs], Tensor]:
    """Inputs of both scans, with factors in the place of steps, and the projections that these, B and C are slices of:
    (direction, batch, time, features), in float32, as the scan takes them, with frames at aligned strides."""
    xz, lengths = shared.xz, shared.lengths
    batch, time, _ = xz.shape
    size, channels = directions[0].x_proj_weight.shape
    us = xz.new_empty((2, batch, time, channels))
    filters, convolution = [d.filters for d in directions], ConvShared(xz.chunk(2, dim=-1)[0], lengths=lengths)
    conv_forward(filters, convolution, True, False, False, (us[0], us[1]))
    weights = torch.stack([d.x_proj_weight.to(xz.dtype) for d in directions])
    projected = us.new_empty((2, batch, time, -(-size // ALIGNMENT) * ALIGNMENT), dtype=torch.float32)
    projected[..., :size] = torch.bmm(us.flatten(1, 2), weights.transpose(1, 2)).unflatten(1, (batch, time))
    inputs = []
    for d, u, p in zip(directions, us, projected):
        factor, B, C = d.split(p[..., :size])
        inputs.append(ScanInputs(u, factor, d.A, B, C, d.D, d.delta_bias))
    return inputs, projected


def layer_forward(directions: Sequence[Direction], shared: LayerShared, keep: bool) -> tuple[Tensor, Tensor]:
    """Output, and the states to keep."""
    xz, weight, bias, lengths = shared
    gates = ScanShared(xz.chunk(2, dim=-1)[1], lengths=lengths)
    inputs, weights = _scan_inputs(directions, shared)[0], [d.dt_proj_weight for d in directions]
    y, _, states = scan_forward(inputs, gates, True, False, False, keep, weights)
    del inputs
    return F.linear(y, weight.to(y.dtype), None if bias is None else bias.to(y.dtype)), states


def _matrix_products(
    direction: Direction, given: ScanInputs, gradients: ScanInputs, projected: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the projections to steps, B and C; that of their input is added to that of the scan's input."""
    u, dsteps, du = (t.flatten(0, 1) for t in (given.u, gradients.delta, gradients.u))
    ranks, dtype = direction.dt_proj_weight.shape[1], u.dtype
    factor = projected.flatten(0, 1)[:, :ranks].to(dtype)
    dprojected = u.new_empty(u.shape[0], direction.x_proj_weight.shape[0])
    dprojected[:, :ranks] = dsteps @ direction.dt_proj_weight.to(dtype)
    dprojected[:, ranks:] = torch.cat([gradients.B, gradients.C], -1).flatten(0, 1)
    du.addmm_(dprojected, direction.x_proj_weight.to(dtype))  # the part of u that comes through the projection
    return dprojected.T @ u, dsteps.T @ factor


def layer_backward(
    directions: Sequence[Direction], shared: LayerShared, states: Tensor, doutput: Tensor
) -> LayerGradients:
    """Gradients."""
    xz, out_proj_weight, out_proj_bias, lengths = shared
    if xz.numel() == 0:
        return [zeros_like(d) for d in directions], zeros_like(shared._replace(lengths=None))
    dxz = torch.empty_like(xz, memory_format=torch.contiguous_format)
    (x, z), (dx, dz) = xz.chunk(2, dim=-1), dxz.chunk(2, dim=-1)
    inputs, projected = _scan_inputs(directions, shared)
    weights, gates = [d.dt_proj_weight for d in directions], ScanShared(z, lengths=lengths)
    y = torch.empty_like(inputs[0].u)
    dy = doutput @ out_proj_weight.to(doutput.dtype)
    scans, _ = scan_backward(inputs, gates, states, dy, None, True, False, weights, dz, y)
    del dy
    doutput = mask_frames(doutput, lengths)  # whatever stands in the padding
    dout_proj_weight = doutput.flatten(0, 1).T @ y.flatten(0, 1)
    dout_proj_bias = None if out_proj_bias is None else doutput.sum((0, 1))
    dweights = [_matrix_products(*own) for own in zip(directions, inputs, scans, projected)]
    filters, convolution = [d.filters for d in directions], ConvShared(x, lengths=lengths)
    dfilters, _ = conv_backward(filters, convolution, scans[0].u, scans[1].u, None, True, False, dx)
    gradients = [
        Direction(f.weight, f.bias, dx_proj, ddt_proj, scan.delta_bias, scan.A, scan.D)  # type: ignore[arg-type]  # D and its bias are given
        for f, (dx_proj, ddt_proj), scan in zip(dfilters, dweights, scans)
    ]
    return gradients, LayerShared(dxz, dout_proj_weight, dout_proj_bias)

"""A bidirectional Mamba layer after its input projection, as one operation.

Some backends fuse it, and recompute in the backward pass the tensors that the composition of convolution, projections
and scan would have to keep.
"""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.checks import check_dims, check_directions, check_lengths, check_shape
from speechbrain_mamba.ops.directions import Direction, ScanInputs
from speechbrain_mamba.ops.lengths import mask_frames
from speechbrain_mamba.ops.registry import Call, select_backend

_OP = "bidirectional_mamba_inner"


def bidirectional_mamba_inner(
    xz: Tensor,
    forward: Direction,
    reverse: Direction,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
) -> Tensor:
    r"""A bidirectional Mamba layer without its input projection (arXiv 2407.09732, figure 2).

    With :math:`x, z` the halves of ``xz``, for each direction :math:`u = \mathrm{silu}(\mathrm{conv}(x))`, the step's
    low-rank factor, B and C are ``u @ x_proj_weight.T``, the step is that factor times ``dt_proj_weight``, and

    .. math::

        y = \tfrac{1}{2} (\mathrm{scan}(u) + \mathrm{scan}_\mathrm{reverse}(u))\, \mathrm{silu}(z)

    goes through the output projection. The matrix products are computed in the dtype of ``xz``; ``A``, ``D``,
    ``delta_bias`` and the states stay in float32 (float64 for float64 inputs). A pure function, differentiable in
    every tensor.

    Arguments
    ---------
    xz : Tensor
        Output of the input projection, (batch, time, 2 * channels).
    forward, reverse : Direction
        Parameters of each direction of time, of the same shapes.
    out_proj_weight : Tensor
        Output projection, shared by the directions, (d_model, channels).
    out_proj_bias : Tensor, optional
        Its bias, (d_model,).
    lengths : Tensor, optional
        Valid frames per example, integers (batch,). Frames past the length give zeros and get no gradient, even if
        they hold NaN.

    Returns
    -------
    Tensor
        Output (batch, time, d_model), dtype of ``xz``.

    Raises
    ------
    ValueError
        For shapes that do not fit, lengths out of range, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit, or anything but a ``Direction``.

    Example
    -------
    >>> channels, state, dt_rank = 8, 4, 2
    >>> direction = Direction(
    ...     conv_weight=torch.rand(channels, 4), conv_bias=None,
    ...     x_proj_weight=torch.rand(dt_rank + 2 * state, channels), dt_proj_weight=torch.rand(channels, dt_rank),
    ...     delta_bias=torch.zeros(channels), A=-torch.ones(channels, state), D=torch.ones(channels),
    ... )
    >>> bidirectional_mamba_inner(torch.randn(3, 9, 2 * channels), direction, direction, torch.rand(6, channels)).shape
    torch.Size([3, 9, 6])
    """
    check_directions(_OP, Direction, forward, reverse)
    lengths = _check(xz, forward, out_proj_weight, out_proj_bias, lengths)
    tensors = (*forward, *reverse, out_proj_weight, out_proj_bias)
    states, width, rank = forward.A.shape[1], forward.conv_weight.shape[1], forward.dt_proj_weight.shape[1]
    backend = select_backend(Call(_OP, xz, tensors, states=states, width=width, rank=rank))
    with torch.autocast(xz.device.type, enabled=False):
        y = run_layer(backend, xz, forward, reverse, out_proj_weight, out_proj_bias, lengths)
    return y if out_proj_bias is None else mask_frames(y, lengths)


def _check(
    xz: Tensor,
    direction: Direction,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    lengths: Tensor | None,
) -> Tensor | None:
    """Check one direction's arguments; returns the lengths on the input's device."""
    conv_weight, conv_bias, x_proj_weight, dt_proj_weight, delta_bias, A, D = direction
    check_dims(_OP, "xz", xz, "(batch, time, 2 * channels)")
    check_dims(_OP, "A", A, "(channels, state)")
    check_dims(_OP, "dt_proj_weight", dt_proj_weight, "(channels, dt_rank)")
    check_dims(_OP, "conv_weight", conv_weight, "(channels, width)")
    check_dims(_OP, "out_proj_weight", out_proj_weight, "(d_model, channels)")
    (batch, time, _), (channels, state), d_model = xz.shape, A.shape, out_proj_weight.shape[0]
    dt_rank, width = dt_proj_weight.shape[1], conv_weight.shape[1]
    features = dt_rank + 2 * state
    check_shape(_OP, "xz", xz, "(batch, time, 2 * channels)", (batch, time, 2 * channels))
    check_shape(_OP, "conv_weight", conv_weight, "(channels, width)", (channels, width))
    check_shape(_OP, "conv_bias", conv_bias, "(channels,)", (channels,))
    check_shape(_OP, "x_proj_weight", x_proj_weight, "(dt_rank + 2 * state, channels)", (features, channels))
    check_shape(_OP, "dt_proj_weight", dt_proj_weight, "(channels, dt_rank)", (channels, dt_rank))
    check_shape(_OP, "delta_bias", delta_bias, "(channels,)", (channels,))
    check_shape(_OP, "D", D, "(channels,)", (channels,))
    check_shape(_OP, "out_proj_weight", out_proj_weight, "(d_model, channels)", (d_model, channels))
    check_shape(_OP, "out_proj_bias", out_proj_bias, "(d_model,)", (d_model,))
    return check_lengths(_OP, lengths, batch, time, xz.device)


def run_layer(
    backend: ModuleType,
    xz: Tensor,
    forward: Direction,
    reverse: Direction,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    lengths: Tensor | None,
) -> Tensor:
    """Run the layer with a backend, fused if it can; frames past the lengths are the bias."""
    fused = getattr(backend, _OP, None)
    if fused:
        return fused(xz, forward, reverse, out_proj_weight, out_proj_bias, lengths)
    y = _compose(backend, xz, forward, reverse, lengths)
    return F.linear(y, out_proj_weight.to(y.dtype), None if out_proj_bias is None else out_proj_bias.to(y.dtype))


def _compose(backend: ModuleType, xz: Tensor, forward: Direction, reverse: Direction, lengths: Tensor | None) -> Tensor:
    """The gated scans from a backend's own convolution and scan, as fused operations compute them."""
    x, z = xz.chunk(2, dim=-1)
    u, u_reverse = backend.bidirectional_causal_conv1d(x, forward.filters, reverse.filters, "silu", lengths)
    scans = scan_arguments(u, forward), scan_arguments(u_reverse, reverse)
    return backend.bidirectional_selective_scan(*scans, z, True, lengths)


def scan_arguments(u: Tensor, direction: Direction) -> ScanInputs:
    """The inputs of a Mamba layer's scan: projections of ``u`` (batch, time, channels), and parameters."""
    factor, B, C = direction.split(F.linear(u, direction.x_proj_weight.to(u.dtype)))
    if torch.compiler.is_exporting():  # whose product depends on how it lies in memory, and so on the size of a batch
        factor = factor.contiguous()
    delta = F.linear(factor, direction.dt_proj_weight.to(u.dtype))
    return ScanInputs(u, delta, direction.A, B, C, direction.D, direction.delta_bias)

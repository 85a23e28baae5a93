"""What a bidirectional Mamba layer does after its input projection, as one operation.

A backend that has it fuses it, and recomputes in the backward pass what the composition of convolution, projections and
scan would have to keep.
"""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.bidirectional import Pair
from speechbrain_mamba.ops.checks import check_dims, check_lengths, check_pair, check_shape
from speechbrain_mamba.ops.lengths import mask_frames
from speechbrain_mamba.ops.registry import select_backend

_OP = "bidirectional_mamba_inner"


def bidirectional_mamba_inner(
    xz: Tensor,
    conv_weight: Pair,
    conv_bias: Pair | None,
    x_proj_weight: Pair,
    dt_proj_weight: Pair,
    delta_bias: Pair,
    A: Pair,
    D: Pair,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
) -> Tensor:
    r"""Everything of a bidirectional Mamba layer but its input projection (arXiv 2407.09732, figure 2).

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
        What the input projection gives, (batch, time, 2 * channels).
    conv_weight : tuple of two Tensors
        Filters of the forward and of the reverse direction, (channels, width). All that follow are such pairs.
    conv_bias : tuple of two Tensors or None
        Their biases, (channels,); None, or a pair of None, for none.
    x_proj_weight : tuple of two Tensors
        Projection to the step's factor, B and C, (dt_rank + 2 * state, channels).
    dt_proj_weight : tuple of two Tensors
        Projection of the factor to the step, (channels, dt_rank).
    delta_bias : tuple of two Tensors
        Added to the step before its softplus, (channels,).
    A : tuple of two Tensors
        State matrices, diagonal, usually negative, (channels, state).
    D : tuple of two Tensors
        Skip connections, (channels,).
    out_proj_weight : Tensor
        Output projection, shared by the directions, (d_model, channels).
    out_proj_bias : Tensor, optional
        Its bias, (d_model,).
    lengths : Tensor, optional
        Valid frames per example, integers (batch,). Frames past the length give zeros and get no gradient, whatever
        they hold.

    Returns
    -------
    Tensor
        Output (batch, time, d_model), dtype of ``xz``.

    Raises
    ------
    ValueError
        For anything but pairs, shapes that do not fit, lengths out of range, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> pair = lambda *shape: tuple(torch.rand(2, *shape))
    >>> channels, state, dt_rank = 8, 4, 2
    >>> bidirectional_mamba_inner(
    ...     torch.randn(3, 9, 2 * channels), pair(channels, 4), pair(channels), pair(dt_rank + 2 * state, channels),
    ...     pair(channels, dt_rank), pair(channels), (-torch.ones(channels, state),) * 2, pair(channels),
    ...     torch.rand(6, channels),
    ... ).shape
    torch.Size([3, 9, 6])
    """
    pairs = {
        "conv_weight": conv_weight,
        "conv_bias": conv_bias,
        "x_proj_weight": x_proj_weight,
        "dt_proj_weight": dt_proj_weight,
        "delta_bias": delta_bias,
        "A": A,
        "D": D,
    }
    pairs = {name: check_pair(_OP, name, pair) for name, pair in pairs.items()}
    directions = tuple({name: pair[i] for name, pair in pairs.items()} for i in range(2))
    lengths = _check(xz, directions[0], out_proj_weight, out_proj_bias, lengths)
    arguments = directions[0] | {f"{name}_b": tensor for name, tensor in directions[1].items()}
    arguments |= {"out_proj_weight": out_proj_weight, "out_proj_bias": out_proj_bias}
    backend = select_backend(_OP, xz, arguments)
    fused = getattr(backend, _OP, None)
    with torch.autocast(xz.device.type, enabled=False):
        if fused:
            y = fused(xz, *directions, out_proj_weight, out_proj_bias, lengths)
        else:
            y = _compose(backend, xz, directions, lengths)
            y = F.linear(y, out_proj_weight.to(y.dtype), None if out_proj_bias is None else out_proj_bias.to(y.dtype))
    return y if out_proj_bias is None else mask_frames(y, lengths)


def _check(
    xz: Tensor,
    direction: dict[str, Tensor | None],
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    lengths: Tensor | None,
) -> Tensor | None:
    """Check one direction's arguments; returns the lengths, checked and brought to the input's device."""
    check_dims(_OP, "xz", xz, "(batch, time, 2 * channels)")
    check_dims(_OP, "A", direction["A"], "(channels, state)")
    check_dims(_OP, "dt_proj_weight", direction["dt_proj_weight"], "(channels, dt_rank)")
    check_dims(_OP, "conv_weight", direction["conv_weight"], "(channels, width)")
    (batch, time, _), (channels, state) = xz.shape, direction["A"].shape
    dt_rank, width = direction["dt_proj_weight"].shape[1], direction["conv_weight"].shape[1]
    check_shape(_OP, "xz", xz, "(batch, time, 2 * channels)", (batch, time, 2 * channels))
    check_shape(_OP, "conv_weight", direction["conv_weight"], "(channels, width)", (channels, width))
    check_shape(_OP, "dt_proj_weight", direction["dt_proj_weight"], "(channels, dt_rank)", (channels, dt_rank))
    features = dt_rank + 2 * state
    check_shape(
        _OP, "x_proj_weight", direction["x_proj_weight"], "(dt_rank + 2 * state, channels)", (features, channels)
    )
    for name in ("conv_bias", "delta_bias", "D"):
        check_shape(_OP, name, direction[name], "(channels,)", (channels,))
    check_dims(_OP, "out_proj_weight", out_proj_weight, "(d_model, channels)")
    d_model = out_proj_weight.shape[0]
    check_shape(_OP, "out_proj_weight", out_proj_weight, "(d_model, channels)", (d_model, channels))
    check_shape(_OP, "out_proj_bias", out_proj_bias, "(d_model,)", (d_model,))
    return check_lengths(_OP, lengths, batch, time, xz.device)


def _compose(backend: ModuleType, xz: Tensor, directions: tuple[dict, dict], lengths: Tensor | None) -> Tensor:
    """The gated scans from a backend's own convolution and scan: the definition of what fused ones compute."""
    x, z = xz.chunk(2, dim=-1)
    weights, biases = (tuple(direction[name] for direction in directions) for name in ("conv_weight", "conv_bias"))
    inputs = backend.bidirectional_causal_conv1d(x, weights, biases, "silu", lengths)
    scans = [scan_arguments(u, **direction) for u, direction in zip(inputs, directions)]
    return backend.bidirectional_selective_scan(*scans, z, True, lengths)


def scan_arguments(u: Tensor, x_proj_weight: Tensor, dt_proj_weight: Tensor, delta_bias: Tensor, A: Tensor, D: Tensor,
                   **_) -> dict[str, Tensor]:  # fmt: skip
    """What a Mamba layer's scan takes for its input ``u`` (batch, time, channels): the maps that depend on it, and the
    parameters that do not."""
    (dt_rank, state) = dt_proj_weight.shape[1], A.shape[1]
    projected = F.linear(u, x_proj_weight.to(u.dtype))
    factor, B, C = projected.split([dt_rank, state, state], dim=-1)
    delta = F.linear(factor, dt_proj_weight.to(u.dtype))
    return {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}

"""A Mamba layer between its input and output projections as one operation, and a bidirectional one with the latter.

Some backends fuse them. Of a bidirectional layer they recompute in the backward pass the tensors that the composition
of convolution, projections and scan would have to keep.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from speechbrain_mamba.ops.checks import check_dims, check_directions, check_lengths, check_shape
from speechbrain_mamba.ops.directions import Direction, ScanInputs
from speechbrain_mamba.ops.int8 import PackedWeight, project
from speechbrain_mamba.ops.lengths import mask_frames
from speechbrain_mamba.ops.registry import Call, select_backend
from speechbrain_mamba.ops.torch_ops import asks_for_gradient

_OP = "bidirectional_mamba_inner"
_ONE_WAY = "mamba_inner"


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
    given = (*forward, *reverse, out_proj_weight, out_proj_bias)
    tensors = tuple(None if isinstance(tensor, PackedWeight) else tensor for tensor in given)
    states, width, rank = forward.A.shape[1], forward.conv_weight.shape[1], forward.dt_proj_weight.shape[1]
    backend = select_backend(Call(_OP, xz, tensors, states=states, width=width, rank=rank))
    with torch.autocast(xz.device.type, enabled=False):
        y = run_layer(backend, xz, forward, reverse, out_proj_weight, out_proj_bias, lengths)
    return y if out_proj_bias is None else mask_frames(y, lengths)


def mamba_inner(
    x: Tensor,
    direction: Direction,
    z: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    r"""One direction of a Mamba layer between its input and output projections, from a state.

    With :math:`u = \mathrm{silu}(\mathrm{conv}(x))`, the step's low-rank factor, B and C are ``u @ x_proj_weight.T``,
    and the output is :math:`\mathrm{scan}(u)\, \mathrm{silu}(z)`. A sequence may be given in pieces, from its start, or
    with ``reverse`` from its end. A pure function, differentiable in every tensor.

    Arguments
    ---------
    x : Tensor
        Input of the convolution, (batch, time, channels).
    direction : Direction
        Parameters.
    z : Tensor, optional
        Gate before its SiLU, (batch, time, channels).
    lengths : Tensor, optional
        Valid frames per example, integers (batch,). Frames past the length give zeros and get no gradient, even if
        they hold NaN.
    reverse : bool
        Run backwards in time, from each example's own last valid frame.
    initial_state : tuple of Tensor, optional
        States of convolution and scan before the first frame in the order of the scan, (batch, channels, width - 1) and
        (batch, channels, state); zeros by default.

    Returns
    -------
    y : Tensor
        Output (batch, time, channels), dtype of ``x``.
    state : tuple of Tensor
        Both states after each example's last frame in the order of the scan.

    Raises
    ------
    ValueError
        For shapes that do not fit, lengths out of range, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> channels, state, dt_rank = 8, 4, 2
    >>> direction = Direction(
    ...     conv_weight=torch.rand(channels, 4), conv_bias=None,
    ...     x_proj_weight=torch.rand(dt_rank + 2 * state, channels), dt_proj_weight=torch.rand(channels, dt_rank),
    ...     delta_bias=torch.zeros(channels), A=-torch.ones(channels, state), D=torch.ones(channels),
    ... )
    >>> x = torch.randn(3, 9, channels)
    >>> y, _ = mamba_inner(x, direction, reverse=True)
    >>> end, after = mamba_inner(x[:, 5:], direction, reverse=True)
    >>> start, _ = mamba_inner(x[:, :5], direction, reverse=True, initial_state=after)
    >>> torch.allclose(torch.cat([start, end], 1), y, atol=1e-6)
    True
    """
    check_dims(_ONE_WAY, "x", x, "(batch, time, channels)")
    channels, states, rank, width = check_parameters(_ONE_WAY, direction)
    batch, time, _ = x.shape
    check_shape(_ONE_WAY, "x", x, "(batch, time, channels)", (batch, time, channels))
    check_shape(_ONE_WAY, "z", z, "(batch, time, channels)", (batch, time, channels))
    conv, ssm = (None, None) if initial_state is None else initial_state
    check_shape(
        _ONE_WAY, "the state of the convolution", conv, "(batch, channels, width - 1)", (batch, channels, width - 1)
    )
    check_shape(_ONE_WAY, "the state of the scan", ssm, "(batch, channels, state)", (batch, channels, states))
    lengths = check_lengths(_ONE_WAY, lengths, batch, time, x.device)
    continues = initial_state is not None
    tensors = tuple(None if isinstance(tensor, PackedWeight) else tensor for tensor in (*direction, z, conv, ssm))
    call = Call(_ONE_WAY, x, tensors, states=states, width=width, rank=rank, continues=continues)
    backend = select_backend(call)
    with torch.autocast(x.device.type, enabled=False):
        return run_one_way(backend, x, direction, z, lengths, reverse, (conv, ssm))


def _check(
    xz: Tensor,
    direction: Direction,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    lengths: Tensor | None,
) -> Tensor | None:
    """Check one direction's arguments; returns the lengths on the input's device."""
    check_dims(_OP, "xz", xz, "(batch, time, 2 * channels)")
    check_dims(_OP, "out_proj_weight", out_proj_weight, "(d_model, channels)")
    channels = check_parameters(_OP, direction)[0]
    (batch, time, _), d_model = xz.shape, out_proj_weight.shape[0]
    check_shape(_OP, "xz", xz, "(batch, time, 2 * channels)", (batch, time, 2 * channels))
    check_shape(_OP, "out_proj_weight", out_proj_weight, "(d_model, channels)", (d_model, channels))
    check_shape(_OP, "out_proj_bias", out_proj_bias, "(d_model,)", (d_model,))
    return check_lengths(_OP, lengths, batch, time, xz.device)


def check_parameters(op: str, direction: Direction) -> tuple[int, int, int, int]:
    """Check the shapes of a direction's parameters; returns channels, states, rank of the step and width."""
    conv_weight, conv_bias, x_proj_weight, dt_proj_weight, delta_bias, A, D = direction
    check_dims(op, "A", A, "(channels, state)")
    check_dims(op, "dt_proj_weight", dt_proj_weight, "(channels, dt_rank)")
    check_dims(op, "conv_weight", conv_weight, "(channels, width)")
    (channels, state), dt_rank, width = A.shape, dt_proj_weight.shape[1], conv_weight.shape[1]
    features = dt_rank + 2 * state
    check_shape(op, "conv_weight", conv_weight, "(channels, width)", (channels, width))
    check_shape(op, "conv_bias", conv_bias, "(channels,)", (channels,))
    check_shape(op, "x_proj_weight", x_proj_weight, "(dt_rank + 2 * state, channels)", (features, channels))
    check_shape(op, "dt_proj_weight", dt_proj_weight, "(channels, dt_rank)", (channels, dt_rank))
    check_shape(op, "delta_bias", delta_bias, "(channels,)", (channels,))
    check_shape(op, "D", D, "(channels,)", (channels,))
    return channels, state, dt_rank, width


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
    return project(y, out_proj_weight, out_proj_bias)


def run_one_way(
    backend: ModuleType,
    x: Tensor,
    direction: Direction,
    z: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    state: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run one direction with a backend, fused if it can and no gradient is asked for."""
    fused = getattr(backend, _ONE_WAY, None)
    if fused and not asks_for_gradient(x, z, *direction, *state):
        return fused(x, direction, z, lengths, reverse, state)
    u, conv = backend.causal_conv1d(
        x, *direction.filters, "silu", lengths=lengths, reverse=reverse, initial_state=state[0], return_final_state=True
    )
    u, delta, A, B, C, D, delta_bias = scan_arguments(u, direction)
    y, ssm = backend.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, True, lengths=lengths, reverse=reverse, initial_state=state[1],
        return_last_state=True,
    )  # fmt: skip
    return y, (conv, ssm)


def _compose(backend: ModuleType, xz: Tensor, forward: Direction, reverse: Direction, lengths: Tensor | None) -> Tensor:
    """The gated scans from a backend's own convolution and scan, as fused operations compute them."""
    x, z = xz.chunk(2, dim=-1)
    u, u_reverse = backend.bidirectional_causal_conv1d(x, forward.filters, reverse.filters, "silu", lengths)
    scans = scan_arguments(u, forward), scan_arguments(u_reverse, reverse)
    return backend.bidirectional_selective_scan(*scans, z, True, lengths)


def scan_arguments(u: Tensor, direction: Direction) -> ScanInputs:
    """The inputs of a Mamba layer's scan: projections of ``u`` (batch, time, channels), and parameters."""
    factor, B, C = direction.split(project(u, direction.x_proj_weight))
    if torch.compiler.is_exporting():  # whose product depends on how it lies in memory, and so on the size of a batch
        factor = factor.contiguous()
    delta = project(factor, direction.dt_proj_weight)
    return ScanInputs(u, delta, direction.A, B, C, direction.D, direction.delta_bias)

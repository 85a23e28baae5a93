"""The scan of Mamba-2: a state space recurrence that decays at one rate per head (state space duality, SSD)."""

from __future__ import annotations

import math
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from speechbrain_mamba.ops.checks import check_dims, check_directions, check_lengths, check_shape
from speechbrain_mamba.ops.directions import SsdInputs
from speechbrain_mamba.ops.registry import Call, select_backend

NO_LIMIT = (0.0, math.inf)
"""The limits of a step by default."""


def _check(
    op: str,
    frames: str,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dt_limit: tuple[float, float],
) -> tuple[int, ...]:
    """Check the arguments of a scan or a step; ``frames`` names their first axes. Returns the shape of the state."""
    check_dims(op, "x", x, f"({frames}, heads, head channels)")
    check_dims(op, "B", B, f"({frames}, groups, state)")
    *first, heads, channels = x.shape
    groups, states = B.shape[-2:]
    check_shape(op, "delta", delta, f"({frames}, heads)", (*first, heads))
    check_shape(op, "A", A, "(heads,)", (heads,))
    for name, tensor in (("B", B), ("C", C)):
        check_shape(op, name, tensor, f"({frames}, groups, state)", (*first, groups, states))
    if D is not None and D.dim() != 1:
        check_shape(op, "D", D, "(heads, head channels)", (heads, channels))
    else:
        check_shape(op, "D", D, "(heads,)", (heads,))
    check_shape(op, "z", z, f"({frames}, heads, head channels)", (*first, heads, channels))
    check_shape(op, "delta_bias", delta_bias, "(heads,)", (heads,))
    if groups == 0 or heads % groups:
        raise ValueError(f"{op}: B and C have {groups} groups, but {heads} heads must divide into them evenly.")
    low, high = dt_limit
    if not low <= high:
        raise ValueError(f"{op}: dt_limit is {dt_limit}, but must be the smallest and the largest step.")
    return (first[0], heads, channels, states)


def _check_chunk_size(op: str, chunk_size: int | None) -> None:
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{op}: chunk_size is {chunk_size}, but must be a positive number of frames or None.")


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    dt_limit: tuple[float, float] = NO_LIMIT,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    chunk_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Scan a sequence by the state space model of Mamba-2 (Dao and Gu, arXiv 2405.21060, sections 5 to 7).

    With :math:`\Delta_t` the step (after bias, softplus and limits), for each head, with B and C of its group,

    .. math::

        h_t = \exp(\Delta_t A)\, h_{t-1} + \Delta_t\, x_t B_t^\top, \qquad
        y_t = (h_t C_t + D x_t)\, \mathrm{silu}(z_t)

    It is :func:`selective_scan` with one step and one decay for all channels of a head and all their states. State and
    accumulation are float32 for all input types but float64, for which they are float64. A pure function,
    differentiable in every tensor.

    Arguments
    ---------
    x : Tensor
        Input, (batch, time, heads, head channels).
    delta : Tensor
        Step, (batch, time, heads).
    A : Tensor
        Rate of each head, usually negative, (heads,).
    B, C : Tensor
        Input and output maps, (batch, time, groups, state). Each serves ``heads // groups`` successive heads.
    D : Tensor, optional
        Skip connection, (heads,) or (heads, head channels).
    z : Tensor, optional
        Gate before its SiLU, like ``x``.
    delta_bias : Tensor, optional
        Added to ``delta``, (heads,).
    delta_softplus : bool
        Whether ``delta`` (plus bias) goes through a softplus.
    dt_limit : tuple of float
        Smallest and largest step; steps beyond are clamped.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,). Frames past the length give zeros and get no gradient, even if
        they hold NaN.
    reverse : bool
        Scan backwards in time, from each example's own last valid frame.
    initial_state : Tensor, optional
        State before the first frame in the scan's order, (batch, heads, head channels, state).
    return_last_state : bool
        Whether to return the state after each example's last frame in the scan's order too.
    chunk_size : int, optional
        A hint: frames of a chunk for backends that compute by chunks, which choose it themselves by default and have a
        largest one. It changes speed and memory, not the result.

    Returns
    -------
    Tensor
        Output, shape and dtype of ``x``; and with ``return_last_state`` the state (batch, heads, head channels, state),
        float32.

    Raises
    ------
    ValueError
        For shapes that do not fit, lengths out of range, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> x, delta, A = torch.randn(2, 10, 6, 4), torch.randn(2, 10, 6), -torch.rand(6)
    >>> B, C = torch.randn(2, 2, 10, 3, 5)
    >>> y, state = ssd(x, delta, A, B, C, delta_softplus=True, return_last_state=True)
    >>> y.shape, state.shape
    (torch.Size([2, 10, 6, 4]), torch.Size([2, 6, 4, 5]))
    """
    op = "ssd"
    shape = _check(op, "batch, time", x, delta, A, B, C, D, z, delta_bias, dt_limit)
    lengths = check_lengths(op, lengths, x.shape[0], x.shape[1], x.device)
    check_shape(op, "initial_state", initial_state, "(batch, heads, head channels, state)", shape)
    _check_chunk_size(op, chunk_size)
    others = (delta, A, B, C, D, z, delta_bias, initial_state)
    continues = initial_state is not None
    backend = select_backend(Call(op, x, others, states=shape[-1], continues=continues, head=shape[-2]))
    with torch.autocast(x.device.type, enabled=False):
        return backend.ssd(
            x, delta, A, B, C, D, z, delta_bias, delta_softplus, dt_limit, lengths=lengths, reverse=reverse,
            initial_state=initial_state, return_last_state=return_last_state, chunk_size=chunk_size,
        )  # fmt: skip


def bidirectional_ssd(
    forward: SsdInputs,
    reverse: SsdInputs,
    z: Tensor | None = None,
    delta_softplus: bool = False,
    dt_limit: tuple[float, float] = NO_LIMIT,
    *,
    lengths: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Scan forwards and backwards in time by Mamba-2, and average both.

    .. math::

        y_t = \tfrac{1}{2} (\overrightarrow{y}_t + \overleftarrow{y}_t)\, \mathrm{silu}(z_t)

    where each direction is an :func:`ssd` with its own inputs, and only the gate is shared. It is to :func:`ssd` what
    :func:`bidirectional_selective_scan` is to :func:`selective_scan` (Jiang et al., arXiv 2407.09732, figure 2).

    Arguments
    ---------
    forward, reverse : SsdInputs
        Inputs and parameters of each direction, as in :func:`ssd`, of the same shapes.
    z : Tensor, optional
        Gate before its SiLU, (batch, time, heads, head channels).
    delta_softplus, dt_limit, chunk_size
        As in :func:`ssd`.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,), as in :func:`ssd`.

    Returns
    -------
    Tensor
        Output, shape and dtype of ``x``.

    Raises
    ------
    ValueError
        For shapes that do not fit, lengths out of range, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit, or anything but ``SsdInputs``.

    Example
    -------
    >>> x, delta, B, C = torch.randn(2, 9, 6, 4), torch.rand(2, 9, 6), torch.randn(2, 9, 3, 5), torch.randn(2, 9, 3, 5)
    >>> inputs = SsdInputs(x, delta, -torch.rand(6), B, C)
    >>> bidirectional_ssd(inputs, inputs, z=torch.randn(2, 9, 6, 4)).shape
    torch.Size([2, 9, 6, 4])
    """
    op, x = "bidirectional_ssd", forward.x
    check_directions(op, SsdInputs, forward, reverse)
    inputs = forward[:5]
    shape = _check(op, "batch, time", *inputs, forward.D, z, forward.delta_bias, dt_limit)
    lengths = check_lengths(op, lengths, x.shape[0], x.shape[1], x.device)
    _check_chunk_size(op, chunk_size)
    backend = select_backend(Call(op, x, (*forward[1:], *reverse, z), states=shape[-1], head=shape[-2]))
    with torch.autocast(x.device.type, enabled=False):
        return run_both_ways(backend, forward, reverse, z, delta_softplus, dt_limit, lengths, chunk_size)


def run_both_ways(
    backend: ModuleType,
    forward: SsdInputs,
    reverse: SsdInputs,
    z: Tensor | None,
    delta_softplus: bool,
    dt_limit: tuple[float, float],
    lengths: Tensor | None,
    chunk_size: int | None = None,
) -> Tensor:
    """Both directions with a backend, at once if it can."""
    fused = getattr(backend, "bidirectional_ssd", None)
    if fused:
        return fused(forward, reverse, z, delta_softplus, dt_limit, lengths, chunk_size)

    def one(direction: SsdInputs, backwards: bool) -> Tensor:
        *inputs, D, delta_bias = direction
        arguments = (*inputs, D, z, delta_bias, delta_softplus, dt_limit)
        return cast(Tensor, backend.ssd(*arguments, lengths=lengths, reverse=backwards, chunk_size=chunk_size))

    return 0.5 * (one(forward, False) + one(reverse, True))


def ssd_update(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    dt_limit: tuple[float, float] = NO_LIMIT,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`ssd`, for decoding and streaming. Nothing is changed in place.

    Arguments
    ---------
    state : Tensor
        State before the step, (batch, heads, head channels, state).
    x : Tensor
        Input, (batch, heads, head channels).
    delta : Tensor
        Step, (batch, heads).
    A : Tensor
        Rate of each head, (heads,).
    B, C : Tensor
        Input and output maps, (batch, groups, state).
    D, z, delta_bias, delta_softplus, dt_limit
        As in :func:`ssd`; ``z`` is like ``x``.

    Returns
    -------
    y : Tensor
        Output, shape and dtype of ``x``.
    state : Tensor
        State after the step, like ``state``, float32 (float64 for float64 inputs).

    Raises
    ------
    ValueError
        For shapes that do not fit, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> state, x, delta = torch.zeros(2, 6, 4, 5), torch.randn(2, 6, 4), torch.rand(2, 6)
    >>> B, C = torch.randn(2, 2, 3, 5)
    >>> y, state = ssd_update(state, x, delta, -torch.rand(6), B, C)
    >>> y.shape, state.shape
    (torch.Size([2, 6, 4]), torch.Size([2, 6, 4, 5]))
    """
    op = "ssd_update"
    shape = _check(op, "batch", x, delta, A, B, C, D, z, delta_bias, dt_limit)
    check_shape(op, "state", state, "(batch, heads, head channels, state)", shape)
    backend = select_backend(Call(op, x, (state, delta, A, B, C, D, z, delta_bias), states=shape[-1], head=shape[-2]))
    with torch.autocast(x.device.type, enabled=False):
        return backend.ssd_update(state, x, delta, A, B, C, D, z, delta_bias, delta_softplus, dt_limit)

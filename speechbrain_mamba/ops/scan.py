"""The selective scan of Mamba: a state space recurrence whose step, input and output maps depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.checks import check_dims, check_directions, check_lengths, check_shape
from speechbrain_mamba.ops.directions import ScanInputs
from speechbrain_mamba.ops.registry import Call, select_backend
from speechbrain_mamba.ops.scan_maps import check_map, count_groups, map_of_group, of_group, scan_with_maps


def _check(op: str, inputs: ScanInputs, z: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """Check the arguments of a scan named ``op`` but B and C; returns the lengths on the inputs' device."""
    u, delta, A, _, _, D, delta_bias = inputs
    check_dims(op, "u", u, "(batch, time, channels)")
    _check_state_matrix(op, A)
    batch, time, channels = u.shape
    check_shape(op, "delta", delta, "(batch, time, channels)", (batch, time, channels))
    check_shape(op, "A", A, "(channels, state)", (channels, A.shape[1]))
    check_shape(op, "D", D, "(channels,)", (channels,))
    check_shape(op, "z", z, "(batch, time, channels)", (batch, time, channels))
    check_shape(op, "delta_bias", delta_bias, "(channels,)", (channels,))
    return check_lengths(op, lengths, batch, time, u.device)


def _check_state_matrix(op: str, A: Tensor) -> None:
    if A.is_complex():
        raise TypeError(f"{op}: A is complex ({A.dtype}), but only real A is served: give a floating-point type.")
    check_dims(op, "A", A, "(channels, state)")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Scan a sequence by a selective state space model (Gu and Dao, "Mamba", arXiv 2312.00752, section 3.2).

    With :math:`\Delta_t` the step (after bias and softplus), for each channel and state

    .. math::

        h_t = \exp(\Delta_t A)\, h_{t-1} + \Delta_t B_t u_t, \qquad y_t = (C_t \cdot h_t + D u_t)\, \mathrm{silu}(z_t)

    State and accumulation are float32 for all input types but float64, for which they are float64. A pure function,
    differentiable in every tensor.

    Arguments
    ---------
    u, delta : Tensor
        Input and step, (batch, time, channels).
    A : Tensor
        State matrix, diagonal, usually negative, (channels, state).
    B, C : Tensor
        Input and output maps, (batch, time, state). With groups, (batch, time, groups, state), each serves
        ``channels // groups`` successive channels. Constant over time, (channels, state), is exact too, but takes a
        scan per state.
    D : Tensor, optional
        Skip connection, (channels,).
    z : Tensor, optional
        Gate before its SiLU, (batch, time, channels).
    delta_bias : Tensor, optional
        Added to ``delta``, (channels,).
    delta_softplus : bool
        Whether ``delta`` (plus bias) goes through a softplus.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,). Frames past the length give zeros and get no gradient, even if
        they hold NaN.
    reverse : bool
        Scan backwards in time, from each example's own last valid frame.
    initial_state : Tensor, optional
        State before the first frame in the scan's order, (batch, channels, state).
    return_last_state : bool
        Whether to return the state after each example's last frame in the scan's order too.

    Returns
    -------
    Tensor
        Output (batch, time, channels), dtype of ``u``; and with ``return_last_state`` the state (batch, channels,
        state), float32.

    Raises
    ------
    ValueError
        For shapes that do not fit, lengths out of range, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> u, delta, z = torch.randn(3, 2, 10, 8).unbind()
    >>> A, B, C = -torch.rand(8, 4), torch.randn(2, 10, 4), torch.randn(2, 10, 4)
    >>> y, state = selective_scan(u, delta, A, B, C, z=z, delta_softplus=True, return_last_state=True)
    >>> y.shape, state.shape
    (torch.Size([2, 10, 8]), torch.Size([2, 8, 4]))
    """
    op = "selective_scan"
    inputs = ScanInputs(u, delta, A, B, C, D, delta_bias)
    lengths = _check(op, inputs, z, lengths)
    (batch, _, channels), state = u.shape, A.shape[1]
    check_shape(op, "initial_state", initial_state, "(batch, channels, state)", (batch, channels, state))
    check_map(op, "B", B, u, state)
    check_map(op, "C", C, u, state)
    if B.dim() != 3 or C.dim() != 3:
        y, last_state = scan_with_maps(
            selective_scan, inputs, z, delta_softplus, initial_state, lengths=lengths, reverse=reverse
        )
        return (y, last_state) if return_last_state else y
    continues = initial_state is not None
    others = (delta, A, B, C, D, delta_bias, z, initial_state)  # torch 2.8 does not compile inputs[1:]
    backend = select_backend(Call(op, u, others, states=state, continues=continues))
    with torch.autocast(u.device.type, enabled=False):
        return backend.selective_scan(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, lengths=lengths, reverse=reverse,
            initial_state=initial_state, return_last_state=return_last_state,
        )  # fmt: skip


def selective_state_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`selective_scan`, for decoding and streaming. Nothing is changed in place.

    Arguments
    ---------
    state : Tensor
        State before the step, (batch, channels, state).
    u, delta : Tensor
        Input and step, (batch, channels).
    A : Tensor
        State matrix, (channels, state).
    B, C : Tensor
        Input and output maps, (batch, state), or with groups of channels (batch, groups, state).
    D, z, delta_bias, delta_softplus
        As in :func:`selective_scan`; ``z`` is (batch, channels).

    Returns
    -------
    y : Tensor
        Output (batch, channels), dtype of ``u``.
    state : Tensor
        State after the step, (batch, channels, state), float32 (float64 for float64 inputs).

    Raises
    ------
    ValueError
        For shapes that do not fit, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> state, A = torch.zeros(2, 8, 4), -torch.rand(8, 4)
    >>> u, delta, B, C = torch.randn(2, 8), torch.rand(2, 8), torch.randn(2, 4), torch.randn(2, 4)
    >>> y, state = selective_state_update(state, u, delta, A, B, C)
    >>> y.shape
    torch.Size([2, 8])
    """
    op = "selective_state_update"
    check_dims(op, "u", u, "(batch, channels)")
    _check_state_matrix(op, A)
    (batch, channels), states = u.shape, A.shape[1]
    check_shape(op, "state", state, "(batch, channels, state)", (batch, channels, states))
    check_shape(op, "delta", delta, "(batch, channels)", (batch, channels))
    check_shape(op, "A", A, "(channels, state)", (channels, states))
    check_map(op, "B", B, u, states, constants=False)
    check_map(op, "C", C, u, states, constants=False)
    check_shape(op, "D", D, "(channels,)", (channels,))
    check_shape(op, "z", z, "(batch, channels)", (batch, channels))
    check_shape(op, "delta_bias", delta_bias, "(channels,)", (channels,))
    if B.dim() == 3 or C.dim() == 3:
        return _update_groups(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    backend = select_backend(Call(op, u, (state, delta, A, B, C, D, z, delta_bias), states=states))
    with torch.autocast(u.device.type, enabled=False):
        return backend.selective_state_update(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus)


def _update_groups(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """One step with maps in groups of channels: a step of each group."""
    groups = count_groups("selective_state_update", B, C, 3)
    steps = []
    for group in range(groups):
        state_, u_, delta_, z_ = (of_group(t, group, groups, 1) for t in (state, u, delta, z))
        A_, D_, bias_ = (of_group(t, group, groups, 0) for t in (A, D, delta_bias))
        B_, C_ = (map_of_group(t, group, groups, 3) for t in (B, C))
        steps.append(selective_state_update(state_, u_, delta_, A_, B_, C_, D_, z_, bias_, softplus))  # type: ignore[arg-type]
    y, states = zip(*steps)
    return torch.cat(y, 1), torch.cat(states, 1)


def bidirectional_selective_scan(
    forward: ScanInputs,
    reverse: ScanInputs,
    z: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    lengths: Tensor | None = None,
) -> Tensor:
    r"""Scan forwards and backwards in time and average both (Jiang et al., arXiv 2407.09732, figure 2).

    .. math::

        y_t = \tfrac{1}{2} (\overrightarrow{y}_t + \overleftarrow{y}_t)\, \mathrm{silu}(z_t)

    where each direction is a :func:`selective_scan` with its own inputs, and only the gate is shared.

    Arguments
    ---------
    forward, reverse : ScanInputs
        Inputs and parameters of each direction, as in :func:`selective_scan`, of the same shapes.
    z : Tensor, optional
        Gate before its SiLU, (batch, time, channels).
    delta_softplus : bool
        Whether ``delta`` (plus bias) goes through a softplus.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,), as in :func:`selective_scan`.

    Returns
    -------
    Tensor
        Output (batch, time, channels), dtype of ``u``.

    Raises
    ------
    ValueError
        For shapes that do not fit, lengths out of range, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit, or anything but ``ScanInputs``.

    Example
    -------
    >>> u, delta, B, C = torch.randn(3, 9, 8), torch.rand(3, 9, 8), torch.randn(3, 9, 4), torch.randn(3, 9, 4)
    >>> inputs = ScanInputs(u, delta, -torch.rand(8, 4), B, C)
    >>> bidirectional_selective_scan(inputs, inputs, z=torch.randn(3, 9, 8)).shape
    torch.Size([3, 9, 8])
    """
    op = "bidirectional_selective_scan"
    check_directions(op, ScanInputs, forward, reverse)
    lengths = _check(op, forward, z, lengths)
    batch, time, states = *forward.u.shape[:2], forward.A.shape[1]
    check_shape(op, "B", forward.B, "(batch, time, state)", (batch, time, states))
    check_shape(op, "C", forward.C, "(batch, time, state)", (batch, time, states))
    backend = select_backend(Call(op, forward.u, (*forward, *reverse, z), states=forward.A.shape[1]))
    with torch.autocast(forward.u.device.type, enabled=False):
        return backend.bidirectional_selective_scan(forward, reverse, z, delta_softplus, lengths)

"""One step of a Mamba layer between its projections in and out, as one operation.

A step multiplies each weight with a single vector per example, so that what stands between the products shows: some
backends fuse it, with the parameters packed before.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_mamba.ops.checks import check_dims, check_shape
from speechbrain_mamba.ops.directions import Direction
from speechbrain_mamba.ops.layer import check_parameters, scan_arguments
from speechbrain_mamba.ops.registry import Call, chosen_backend, is_plain_call, load_backend, select_backend
from speechbrain_mamba.ops.torch_ops import asks_for_gradient

_OP = "mamba_inner_update"
_PACKED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of inputs that packed parameters, which are float32, can serve."""


class PackedStep(NamedTuple):
    """Parameters of a layer, packed for many steps by :func:`pack_step`: a copy, which does not follow changes."""

    direction: Direction
    """The parameters themselves."""
    backend: ModuleType
    """The backend that they are packed for."""
    packed: Tensor | None
    """What it takes, None if it takes the parameters as they are."""


def pack_step(direction: Direction) -> PackedStep:
    """Pack the parameters of a layer for the backend that serves them, for :func:`mamba_inner_update`.

    Arguments
    ---------
    direction : Direction
        Parameters of the layer.

    Returns
    -------
    PackedStep
        The parameters, packed where the backend has a form of its own.

    Raises
    ------
    ValueError, TypeError
        As in :func:`mamba_inner_update`.
    """
    _, state, rank, width = check_parameters(_OP, direction)
    call = Call(_OP, direction.x_proj_weight, tuple(direction), states=state, width=width, rank=rank)
    backend = select_backend(call)
    pack = getattr(backend, "pack_step", None)
    return PackedStep(direction, backend, None if pack is None else pack(direction))


def mamba_inner_update(
    xz: Tensor, conv_state: Tensor, ssm_state: Tensor, direction: Direction | PackedStep
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One step of a Mamba layer without its projections in and out (Gu and Dao, arXiv 2312.00752, figure 3).

    With :math:`x, z` the halves of ``xz``, :math:`u = \mathrm{silu}(\mathrm{conv}(x))` goes through
    :func:`~speechbrain_mamba.ops.selective_state_update`, whose step, B and C are projections of it, and whose gate is
    z. Nothing is changed in place; differentiable in every tensor.

    Arguments
    ---------
    xz : Tensor
        Output of the input projection, (batch, 2 * channels).
    conv_state : Tensor
        Last inputs of the convolution, (batch, channels, width - 1).
    ssm_state : Tensor
        State of the scan before the step, (batch, channels, state).
    direction : Direction or PackedStep
        Parameters of the layer; packed by :func:`pack_step`, they are faster where no gradient is asked for.

    Returns
    -------
    y : Tensor
        Output before the output projection, (batch, channels), dtype of ``xz``.
    conv_state : Tensor
        Last inputs after the step, of the shape and dtype of those given.
    ssm_state : Tensor
        State after the step, (batch, channels, state), float32 (float64 for float64 inputs).

    Raises
    ------
    ValueError
        For shapes that do not fit, or a backend that cannot serve the call.
    TypeError
        For anything but a ``Direction`` or ``PackedStep``.

    Example
    -------
    >>> channels, state, dt_rank = 8, 4, 2
    >>> direction = Direction(
    ...     conv_weight=torch.rand(channels, 4), conv_bias=None,
    ...     x_proj_weight=torch.rand(dt_rank + 2 * state, channels), dt_proj_weight=torch.rand(channels, dt_rank),
    ...     delta_bias=torch.zeros(channels), A=-torch.ones(channels, state), D=torch.ones(channels),
    ... )
    >>> states = torch.zeros(3, channels, 3), torch.zeros(3, channels, state)
    >>> y, *states = mamba_inner_update(torch.randn(3, 2 * channels), *states, direction)
    >>> y.shape
    torch.Size([3, 8])
    """
    check_dims(_OP, "xz", xz, "(batch, 2 * channels)")
    if isinstance(direction, PackedStep):
        if _serves(direction, xz, conv_state, ssm_state):
            (channels, state), width = direction.direction.A.shape, direction.direction.conv_weight.shape[1]
            _check_inputs(xz, conv_state, ssm_state, channels, state, width)
            rank = direction.direction.dt_proj_weight.shape[1]
            return direction.backend.packed_step(xz, conv_state, ssm_state, direction.packed, rank)
        direction = direction.direction
    if not isinstance(direction, Direction):
        raise TypeError(f"{_OP}: direction is a {type(direction).__name__}, but must be a Direction or PackedStep.")
    channels, state, rank, width = check_parameters(_OP, direction)
    _check_inputs(xz, conv_state, ssm_state, channels, state, width)
    tensors = (conv_state, ssm_state, *direction)
    backend = select_backend(Call(_OP, xz, tensors, states=state, width=width, rank=rank))
    with torch.autocast(xz.device.type, enabled=False):
        return compose_step(backend, xz, conv_state, ssm_state, direction)


def _serves(parameters: PackedStep, xz: Tensor, conv_state: Tensor, ssm_state: Tensor) -> bool:
    """Whether packed parameters can serve a call: that of plain tensors, without anything that has to see the operation
    as one of torch's."""
    if parameters.packed is None or not is_plain_call(xz, conv_state, ssm_state):
        return False
    if torch.is_grad_enabled() and asks_for_gradient(*parameters.direction):
        return False
    chosen = chosen_backend()
    if chosen != "auto" and load_backend(chosen) is not parameters.backend:
        return False
    device = parameters.packed.device
    return (
        xz.device == conv_state.device == ssm_state.device == device
        and xz.dtype in _PACKED_DTYPES and conv_state.dtype in _PACKED_DTYPES and ssm_state.dtype == torch.float32
    )  # fmt: skip


def _check_inputs(xz: Tensor, conv_state: Tensor, ssm_state: Tensor, channels: int, state: int, width: int) -> None:
    """Check what changes from step to step."""
    batch = xz.shape[0]
    check_shape(_OP, "xz", xz, "(batch, 2 * channels)", (batch, 2 * channels))
    check_shape(_OP, "conv_state", conv_state, "(batch, channels, width - 1)", (batch, channels, width - 1))
    check_shape(_OP, "ssm_state", ssm_state, "(batch, channels, state)", (batch, channels, state))


def compose_step(
    backend: ModuleType, xz: Tensor, conv_state: Tensor, ssm_state: Tensor, direction: Direction
) -> tuple[Tensor, Tensor, Tensor]:
    """A step from a backend's own steps of convolution and scan."""
    x, z = xz.chunk(2, dim=-1)
    u, conv_state = backend.causal_conv1d_update(x, conv_state, *direction.filters, "silu")
    u, delta, A, B, C, D, delta_bias = scan_arguments(u, direction)
    y, ssm_state = backend.selective_state_update(ssm_state, u, delta, A, B, C, D, z, delta_bias, True)
    return y, conv_state, ssm_state


def run_step(
    backend: ModuleType, xz: Tensor, conv_state: Tensor, ssm_state: Tensor, direction: Direction
) -> tuple[Tensor, Tensor, Tensor]:
    """A step with a backend, with packed parameters if it takes them."""
    pack = getattr(backend, "pack_step", None)
    if pack is None:
        return compose_step(backend, xz, conv_state, ssm_state, direction)
    return backend.packed_step(xz, conv_state, ssm_state, pack(direction), direction.dt_proj_weight.shape[1])

"""The functions of ``mamba_ssm.ops.selective_scan_interface``, on our operations.

Tensors over time are (batch, channels, time), as there.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.drop_in.norms import rms_norm_fn
from speechbrain_mamba.ops import causal_conv1d, selective_scan, use_backend


def frames_first(t: Tensor) -> Tensor:
    """Frames (..., channels, time) as (..., time, channels), or back.

    Example
    -------
    >>> frames_first(torch.zeros(2, 8, 10)).shape
    torch.Size([2, 10, 8])
    """
    return t.transpose(-1, -2)


def map_over_time(t: Tensor) -> Tensor:
    """A map B or C as our scan takes it: (batch, state, time), (batch, groups, state, time) or (channels, state)."""
    if t.dim() == 4:
        return t.permute(0, 3, 1, 2)
    return frames_first(t) if t.dim() == 3 else t


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan of mamba-ssm; see :func:`speechbrain_mamba.ops.selective_scan`.

    Arguments
    ---------
    u, delta, z : Tensor
        Input, step and gate, (batch, channels, time).
    A : Tensor
        State matrix, real, (channels, state).
    B, C : Tensor
        Maps, (batch, state, time), (batch, groups, state, time) or constant over time, (channels, state).
    D, delta_bias : Tensor
        Skip connection and what is added to the step, (channels,).
    delta_softplus, return_last_state : bool
        As in our scan. The last state has a gradient here; in mamba-ssm it has none.

    Returns
    -------
    Tensor
        Output (batch, channels, time), and with ``return_last_state`` the state (batch, channels, state).

    Example
    -------
    >>> u, delta = torch.randn(2, 1, 8, 10).unbind()
    >>> selective_scan_fn(u, delta, -torch.rand(8, 4), torch.randn(1, 4, 10), torch.randn(8, 4)).shape
    torch.Size([1, 8, 10])
    """
    y, last_state = selective_scan(
        frames_first(u), frames_first(delta), A, map_over_time(B), map_over_time(C), D,
        None if z is None else frames_first(z), delta_bias, bool(delta_softplus), return_last_state=True,
    )  # fmt: skip
    y = frames_first(y)
    return (y, last_state) if return_last_state else y


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`selective_scan_fn` by our reference backend, frame after frame."""
    with use_backend("reference"):
        return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """A Mamba layer after its input projection, (batch, 2 * channels, time) to (batch, time, d_model).

    Arguments are those of mamba-ssm. ``checkpoint_lvl`` chooses there what the backward pass computes again, which
    changes no value; it is checked and has no other effect here. Other than there, the RMS norms of B, C and the step
    are differentiated.

    Example
    -------
    >>> xz, conv, project = torch.randn(1, 16, 10), torch.randn(8, 1, 4), torch.randn(2 + 2 * 3, 8)
    >>> mamba_inner_fn(xz, conv, None, project, torch.rand(8, 2), torch.rand(5, 8), None, -torch.rand(8, 3)).shape
    torch.Size([1, 10, 5])
    """
    if checkpoint_lvl not in (0, 1):
        raise ValueError(f"mamba_inner_fn: checkpoint_lvl is {checkpoint_lvl}, but must be 0 or 1.")
    x, z = frames_first(xz).chunk(2, dim=-1)
    u = cast(Tensor, causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias, "silu"))
    states, rank = A.shape[-1], delta_proj_weight.shape[1]
    projected = F.linear(u, x_proj_weight)
    delta = F.linear(projected[..., :rank], delta_proj_weight)
    if B is None:
        B = projected[..., rank : rank + states]
        B = B if B_proj_bias is None else B + B_proj_bias.to(B.dtype)
        B = B if b_rms_weight is None else _norm(B, b_rms_weight, b_c_dt_rms_eps)
    else:
        B = map_over_time(B)
    if C is None:
        C = projected[..., -states:]
        C = C if C_proj_bias is None else C + C_proj_bias.to(C.dtype)
        C = C if c_rms_weight is None else _norm(C, c_rms_weight, b_c_dt_rms_eps)
    else:
        C = map_over_time(C)
    if dt_rms_weight is not None:
        delta = _norm(delta, dt_rms_weight, b_c_dt_rms_eps)
    y = cast(Tensor, selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus))
    return F.linear(y, *_as_product(y, out_proj_weight, out_proj_bias))


def _norm(t: Tensor, weight: Tensor, eps: float) -> Tensor:
    return cast(Tensor, rms_norm_fn(t, weight, None, eps=eps))


def _as_product(y: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a projection in the type that it is computed in: autocast's, or their own."""
    if torch.is_autocast_enabled(y.device.type) or weight.dtype == y.dtype:
        return weight, bias
    return weight.to(y.dtype), None if bias is None else bias.to(y.dtype)


def mamba_inner_ref(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """:func:`mamba_inner_fn` by our reference backend, frame after frame."""
    with use_backend("reference"):
        return mamba_inner_fn(
            xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B, C,
            D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus,
        )  # fmt: skip

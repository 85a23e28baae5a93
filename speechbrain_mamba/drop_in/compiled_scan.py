"""The compiled module ``selective_scan_cuda`` of mamba-ssm 1.0 to 2.3, for copies of its interface file.

Arguments are positional, as in the extension. Tensors over time are (batch, channels, time).
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.drop_in.selective_scan import selective_scan_fn

CHUNK = 2048
"""Frames of a chunk of the extension, which decides on the shape of its third tensor."""


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


@torch.no_grad()
def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """The scan.

    Arguments
    ---------
    u, delta, A, B, C, D, z, delta_bias, delta_softplus
        As in :func:`speechbrain_mamba.drop_in.selective_scan.selective_scan_fn`.

    Returns
    -------
    list of Tensor
        The output before the gate; a tensor (batch, channels, chunks, 2 * state) whose ``[:, :, -1, 1::2]`` is the
        last state and whose other values are zero; and with ``z`` the gated output.

    Example
    -------
    >>> u, delta = torch.randn(2, 1, 8, 10).unbind()
    >>> B, C = torch.randn(2, 1, 1, 4, 10)
    >>> out, x = fwd(u, delta, -torch.rand(8, 4), B, C, None, None, None, True)
    >>> out.shape, x.shape
    (torch.Size([1, 8, 10]), torch.Size([1, 8, 1, 8]))
    """
    out, last_state = selective_scan_fn(u, delta, A, B, C, D, None, delta_bias, delta_softplus, True)
    x = last_state.new_zeros(*last_state.shape[:2], math.ceil(u.shape[2] / CHUNK), 2 * A.shape[1])
    x[:, :, -1:, 1::2] = last_state[:, :, None]
    return [out, x] if z is None else [out, x, _gate(out, z)]


def _gate(out: Tensor, z: Tensor) -> Tensor:
    return (_wide(out) * F.silu(_wide(z))).to(out.dtype)


def bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None,
    out: Tensor | None,
    dz: Tensor | None,
    delta_softplus: bool,
    recompute_out_z: bool,
) -> list[Tensor | None]:
    """The gradients of the scan, which is run again for them: ``x`` is not needed.

    Arguments
    ---------
    u, delta, A, B, C, D, z, delta_bias, delta_softplus
        As in :func:`fwd`.
    dout : Tensor
        Gradient of the output, gated if there is a gate.
    x, out : Tensor
        The second and the first output of :func:`fwd`; ``out`` only with ``z``.
    dz : Tensor, optional
        Memory that the gradient of ``z`` is written to.
    recompute_out_z : bool
        Whether to return the gated output too.

    Returns
    -------
    list of Tensor
        Gradients of ``u``, ``delta``, ``A``, ``B``, ``C``, ``D``, ``delta_bias`` (None where there is none), with ``z``
        its gradient, and the gated output if it is asked for.
    """
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}
    with torch.enable_grad():
        leaves = {name: t.detach().requires_grad_() for name, t in given.items() if t is not None}
        y = cast(Tensor, selective_scan_fn(**leaves, delta_softplus=delta_softplus))  # type: ignore[arg-type]
    gated = []
    if z is not None:
        gate = _wide(z)
        sigmoid = gate.sigmoid()
        before = _wide(y.detach() if out is None else out)
        found = (_wide(dout) * before * sigmoid * (1 + gate * (1 - sigmoid))).to(z.dtype)
        gated.append(found if dz is None else dz.copy_(found))
        dout = (_wide(dout) * gate * sigmoid).to(y.dtype)
    gradients = dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), dout.to(y.dtype))))
    if recompute_out_z:
        gated.append(_gate(y.detach(), cast(Tensor, z)))
    return [*(gradients.get(name) for name in given), *gated]

"""The scan of Mamba-2 on the native kernels, which is that of Mamba with one rate and one step for all of a head.

Forward only: gradients are those of the backend ``chunked``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import approximate, parameter, pointer, readable, sequence
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.backends.cpu.scan_kernel import NO_DIRECTION
from speechbrain_mamba.ops.directions import SsdInputs
from speechbrain_mamba.ops.kernel_backend import SsdShared, ssd_outputs


def _channels(tensor: Tensor) -> Tensor:
    """A sequence (batch, time, heads, head channels) as (batch, time, channels)."""
    return readable(tensor.flatten(2))


def _by_channel(tensor: Tensor | None, heads: int, size: int) -> Tensor | None:
    """A parameter (heads,) or (heads, head channels) as one of the channels."""
    if tensor is None:
        return None
    wide = tensor if tensor.dim() == 2 else tensor[:, None].expand(heads, size)
    return parameter(wide.reshape(-1))


def _scan_group(
    inputs: SsdInputs,
    shared: SsdShared,
    y: Tensor,
    last_state: Tensor | None,
    softplus: bool,
    reverse: bool,
    limits: Tensor | None,
) -> None:
    """Scan heads that share B and C (batch, time, 1, state); ``y`` (batch, time, channels) and ``last_state``, which is
    contiguous, are written."""
    x, delta, A, B, C, D, delta_bias = inputs
    batch, time, heads, size = x.shape
    u, z = _channels(x), None if shared.z is None else _channels(shared.z)
    delta, B, C = readable(delta), readable(B[:, :, 0]), readable(C[:, :, 0])
    A, D, bias = (_by_channel(t, heads, size) for t in (A, D, delta_bias))  # type: ignore[assignment]
    initial_state = parameter(shared.initial_state)
    fields = [batch, time, heads * size, B.shape[2], softplus, approximate(x), torch.get_num_threads(), 1]
    fields += [size, pointer(limits), pointer(shared.lengths), *sequence(z), *sequence(y)]
    for tensor in (u, delta, B, C):
        fields += sequence(tensor)
    fields += [0, 0, *(pointer(tensor) for tensor in (A, D, bias, initial_state, last_state)), 0, reverse]
    library().call("scan_forward", *fields, *NO_DIRECTION)


def ssd_forward(
    directions: Sequence[SsdInputs],
    shared: SsdShared,
    softplus: bool,
    reverse: bool,
    low: float,
    high: float,
    last_state: bool,
) -> tuple[Tensor, Tensor]:
    """Output and last state, which is empty unless asked for."""
    inputs, (z, initial_state, lengths) = directions[0], shared
    y, last = ssd_outputs(directions, last_state)
    heads, groups = inputs.x.shape[2], inputs.B.shape[2]
    limits = torch.tensor([low, high], dtype=torch.float32, device="cpu")
    flat = y.view(*y.shape[:2], heads * y.shape[3])
    size, lasts = heads // groups, []
    for group in range(groups):
        own = slice(group * size, (group + 1) * size)
        x, delta, A, B, C, D, bias = inputs
        part = SsdInputs(
            x[:, :, own], delta[:, :, own], A[own], B[:, :, group : group + 1], C[:, :, group : group + 1],
            None if D is None else D[own], None if bias is None else bias[own],
        )  # fmt: skip
        initial = None if initial_state is None else initial_state[:, own]
        gate = None if z is None else z[:, :, own]
        after = torch.empty_like(last[:, own], memory_format=torch.contiguous_format) if last_state else None
        columns = slice(group * size * x.shape[3], (group + 1) * size * x.shape[3])
        _scan_group(part, SsdShared(gate, initial, lengths), flat[..., columns], after, softplus, reverse, limits)
        lasts.append(after)
    return y, torch.cat(lasts, 1) if last_state else last  # type: ignore[arg-type]  # all are there

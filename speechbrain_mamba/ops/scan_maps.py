"""Selective scans whose maps B and C come in groups of channels or are constant over time, made of ordinary scans.

The kernels take maps that all channels share, (batch, time, state). Maps in groups are one scan per group. A map that
is constant over time has a weight for each channel and state: each state is scanned on its own, with a map of ones,
and weighted before (B) or after (C) the scan. Both are exact, and neither repeats a map for each channel in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from speechbrain_mamba.ops.checks import check_shape
from speechbrain_mamba.ops.directions import ScanInputs
from speechbrain_mamba.ops.lengths import mask_frames
from speechbrain_mamba.ops.registry import chosen_backend, use_backend
from speechbrain_mamba.ops.torch_ops import asks_for_gradient


def check_map(op: str, name: str, tensor: Tensor, u: Tensor, states: int, constants: bool = True) -> None:
    """Raise a ValueError unless B or C, called ``name``, fits an input ``u``, (batch, [time,] channels).

    Arguments
    ---------
    op : str
        The operation that was called.
    name : str
        Name of the map.
    tensor : Tensor
        The map: shared by the channels, in groups, or constant over time.
    u : Tensor
        The input.
    states : int
        States per channel.
    constants : bool
        Whether it may be constant over time.
    """
    *frames, channels = u.shape
    layout = "batch, time" if len(frames) == 2 else "batch"
    if constants and tensor.dim() == 2:
        check_shape(op, name, tensor, "(channels, state)", (channels, states))
    elif tensor.dim() == len(frames) + 2:
        groups = tensor.shape[-2]
        check_shape(op, name, tensor, f"({layout}, groups, state)", (*frames, groups, states))
        if groups == 0 or channels % groups:
            raise ValueError(f"{op}: {name} has {groups} groups, but {channels} channels must divide into them evenly.")
    else:
        check_shape(op, name, tensor, f"({layout}, state)", (*frames, states))


def count_groups(op: str, B: Tensor, C: Tensor, dims: int) -> int:
    """The number of groups of channels of two maps; one with ``dims`` axes has groups, others serve all channels."""
    counts = {name: t.shape[-2] for name, t in (("B", B), ("C", C)) if t.dim() == dims and t.shape[-2] > 1}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{op}: B has {counts['B']} groups and C has {counts['C']}, but they must have as many.")
    return max(counts.values(), default=1)


def of_group(tensor: Tensor | None, group: int, groups: int, axis: int) -> Tensor | None:
    """The channels of one group, along an axis."""
    return None if tensor is None else tensor.chunk(groups, axis)[group]


def map_of_group(tensor: Tensor, group: int, groups: int, dims: int) -> Tensor:
    """The map of one group: its own, its channels' weights, or the one of all groups."""
    if tensor.dim() == dims:
        return tensor[..., min(group, tensor.shape[-2] - 1), :]
    return tensor.chunk(groups)[group] if tensor.dim() == 2 and dims == 4 else tensor


def scan_with_maps(
    scan: Callable[..., Any],
    inputs: ScanInputs,
    z: Tensor | None,
    softplus: bool,
    initial_state: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Scan with any maps, by a scan that takes shared ones.

    Arguments
    ---------
    scan : callable
        :func:`speechbrain_mamba.ops.selective_scan`.
    inputs : ScanInputs
        Tensors of the scan; B and C are (batch, time, state), (batch, time, groups, state) or (channels, state).
    z, softplus, initial_state
        As in the scan.
    **options
        ``lengths`` and ``reverse``.

    Returns
    -------
    y, last_state : Tensor
        As the scan returns them.
    """
    u, delta, A, B, C, D, delta_bias = inputs
    groups = count_groups("selective_scan", B, C, 4)
    results = []
    for group in range(groups):
        (u_, delta_, z_), (A_, D_, bias_) = (
            [of_group(t, group, groups, axis) for t in tensors]
            for tensors, axis in (((u, delta, z), -1), ((A, D, delta_bias), 0))
        )
        B_, C_ = (map_of_group(t, group, groups, 4) for t in (B, C))
        state = of_group(initial_state, group, groups, 1)
        if B_.dim() == C_.dim() == 3:
            part = scan(u_, delta_, A_, B_, C_, D_, z_, bias_, softplus, initial_state=state,
                        return_last_state=True, **options)  # fmt: skip
        else:
            arguments = ScanInputs(u_, delta_, A_, B_, C_, D_, bias_)  # type: ignore[arg-type]
            part = _scan_constant(scan, arguments, z_, softplus, state, **options)
        results.append(part)
    y, last_state = zip(*results)
    return (y[0], last_state[0]) if groups == 1 else (torch.cat(y, -1), torch.cat(last_state, 1))


def _scan_constant(
    scan: Callable[..., Any],
    inputs: ScanInputs,
    z: Tensor | None,
    softplus: bool,
    initial_state: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Scan the states one by one, B or C being constant over time."""
    u, delta, A, B, C, D, delta_bias = inputs
    dtype, lengths = torch.promote_types(u.dtype, torch.float32), options["lengths"]
    u_wide = mask_frames(u, lengths).to(dtype)  # each state's output is rounded to the type of its input
    backend = chosen_backend()
    ones = u_wide.new_ones(1, 1, 1).expand(u.shape[0], u.shape[1], 1)

    def scan_state(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, bias: Tensor | None, state: Any) -> Any:
        weighted, read = B.dim() == 1, C.dim() == 1  # by the channels' weights
        with use_backend(backend):  # when it is computed again too
            y, last = scan(
                u * B.to(dtype) if weighted else u, delta, A, ones if weighted else B, ones if read else C, None, None,
                bias, softplus, initial_state=state, return_last_state=True, **options,
            )  # fmt: skip
        return (y * C.to(dtype) if read else y), last

    y, states = torch.zeros_like(u_wide), []
    for n in range(A.shape[1]):
        B_, C_ = (t[:, n] if t.dim() == 2 else t[..., n : n + 1] for t in (B, C))
        state = None if initial_state is None else initial_state[..., n : n + 1]
        arguments = (u_wide, delta, A[:, n : n + 1], B_, C_, delta_bias, state)
        if asks_for_gradient(*arguments):  # else each state would keep tensors of the input's size
            part, last = checkpoint(scan_state, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            part, last = scan_state(*arguments)
        y = y + part
        states.append(last)
    if D is not None:
        y = y + D.to(dtype) * u_wide
    if z is not None:
        y = y * F.silu(mask_frames(z, lengths).to(dtype))
    return mask_frames(y, lengths).to(u.dtype), torch.cat(states, -1)

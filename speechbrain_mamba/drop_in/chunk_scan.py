"""The functions of ``mamba_ssm.ops.triton.ssd_combined``, on our operations. Tensors are (batch, time, ...)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.drop_in.gated_norms import rmsnorm_fn
from speechbrain_mamba.ops import causal_conv1d, ssd
from speechbrain_mamba.ops.ssd import NO_LIMIT


class Packing(NamedTuple):
    """Where the sequences are that are packed into the examples of a batch."""

    lengths: Tensor
    """Frames of each sequence, (sequences,)."""
    frames: Tensor
    """The frames of each sequence among all of the batch, (sequences, longest)."""
    places: Tensor
    """The place of each frame of the batch among the padded frames of the sequences, (batch, time)."""
    last: Tensor
    """The last sequence of each example, (batch,)."""

    @classmethod
    def from_numbers(cls, seq_idx: Tensor) -> Packing:
        """Find the sequences by the number of the one that each frame belongs to, (batch, time).

        Example
        -------
        >>> Packing.from_numbers(torch.tensor([[0, 0, 1]])).lengths
        tensor([2, 1])
        """
        batch, time = seq_idx.shape
        begins = torch.ones_like(seq_idx, dtype=torch.bool)
        begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
        starts = begins.flatten().nonzero()[:, 0]
        lengths = torch.diff(starts, append=starts.new_tensor([batch * time]))
        longest = int(lengths.max())
        frames = (starts[:, None] + torch.arange(longest, device=starts.device)).clamp(max=batch * time - 1)
        sequence = begins.flatten().cumsum(0) - 1
        offsets = torch.arange(batch * time, device=starts.device) - starts[sequence]
        return cls(lengths, frames, (sequence * longest + offsets).view(batch, time), sequence.view(batch, time)[:, -1])

    def unpack(self, t: Tensor) -> Tensor:
        """The sequences of (batch, time, ...), padded, (sequences, longest, ...)."""
        return t.flatten(0, 1)[self.frames]

    def pack(self, t: Tensor) -> Tensor:
        """The inverse of :meth:`unpack`."""
        return t.flatten(0, 1)[self.places]


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = NO_LIMIT,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """The scan of Mamba-2; see :func:`speechbrain_mamba.ops.ssd`.

    Arguments
    ---------
    x, z : Tensor
        Input and gate, (batch, time, heads, head channels).
    dt : Tensor
        Step, (batch, time, heads).
    A, dt_bias : Tensor
        Rate of each head, and what is added to its step, (heads,).
    B, C : Tensor
        Maps, (batch, time, groups, state).
    chunk_size : int
        Frames of a chunk, a hint.
    D : Tensor, optional
        Skip connection, (heads,) or (heads, head channels).
    initial_states : Tensor, optional
        State before the first frame, (batch, heads, head channels, state); not with ``seq_idx``.
    seq_idx : Tensor, optional
        Which packed sequence each frame belongs to, integers (batch, time): the state is reset where it changes.
        Sequences are padded to the longest one for the scan.
    cu_seqlens : Tensor, optional
        Where the sequences of the only example begin, and where the last ends; for ``return_varlen_states``.
    dt_softplus, dt_limit
        As in our scan.
    return_final_states : bool
        Whether to return the state after the last frame.
    return_varlen_states : bool
        Whether to return the state after each sequence of ``cu_seqlens``, (sequences, heads, head channels, state).
    state_dtype : torch.dtype, optional
        The type of the returned states; float32 by default, in which they are kept.

    Returns
    -------
    Tensor
        Output like ``x``, and the states that are asked for.

    Example
    -------
    >>> x, dt, A = torch.randn(2, 10, 6, 4), torch.randn(2, 10, 6), -torch.rand(6)
    >>> B, C = torch.randn(2, 2, 10, 3, 5)
    >>> mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size=8, dt_softplus=True).shape
    torch.Size([2, 10, 6, 4])
    """
    op, limit = "mamba_chunk_scan_combined", (float(dt_limit[0]), float(dt_limit[1]))
    if return_varlen_states and (cu_seqlens is None or seq_idx is None or len(x) != 1):
        raise ValueError(f"{op}: return_varlen_states needs cu_seqlens and seq_idx, and one example.")
    states: list[Tensor] = []
    if seq_idx is None:
        y, final = ssd(
            x, dt, A, B, C, D, z, dt_bias, dt_softplus, limit, initial_state=initial_states, return_last_state=True,
            chunk_size=chunk_size,
        )  # fmt: skip
        states = [final]
    else:
        if initial_states is not None:
            raise ValueError(f"{op}: initial_states does not go with seq_idx: give one of them.")
        packing = Packing.from_numbers(seq_idx)
        x, dt, B, C = (packing.unpack(t) for t in (x, dt, B, C))
        z = None if z is None else packing.unpack(z)
        y, last = ssd(
            x, dt, A, B, C, D, z, dt_bias, dt_softplus, limit, lengths=packing.lengths, return_last_state=True,
            chunk_size=chunk_size,
        )  # fmt: skip
        y, states = packing.pack(y), [last[packing.last]]
        if return_varlen_states:
            ends = cast(Tensor, cu_seqlens)[1:].long() - 1
            states.append(last[packing.places[0, ends] // packing.frames.shape[1]])
    states = [t if state_dtype is None else t.to(state_dtype) for t in states[not return_final_states :]]
    return (y, *states) if states else y


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = NO_LIMIT,
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """A Mamba-2 layer after its input projection, (batch, time, features) to (batch, time, channels or d_model).

    Arguments are those of mamba-ssm: ``zxbcdt`` holds, in this order, a gated MLP (if features are left for one), the
    gate, the inputs of the convolution (x, B and C) and the steps; without ``rmsnorm_weight`` the gate is the scan's.

    Example
    -------
    >>> heads, headdim, state = 3, 4, 5
    >>> features = torch.randn(2, 10, 2 * heads * headdim + 2 * state + heads)
    >>> filters, rates, skip = torch.randn(heads * headdim + 2 * state, 4), -torch.rand(heads), torch.ones(heads)
    >>> mamba_split_conv1d_scan_combined(features, filters, None, torch.zeros(heads), rates, skip, 8, headdim=4).shape
    torch.Size([2, 10, 12])
    """
    op = "mamba_split_conv1d_scan_combined"
    if D.dim() == 2:
        headdim = D.shape[1]
    elif headdim is None:
        raise ValueError(f"{op}: headdim is missing: give the channels of a head, or D as (heads, head channels).")
    heads = len(D)
    channels = heads * headdim
    states = (conv1d_weight.shape[0] - channels) // ngroups // 2
    inputs = channels + 2 * ngroups * states
    mlp_width = zxbcdt.shape[-1] - channels - inputs - heads
    if mlp_width < 0 or mlp_width % 2:
        raise ValueError(
            f"{op}: zxbcdt has {zxbcdt.shape[-1]} features, but {heads} heads of {headdim} channels with {ngroups} "
            f"groups of {states} states take {channels + inputs + heads}, and a gated MLP an even number more."
        )
    mlp, z, convolved, dt = zxbcdt.split([mlp_width, channels, inputs, heads], dim=-1)
    convolved = cast(Tensor, causal_conv1d(convolved, conv1d_weight, conv1d_bias, activation, seq_idx=seq_idx))
    x, B, C = convolved.split([channels, ngroups * states, ngroups * states], dim=-1)
    gate = z.unflatten(-1, (heads, headdim)) if rmsnorm_weight is None else None
    B, C = (t.unflatten(-1, (ngroups, states)) for t in (B, C))
    y, final = mamba_chunk_scan_combined(
        x.unflatten(-1, (heads, headdim)), dt, A, B, C, chunk_size, D, gate, dt_bias, initial_states, seq_idx,
        dt_softplus=True, dt_limit=dt_limit, return_final_states=True, state_dtype=state_dtype,
    )  # fmt: skip
    y = y.flatten(-2)
    if rmsnorm_weight is not None:
        y = rmsnorm_fn(y, rmsnorm_weight, None, z, rmsnorm_eps, channels // ngroups, norm_before_gate)
    if mlp_width:
        first, second = mlp.chunk(2, dim=-1)
        y = torch.cat([F.silu(first) * second, y], dim=-1)
    if outproj_weight is not None:
        autocast = torch.is_autocast_enabled(y.device.type)
        y = F.linear(y if autocast else y.to(outproj_weight.dtype), outproj_weight, outproj_bias)
    return (y, final) if return_final_states else y

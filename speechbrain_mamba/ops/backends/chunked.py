"""The scan of Mamba-2 as matrix products within chunks of time, in PyTorch (arXiv 2405.21060, section 6).

Within a chunk, outputs are a masked product of C, B and the inputs; states pass from one chunk to the next. Chunks are
computed side by side in slabs of bounded memory. The forward pass keeps the state before each slab, and the backward
pass computes the rest of a slab again. All arithmetic is in float32, or float64 for float64 inputs.

The backend serves float64, and machines where no kernels can be used; ``cpu`` and ``triton`` take its operations as
their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.backends.reference import (
    accumulation_dtype,
    reorder,
    scan_order,
    ssd_update,
    step_size,
)
from speechbrain_mamba.ops.lengths import mask_frames
from speechbrain_mamba.ops.registry import Call
from speechbrain_mamba.ops.torch_ops import Layout, Operations, asks_for_gradient

__all__ = ["ssd", "ssd_update", "unavailable", "unsupported"]

CHUNKS = {"cpu": (32, 64), "cuda": (64, 256)}
"""Frames of a chunk on each type of device: by default, and at most, whatever the caller asks for. Longer chunks make
larger products of fewer states, and more decays."""
SLABS = {"cpu": 2**19, "cuda": 2**25}
"""Most elements of a slab's decays, (batch, chunks, heads, chunk, chunk), and states, (batch, chunks, heads, head
channels, state), on each type of device: 2 MiB in float32, about the cache of a core, and 128 MiB."""
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def unavailable() -> str | None:
    """Why this backend cannot be used here: None, as it always can."""
    return None


def unsupported(call: Call) -> str | None:
    """Why this backend cannot serve a call, None if it can."""
    if call.op not in ("ssd", "ssd_update"):
        return "it has only the scan of Mamba-2, ssd and ssd_update."
    device = call.tensor.device.type
    return call.wrong_tensor(device if device in CHUNKS else " or ".join(CHUNKS), DTYPES)


class Inputs(NamedTuple):
    """Tensors of the scan, in its order and without padding, or their gradients."""

    x: Tensor
    """(batch, time, heads, head channels)"""
    delta: Tensor
    """(batch, time, heads), the steps themselves"""
    A: Tensor
    """(heads,)"""
    B: Tensor
    """(batch, time, groups, state)"""
    C: Tensor
    """(batch, time, groups, state)"""
    D: Tensor | None = None
    """(heads,) or (heads, head channels)"""


class Shared(NamedTuple):
    """Gate and state, or their gradients."""

    z: Tensor | None = None
    """(batch, time, heads, head channels)"""
    initial_state: Tensor | None = None
    """(batch, heads, head channels, state)"""


def _plan(inputs: Inputs, chunk: int) -> tuple[int, int]:
    """Frames of a chunk and of a slab."""
    (batch, time, heads, channels), device = inputs.x.shape, inputs.x.device.type
    default, largest = CHUNKS[device]
    chunk = max(1, min(chunk or default, largest, time))
    elements = batch * heads * max(chunk * chunk, channels * inputs.B.shape[3])
    return chunk, chunk * max(1, SLABS[device] // max(1, elements))


class _Slab:
    """What the passes share of some chunks: n of them, of q frames i and j, g groups of r heads, p channels, s states.

    Frames are (batch, n, q, g, ...), padded to whole chunks by steps of length zero.
    """

    def __init__(self, inputs: Inputs, frames: slice, chunk: int):
        x, delta, A, B, C, _ = inputs
        self.dtype, self.chunk, self.groups = accumulation_dtype(x), chunk, B.shape[2]
        self.frames, self.time = frames, len(range(*frames.indices(x.shape[1])))
        self.x, self.delta = self.split(x, True), self.split(delta, True)
        self.B, self.C, self.A = self.split(B), self.split(C), A.to(self.dtype).view(self.groups, -1)
        self.u = self.x * self.delta[..., None]

        rates = self.delta * self.A
        ones = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device)
        earlier, self.not_later = ones.tril(-1), ones.tril()
        # Sums over frames j + 1 to i, each on its own: differences of sums from the start would lose precision.
        steps = rates.permute(0, 1, 3, 4, 2)[..., None, :].expand(*rates.shape[:2], *rates.shape[3:], chunk, chunk)
        sums = steps.masked_fill(self.not_later, 0).cumsum(-1)
        self.decays = sums.masked_fill_(earlier, -torch.inf).exp_()
        """From frame j to frame i of a chunk, (b, n, g, r, j, i)."""
        self.from_start = rates.cumsum(2).exp()
        """From the state before a chunk to frame i, (b, n, i, g, r)."""
        self.to_end = self.decays[..., -1].permute(0, 1, 4, 2, 3)
        """From frame j to the end of a chunk, (b, n, j, g, r)."""
        self.whole = self.from_start[:, :, -1, :, :, None, None]
        """Of a chunk, (b, n, g, r, 1, 1)."""
        scores = torch.einsum("bnjgs,bnigs->bngji", self.B, self.C)
        self.weights = self.decays * scores[:, :, :, None]

    def split(self, t: Tensor, by_head: bool = False) -> Tensor:
        """Cut the slab's frames out of (batch, time, groups or heads, ...), into chunks, and heads into groups."""
        t = t[:, self.frames].to(self.dtype)
        missing = -self.time % self.chunk
        if missing:
            t = F.pad(t, [0, 0] * (t.dim() - 2) + [0, missing])
        t = t.unflatten(1, (-1, self.chunk))
        return t.unflatten(3, (self.groups, -1)) if by_head else t

    def join(self, t: Tensor, by_head: bool = False) -> Tensor:
        """Put chunks together again, and groups of heads."""
        t = t.flatten(3, 4) if by_head else t
        return t.flatten(1, 2)[:, : self.time]

    def states(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The states before each chunk, (b, n, g, r, p, s), and after the last, from that before the first."""
        added = torch.einsum("bnjgrp,bnjgs->bngrps", self.u * self.to_end[..., None], self.B)
        before = torch.empty_like(added)
        for n in range(added.shape[1]):
            before[:, n] = state
            state = self.whole[:, n] * state + added[:, n]
        return before, state

    def outputs(self, before: Tensor, D: Tensor | None) -> Tensor:
        """The outputs before the gate."""
        y = torch.einsum("bngrji,bnjgrp->bnigrp", self.weights, self.u)
        y += torch.einsum("bnigs,bngrps->bnigrp", self.C, before) * self.from_start[..., None]
        return y if D is None else y + self.skip(D) * self.x

    def skip(self, D: Tensor) -> Tensor:
        """The skip connection as (g, r, p or 1)."""
        return D.to(self.dtype).reshape(self.groups, -1, 1 if D.dim() == 1 else D.shape[1])


def _slabs(inputs: Inputs, chunk: int) -> list[tuple[slice, int]]:
    """The slabs in order, and the frames of their chunks."""
    chunk, frames = _plan(inputs, chunk)
    return [(slice(start, start + frames), chunk) for start in range(0, inputs.x.shape[1], frames)]


def _by_group(state: Tensor, groups: int) -> Tensor:
    return state.unflatten(1, (groups, -1))


def _outputs(inputs: Inputs, keep: bool, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the outputs: y, last state, and the states before each slab, empty unless they are kept."""
    x, dtype = inputs.x, accumulation_dtype(inputs.x)
    state = (x.shape[0], *x.shape[2:], inputs.B.shape[3])
    slabs = -(-x.shape[1] // _plan(inputs, chunk)[1]) if keep else 0
    return x.new_empty(x.shape), x.new_empty(state, dtype=dtype), x.new_empty((slabs, *state), dtype=dtype)


def _forward(directions: Sequence[Inputs], shared: Shared, chunk: int, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    (inputs,), (z, initial_state) = directions, shared
    y, last_state, kept = _outputs(inputs, keep, chunk)
    state = torch.zeros_like(last_state) if initial_state is None else initial_state.to(last_state.dtype)
    groups = inputs.B.shape[2]
    state = _by_group(state, groups)
    with torch.autocast(y.device.type, enabled=False):
        for number, (frames, size) in enumerate(_slabs(inputs, chunk)):
            if keep:
                kept[number] = state.flatten(1, 2)
            slab = _Slab(inputs, frames, size)
            before, state = slab.states(state)
            outputs = slab.outputs(before, inputs.D)
            if z is not None:
                outputs *= F.silu(slab.split(z, True))
            y[:, frames] = slab.join(outputs, True)
    last_state.copy_(state.flatten(1, 2))
    return y, last_state, kept


def _fake_forward(directions: Sequence[Inputs], shared: Shared, chunk: int, keep: bool) -> tuple[Tensor, ...]:
    return _outputs(directions[0], keep, chunk)


def _backward(
    directions: Sequence[Inputs],
    shared: Shared,
    kept: Tensor,
    dy: Tensor | None,
    dlast_state: Tensor | None,
    chunk: int,
    needs: tuple[Sequence[Inputs], Shared],
) -> tuple[list[Inputs], Shared]:
    (inputs,), z = directions, shared.z
    x, delta, A, B, C, D = inputs
    dtype, groups = accumulation_dtype(x), B.shape[2]
    dx, ddelta, dB, dC = (torch.empty_like(t, dtype=t.dtype) for t in (x, delta, B, C))
    dz = None if z is None else torch.empty_like(z)
    dA = A.new_zeros(A.shape, dtype=dtype).view(groups, -1)
    dD = None if D is None else D.new_zeros(D.shape, dtype=dtype)
    dstate = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3], dtype=dtype) if dlast_state is None else dlast_state
    dstate = _by_group(dstate.to(dtype), groups)
    dy = torch.zeros_like(x) if dy is None else dy
    with torch.autocast(x.device.type, enabled=False):
        for number, (frames, size) in reversed(list(enumerate(_slabs(inputs, chunk)))):
            slab = _Slab(inputs, frames, size)
            before, _ = slab.states(_by_group(kept[number], groups))
            doutputs = slab.split(dy, True)
            if z is not None and dz is not None:
                gate = slab.split(z, True)
                sigmoid = gate.sigmoid()
                dsilu = sigmoid * (1 + gate * (1 - sigmoid))
                dz[:, frames] = slab.join(doutputs * slab.outputs(before, D) * dsilu, True)
                doutputs = doutputs * gate * sigmoid
            gradients, dstate = _slab_gradients(slab, before, doutputs, dstate)
            if D is not None and dD is not None:
                gradients["x"] += slab.skip(D) * doutputs
                products = (doutputs * slab.x).sum((0, 1, 2)).flatten(0, 1)
                dD += products.sum(-1) if D.dim() == 1 else products
            dA += (gradients["rates"] * slab.delta).sum((0, 1, 2))
            dx[:, frames], ddelta[:, frames] = slab.join(gradients["x"], True), slab.join(gradients["delta"], True)
            dB[:, frames], dC[:, frames] = slab.join(gradients["B"]), slab.join(gradients["C"])
    # A copy: without frames it would be an input, which an operation must not return.
    return [Inputs(dx, ddelta, dA.flatten(), dB, dC, dD)], Shared(dz, dstate.flatten(1, 2).clone())


def _slab_gradients(slab: _Slab, before: Tensor, dy: Tensor, dstate: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients of a slab's x, delta, B, C and of the logarithms of its decays (rates), from those of its outputs and
    of the state after it; and that of the state before it."""
    seen = dy * slab.from_start[..., None]  # by the state before a chunk
    reached = torch.einsum("bnigrp,bnigs->bngrps", seen, slab.C)
    after = torch.empty_like(reached)  # gradients of the states after each chunk
    for n in reversed(range(after.shape[1])):
        after[:, n] = dstate
        dstate = slab.whole[:, n] * dstate + reached[:, n]

    dweights = torch.einsum("bnjgrp,bnigrp->bngrji", slab.u, dy)
    dscores = (dweights * slab.decays).sum(3)
    from_end = torch.einsum("bnjgs,bngrps->bnjgrp", slab.B, after) * slab.to_end[..., None]
    du = torch.einsum("bngrji,bnigrp->bnjgrp", slab.weights, dy) + from_end
    dB = torch.einsum("bngji,bnigs->bnjgs", dscores, slab.C)
    dB += torch.einsum("bnjgrp,bngrps->bnjgs", slab.u * slab.to_end[..., None], after)
    dC = torch.einsum("bngji,bnjgs->bnigs", dscores, slab.B)
    dC += torch.einsum("bnigrp,bngrps->bnigs", seen, before)

    # A frame's decay weighs what passes over it: from earlier frames to itself and later ones, from the state before
    # the chunk to these, from earlier frames to the state after it, and from state to state.
    passing = (dweights * slab.weights).masked_fill_(slab.not_later, 0)
    passing = passing.flip(-1).cumsum(-1).flip(-1).masked_fill_(slab.not_later, 0).sum(-2)
    into = torch.einsum("bnigs,bngrps->bnigrp", slab.C, before)
    into = (seen * into).sum(-1).flip(2).cumsum(2).flip(2)
    onward = (slab.u * from_end).sum(-1)
    onward = F.pad(onward.cumsum(2), (0, 0, 0, 0, 1, 0))[:, :, :-1]
    through = (slab.whole * before * after).sum((-2, -1))
    drates = passing.permute(0, 1, 4, 2, 3) + into + onward + through[:, :, None]

    gradients = {
        "x": du * slab.delta[..., None],
        "delta": (du * slab.x).sum(-1) + drates * slab.A,
        "rates": drates,
        "B": dB,
        "C": dC,
    }
    return gradients, dstate


_LAYOUT = Layout(Inputs, Shared)
_operations = Operations("chunked", ("CPU", "CUDA"))
_operations.register_differentiable(
    "ssd", _LAYOUT, 2, _forward, _fake_forward, _backward, flags=("int chunk",), options=("keep",)
)


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    dt_limit: tuple[float, float],
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    chunk_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan of Mamba-2; see :func:`speechbrain_mamba.ops.ssd`."""
    order = scan_order(x.shape[1], lengths, reverse, x.device)

    def prepare(t: Tensor) -> Tensor:
        return reorder(mask_frames(t, lengths), order)

    delta = step_size(prepare(delta), delta_bias, delta_softplus, dt_limit)
    delta = mask_frames(delta, lengths)  # a step of length zero keeps the state
    direction = Inputs(prepare(x), delta, A, prepare(B), prepare(C), D)
    tensors = _LAYOUT.flatten([direction], (None if z is None else prepare(z), initial_state))
    y, last_state, _ = _operations.call("ssd", *tensors, chunk_size or 0, asks_for_gradient(*tensors))
    y = mask_frames(reorder(cast(Tensor, y), order), lengths)
    return (y, last_state) if return_last_state else y

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
SLABS = {"cpu": 2**17, "cuda": 2**25}
"""Most elements of a slab's decays, (batch, chunks, heads, chunk, chunk), and states, (batch, chunks, heads, head
channels, state), on each type of device: 512 KiB in float32, a share of a core's cache, and 128 MiB."""
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def unavailable() -> str | None:
    """Why this backend cannot be used here: None, as it always can."""
    return None


def unsupported(call: Call) -> str | None:
    """Why this backend cannot serve a call, None if it can."""
    if call.op not in ("ssd", "bidirectional_ssd", "ssd_update"):
        return "it has only the scan of Mamba-2: ssd, bidirectional_ssd and ssd_update."
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


LARGEST_EXPONENT = {torch.float32: 120.0, torch.float64: 800.0}
"""Exponents below minus this have a power of zero in a type."""


class _Slab:
    """What the passes share of some chunks: n of them, of q frames i and j, g groups of r heads, p channels, s states.

    Tensors are (b, n, g, r, q, ...), so that each head's frames are a matrix, and padded to whole chunks by steps of
    length zero.
    """

    def __init__(self, inputs: Inputs, frames: slice, chunk: int):
        x, delta, A, B, C, _ = inputs
        self.dtype, self.chunk, self.groups = accumulation_dtype(x), chunk, B.shape[2]
        self.frames, self.time = frames, len(range(*frames.indices(x.shape[1])))
        self.x, self.delta, self.B, self.C = (self.split(t) for t in (x, delta, B, C))
        self.A = A.to(self.dtype).view(self.groups, -1, 1)

        # Differences of sums from the start of a chunk would lose precision after a fast decay. Rounded to multiples
        # of a power of two, exponents sum up exactly; what is rounded off stays small.
        largest = LARGEST_EXPONENT[self.dtype]
        rates = (self.delta * self.A).clamp_(-largest, largest)
        coarse = (rates * 256).round_().div_(256)
        fine = (rates - coarse).cumsum(-1)
        coarse = coarse.cumsum(-1)
        exponents = coarse[..., :, None] - coarse[..., None, :]
        exponents += fine[..., :, None] - fine[..., None, :]
        ones = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device)
        self.later = ones.triu(1)
        self.decays = exponents.masked_fill_(self.later, -torch.inf).exp_()
        """From frame j to frame i of a chunk, (b, n, g, r, i, j)."""
        self.from_start = (coarse + fine).exp_()[..., None]
        """From the state before a chunk to frame i, (b, n, g, r, i, 1)."""
        self.to_end = self.decays[..., -1, :, None]
        """From frame j to the end of a chunk, (b, n, g, r, j, 1)."""
        self.whole = self.from_start[..., -1:, :]
        """Of a chunk, (b, n, g, r, 1, 1)."""
        self.weights = self.decays * (self.C @ self.B.mT)

    def split(self, t: Tensor) -> Tensor:
        """Cut the slab's frames out of (batch, time, groups or heads, ...), into chunks, and heads into groups."""
        t = t[:, self.frames].to(self.dtype)
        missing = -self.time % self.chunk
        if missing:
            t = F.pad(t, [0, 0] * (t.dim() - 2) + [0, missing])
        t = t.unflatten(1, (-1, self.chunk)).unflatten(3, (self.groups, -1))
        return t.movedim(2, 4).contiguous()

    def join(self, t: Tensor) -> Tensor:
        """Put chunks together again, and groups of heads."""
        return t.movedim(4, 2).flatten(3, 4).flatten(1, 2)[:, : self.time]

    def states(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The states before each chunk, (b, n, g, r, p, s), and after the last, from that before the first."""
        added = self.x.mT @ (self.B * (self.delta[..., None] * self.to_end))
        before = torch.empty_like(added)
        before[:, 0] = state
        for n in range(added.shape[1] - 1):
            torch.addcmul(added[:, n], self.whole[:, n], before[:, n], out=before[:, n + 1])
        return before, torch.addcmul(added[:, -1], self.whole[:, -1], before[:, -1])

    def outputs(self, before: Tensor, D: Tensor | None) -> Tensor:
        """The outputs before the gate."""
        weights = self.weights * self.delta[..., None, :]
        if D is not None and D.dim() == 1:
            weights.diagonal(dim1=-2, dim2=-1).add_(self.skip(D)[..., 0])
        y = (weights @ self.x).flatten(0, 3)
        y.baddbmm_((self.C * self.from_start).flatten(0, 3), before.flatten(0, 3).mT)
        y = y.view(self.x.shape)
        return y.addcmul_(self.skip(D), self.x) if D is not None and D.dim() == 2 else y

    def skip(self, D: Tensor) -> Tensor:
        """The skip connection as (g, r, 1, p or 1)."""
        return D.to(self.dtype).reshape(self.groups, -1, 1, 1 if D.dim() == 1 else D.shape[1])


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
                outputs *= F.silu(slab.split(z))
            y[:, frames] = slab.join(outputs)
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
            doutputs = slab.split(dy)
            if z is not None and dz is not None:
                gate = slab.split(z)
                sigmoid = gate.sigmoid()
                dsilu = sigmoid * (1 + gate * (1 - sigmoid))
                dz[:, frames] = slab.join(doutputs * slab.outputs(before, D) * dsilu)
                doutputs = doutputs * gate * sigmoid
            gradients, dstate = _slab_gradients(slab, before, doutputs, dstate)
            if D is not None and dD is not None:
                gradients["x"].addcmul_(slab.skip(D), doutputs)
                products = (doutputs * slab.x).sum((0, 1, 4)).flatten(0, 1)
                dD += products.sum(-1) if D.dim() == 1 else products
            dA += (gradients["rates"] * slab.delta).sum((0, 1, 4))
            dx[:, frames], ddelta[:, frames] = slab.join(gradients["x"]), slab.join(gradients["delta"])
            dB[:, frames], dC[:, frames] = slab.join(gradients["B"]), slab.join(gradients["C"])
    # A copy: without frames it would be an input, which an operation must not return.
    return [Inputs(dx, ddelta, dA.flatten(), dB, dC, dD)], Shared(dz, dstate.flatten(1, 2).clone())


def _slab_gradients(slab: _Slab, before: Tensor, dy: Tensor, dstate: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients of a slab's x, delta, B, C and of the logarithms of its decays (rates), from those of its outputs and
    of the state after it; and that of the state before it."""
    delta = slab.delta[..., None]
    reached = dy.mT @ (slab.C * slab.from_start)
    after = torch.empty_like(reached)  # gradients of the states after each chunk
    after[:, -1] = dstate
    for n in range(after.shape[1] - 1, 0, -1):
        torch.addcmul(reached[:, n], slab.whole[:, n], after[:, n], out=after[:, n - 1])
    dstate = torch.addcmul(reached[:, 0], slab.whole[:, 0], after[:, 0])

    dweights = (dy @ slab.x.mT).mul_(slab.delta[..., None, :])
    dscores = (dweights * slab.decays).sum(3, keepdim=True)
    of_before = (dy @ before).mul_(slab.from_start)
    of_after = (slab.x @ after).mul_(delta * slab.to_end)
    du = (slab.weights.mT @ dy).flatten(0, 3)
    du = du.baddbmm_((slab.B * slab.to_end).flatten(0, 3), after.flatten(0, 3).mT).view(dy.shape)

    # A frame's decay weighs what passes over it: from earlier frames to itself and later ones, from the state before
    # the chunk to these, from earlier frames to the state after it, and from state to state.
    passing = dweights.mul_(slab.weights) @ slab.later.to(dy.dtype)  # summed over all frames j before one
    drates = passing.masked_fill_(slab.later, 0).sum(-2)
    drates += (of_before * slab.C).sum(-1).flip(-1).cumsum(-1).flip(-1)
    onward = (of_after * slab.B).sum(-1)
    drates += F.pad(onward.cumsum(-1), (1, 0))[..., :-1]
    drates += (slab.whole * before * after).sum((-2, -1))[..., None]

    gradients = {
        "delta": (du * slab.x).sum(-1) + drates * slab.A,
        "x": du.mul_(delta),
        "rates": drates,
        "B": dscores.mT @ slab.C + of_after.sum(3, keepdim=True),
        "C": dscores @ slab.B + of_before.sum(3, keepdim=True),
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

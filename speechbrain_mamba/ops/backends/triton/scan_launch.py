"""The selective scan on the Triton kernels.

The kernels can also multiply the steps out of a low-rank factor, as a layer has it: ``delta`` is then the factor, and
``dt_proj_weights`` holds the weight of each direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.backward_kernels import chunk_gradients_kernel, gradients_kernel
from speechbrain_mamba.ops.backends.triton.forward_kernels import (
    chunk_states_kernel,
    outputs_kernel,
    pass_states_kernel,
)
from speechbrain_mamba.ops.backends.triton.plan import SUBCHUNK, Plan, plan
from speechbrain_mamba.ops.backends.triton.strides import frames, maps, on_device, parameter, strides, zeros_like
from speechbrain_mamba.ops.directions import ScanInputs
from speechbrain_mamba.ops.kernel_backend import ScanGradients, ScanShared, scan_outputs

_PASS_BLOCK, _PASS_UNROLL = 128, 8


class _Launch:
    """Inputs as the kernels take them, and the arguments that several kernels share."""

    def __init__(
        self,
        directions: Sequence[ScanInputs],
        shared: ScanShared,
        softplus: bool,
        reverse: bool,
        dt_proj_weights: Sequence[Tensor],
    ):
        first, self.count = directions[0], len(directions)
        us, deltas = frames([d.u for d in directions]), frames([d.delta for d in directions])
        shared_by_channels = maps([d.B for d in directions] + [d.C for d in directions])
        Bs, Cs = shared_by_channels[: self.count], shared_by_channels[self.count :]
        self.directions = [
            ScanInputs(u, delta, parameter(d.A), B, C, parameter(d.D), parameter(d.delta_bias))
            for d, u, delta, B, C in zip(directions, us, deltas, Bs, Cs)
        ]
        self.weights: list[Tensor | None] = [parameter(weight) for weight in dt_proj_weights]
        self.weights += [None] * (self.count - len(self.weights))
        self.z = None if shared.z is None else frames([shared.z])[0]
        self.initial_state, self.lengths = parameter(shared.initial_state), shared.lengths
        self.softplus, self.reverse = softplus, reverse
        (self.batch, self.time, self.channels), self.states = first.u.shape, first.A.shape[1]
        self.ranks = first.delta.shape[2] if dt_proj_weights else 0
        self.plan: Plan = plan(first.u.device, self.batch, self.time, self.channels, self.states, self.ranks)

    def inputs(self, *names: str) -> list[Tensor | None]:
        """Inputs of both directions, one name after another, and the weights of the factors."""
        found: list[Tensor | None] = []
        for values in (*([getattr(d, name) for d in self.directions] for name in names), self.weights):
            found += values if self.count == 2 else [*values, None]
        return found

    def sizes(self) -> list[int]:
        """Sizes, as all kernels of chunks begin with them."""
        return [
            self.batch, self.time, self.channels, self.states, self.ranks, self.plan.chunk, self.plan.chunks
        ]  # fmt: skip

    def strides(self) -> list[int]:
        """Strides of the inputs of the recurrence."""
        first = self.directions[0]
        return [*strides(first.u), *strides(first.delta), *strides(first.B)]

    def new(self, *size: int) -> Tensor:
        """Memory in float32."""
        return self.directions[0].u.new_empty(size, dtype=torch.float32)

    def new_states(self) -> tuple[Tensor, Tensor]:
        """Memory for each chunk's state and sum of steps."""
        chunks = (self.count, self.batch, self.plan.chunks)
        return self.new(*chunks, self.states, self.channels), self.new(*chunks, self.channels)

    def flags(self) -> dict[str, Any]:
        """Constants of the kernels for both directions."""
        return {"SOFTPLUS": self.softplus, "DIRECTIONS": self.count, "REVERSE": self.reverse}

    def pass_states(self, initial: Tensor | None, states: Tensor, sums: Tensor, descending: bool) -> None:
        """Run through the chunks."""
        blocks = triton.cdiv(self.states * self.channels, _PASS_BLOCK)
        pass_states_kernel[(blocks * self.batch * self.count,)](
            *self.inputs("A")[:2], initial, states, sums, self.batch, self.channels, self.states,
            self.plan.chunks, DESCENDING=descending, BLOCK=_PASS_BLOCK, UNROLL=_PASS_UNROLL, num_warps=4,
        )  # fmt: skip


def kept_shape(device: torch.device, batch: int, time: int, channels: int, states: int, count: int) -> tuple[int, ...]:
    """Shape of the states that come into the chunks of ``count`` directions; of no elements for a single chunk."""
    chunks = plan(device, batch, time, channels, states, 0).chunks
    return (count, batch, chunks, states, channels) if chunks > 1 and batch * time * channels else (0,)


def scan_kept(directions: Sequence[ScanInputs]) -> tuple[int, ...]:
    """Shape of the states that a scan keeps for its backward pass."""
    u, A = directions[0].u, directions[0].A
    batch, time, channels = u.shape
    return kept_shape(u.device, batch, time, channels, A.shape[1], len(directions))


def _chunk_states(launch: _Launch) -> Tensor | None:
    """The state that comes into each chunk; None for a single chunk."""
    p = launch.plan
    if p.chunks == 1:
        return None
    states, sums = launch.new_states()
    programs = triton.cdiv(launch.channels, p.forward()["BLOCK_C"]) * p.chunks * launch.batch * launch.count
    chunk_states_kernel[(programs,)](
        *launch.inputs("u", "delta", "A", "B", "delta_bias"), launch.lengths, states, sums,
        *launch.sizes(), *launch.strides(), **launch.flags(), **p.forward(),
    )  # fmt: skip
    launch.pass_states(launch.initial_state, states, sums, launch.reverse)
    return states


def scan_forward(
    directions: Sequence[ScanInputs],
    shared: ScanShared,
    softplus: bool,
    reverse: bool,
    last_state: bool,
    keep: bool,
    dt_proj_weights: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last states and the states that come into the chunks; empty where they are not asked for."""
    y, last, nothing = scan_outputs(directions, last_state, None)
    if y.numel() == 0:
        if last_state:
            last.zero_() if shared.initial_state is None else last.copy_(shared.initial_state)
        return y, last, nothing
    launch = _Launch(directions, shared, softplus, reverse, dt_proj_weights)
    p, z = launch.plan, launch.z
    with on_device(y):
        states = _chunk_states(launch)
        outputs_kernel[(triton.cdiv(launch.channels, p.forward()["BLOCK_C"]) * p.chunks * launch.batch,)](
            *launch.inputs("u", "delta", "A", "B", "C", "D", "delta_bias"), z, launch.lengths, y, states,
            launch.initial_state, last if last_state else None, *launch.sizes(), *launch.strides(), *strides(z),
            *strides(y), **launch.flags(), **p.forward(),
        )  # fmt: skip
    return y, last, states if keep and states is not None else nothing


def _leaving_gradients(launch: _Launch, states: Tensor, dy: Tensor, dlast: Tensor | None) -> Tensor | None:
    """The gradient of the state that leaves each chunk; None for a single chunk."""
    p = launch.plan
    if p.chunks == 1:
        return None
    gradients, sums = launch.new_states()
    _run_chunk_gradients(launch, states, dy, None, gradients, sums, 0, p.chunks)
    launch.pass_states(dlast, gradients, sums, not launch.reverse)
    return gradients


def _run_chunk_gradients(
    launch: _Launch,
    states: Tensor,
    dy: Tensor,
    borders: Tensor | None,
    gradients: Tensor | None,
    sums: Tensor | None,
    first: int,
    slab: int,
) -> None:
    p, z = launch.plan, launch.z
    constants = p.forward() | {"SUBCHUNK": SUBCHUNK}
    programs = triton.cdiv(launch.channels, constants["BLOCK_C"]) * slab * launch.batch * launch.count
    chunk_gradients_kernel[(programs,)](
        *launch.inputs("u", "delta", "A", "B", "C", "delta_bias"), z, launch.lengths, dy,
        states if p.chunks > 1 else None, launch.initial_state, borders, gradients, sums, *launch.sizes(), first, slab,
        *launch.strides(), *strides(z), *strides(dy), **launch.flags(), **constants,
    )  # fmt: skip


class _Gradients:
    """Memory for the gradients of a scan; sums over programs have a place for each."""

    def __init__(self, launch: _Launch, dz: Tensor | None):
        first, channels, states = launch.directions[0], launch.channels, launch.states
        u, steps = first.u, first.u if launch.ranks else first.delta  # multiplied out, they have no tensor
        blocks = triton.cdiv(channels, launch.plan.backward()["BLOCK_C"])
        examples = (launch.count, launch.batch)
        chunks = (*examples, launch.plan.chunks)
        self.du = u.new_empty((launch.count, *u.shape))
        self.ddelta = torch.empty_like(self.du, dtype=steps.dtype)
        self.maps = launch.new(blocks, *examples, launch.time, 2 * states)
        self.dA, self.dD, self.dbias = (launch.new(*chunks, *own, channels) for own in ((states,), (), ()))
        self.dz = launch.z.new_empty(launch.z.shape) if dz is None and launch.z is not None else dz
        self.initial = None if launch.initial_state is None else torch.empty_like(launch.initial_state)

    def summed(self, launch: _Launch) -> ScanGradients:
        """The gradients."""
        dA, dD, dbias = (partial.sum((1, 2)) for partial in (self.dA, self.dD, self.dbias))
        dBs, dCs = self.maps.sum(0).split(launch.states, -1)
        gradients = [
            ScanInputs(
                self.du[i], self.ddelta[i], dA[i].T, dBs[i], dCs[i], None if d.D is None else dD[i],
                None if d.delta_bias is None else dbias[i],
            )
            for i, d in enumerate(launch.directions)
        ]  # fmt: skip
        return gradients, ScanShared(self.dz, self.initial)


def scan_backward(
    directions: Sequence[ScanInputs],
    shared: ScanShared,
    states: Tensor,
    dy: Tensor | None,
    dlast: Tensor | None,
    softplus: bool,
    reverse: bool,
    dt_proj_weights: Sequence[Tensor] = (),
    dz: Tensor | None = None,
    y: Tensor | None = None,
) -> ScanGradients:
    """Gradients, sums in float32.

    With ``dt_proj_weights`` the gradient of ``delta`` is that of the steps multiplied out. ``dz`` is memory for that of
    z, and ``y`` for the output, which a gated scan computes on its way.
    """
    u = directions[0].u
    if u.numel() == 0:
        return _empty_gradients(directions, shared, dlast)
    launch = _Launch(directions, shared, softplus, reverse, dt_proj_weights)
    p, z = launch.plan, launch.z
    dy = torch.zeros_like(u) if dy is None else frames([dy])[0]
    dlast = parameter(dlast)
    out, constants = _Gradients(launch, dz), p.backward()
    with on_device(u):
        leaving = _leaving_gradients(launch, states, dy, dlast)
        subchunks = p.chunk // constants["SUBCHUNK"]
        borders = launch.new(launch.count, launch.batch, p.slab, subchunks, launch.states, launch.channels)
        for first in range(0, p.chunks, p.slab):
            slab = min(p.slab, p.chunks - first)
            _run_chunk_gradients(launch, states, dy, borders, None, None, first, slab)
            for i, (d, weight) in enumerate(zip(launch.directions, launch.weights)):
                gradients_kernel[(triton.cdiv(launch.channels, constants["BLOCK_C"]) * slab * launch.batch,)](
                    *d, weight, z, launch.lengths, dy, borders, leaving, dlast, out.du[i], out.ddelta[i],
                    out.maps, out.dz, y, out.dA, out.dD, out.dbias, out.initial, i, *launch.sizes(), first, slab,
                    *launch.strides(), *strides(z), *strides(dy), *strides(out.du[i]), *strides(out.dz),
                    *strides(y), SOFTPLUS=softplus, REVERSE=reverse if launch.count == 1 else i == 1,
                    HALF=0 if launch.count == 1 else i + 1, **constants,
                )  # fmt: skip
    return out.summed(launch)


def _empty_gradients(directions: Sequence[ScanInputs], shared: ScanShared, dlast: Tensor | None) -> ScanGradients:
    """Gradients of a scan over nothing, whose last state is its initial one."""
    z, initial_state, _ = zeros_like(shared)
    gradients = [zeros_like(d) for d in directions]
    return gradients, ScanShared(z, initial_state if dlast is None or initial_state is None else dlast)

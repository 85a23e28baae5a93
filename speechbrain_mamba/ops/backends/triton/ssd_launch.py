"""Mamba-2's scan on the Triton kernels: at most three launches forward and four backward, and one for a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.launch import launch
from speechbrain_mamba.ops.backends.triton.plan import power_of_2
from speechbrain_mamba.ops.backends.triton.ssd_gradients_kernel import ssd_finish_kernel, ssd_gradients_kernel
from speechbrain_mamba.ops.backends.triton.ssd_kernels import (
    ssd_outputs_kernel,
    ssd_pass_kernel,
    ssd_states_kernel,
    ssd_step_kernel,
)
from speechbrain_mamba.ops.backends.triton.ssd_plan import (
    FLOAT_REGISTERS,
    LARGEST_HEAD,
    LARGEST_TILE,
    SMALLEST_TILE,
    SsdPlan,
    ssd_plan,
)
from speechbrain_mamba.ops.backends.triton.strides import frames, layout, on_device, parameter, zeros_like
from speechbrain_mamba.ops.kernel_backend import SsdGradients, SsdInputs, SsdShared, ssd_outputs

_PASS_BLOCK, _PASS_UNROLL = 256, 8
_FINISH_BLOCK = 256
_LARGEST = 3e38
_NOTHING = (None, None)
_STEP_TILE = 2**10
"""Numbers of a state that a program of a step has."""


def _limits(low: float, high: float) -> dict[str, float]:
    """Limits of a step as constants, in the range of float32."""
    return {"LOW": max(low, -_LARGEST), "HIGH": min(high, _LARGEST)}


def _skips(D: Tensor | None, channels: int) -> int:
    """Numbers that a head has in D."""
    return 0 if D is None else 1 if D.dim() == 1 else channels


class SsdLaunch:
    """Inputs as the kernels take them, and the arguments that several kernels share.

    Arguments
    ---------
    directions, shared : list of SsdInputs, SsdShared
        The tensors of the call, of one or two directions.
    softplus, reverse, low, high
        Its flags.
    """

    def __init__(
        self,
        directions: Sequence[SsdInputs],
        shared: SsdShared,
        softplus: bool,
        reverse: bool,
        low: float,
        high: float,
    ):
        x = directions[0].x
        self.directions = len(directions)
        self.batch, self.time, self.heads, self.channels = x.shape
        self.groups, self.states = directions[0].B.shape[2:]
        self.x = self._over_time([d.x for d in directions])
        self.delta = self._over_time([d.delta for d in directions])
        both = self._over_time([t for d in directions for t in (d.B, d.C)])
        self.B, self.C = both[0::2], both[1::2]
        self.z = None if shared.z is None else frames([shared.z.flatten(2)])[0]
        self.A, self.D, self.bias = (
            [parameter(getattr(d, name)) for d in directions] for name in ("A", "D", "delta_bias")
        )
        self.initial_state, self.lengths = parameter(shared.initial_state), shared.lengths
        self.plan: SsdPlan = ssd_plan(
            x.device, self.batch, self.time, self.heads, self.groups, self.channels, self.states, x.element_size(),
            self.directions, self.z is not None,
        )  # fmt: skip
        self.skips = _skips(self.D[0], self.channels)
        # In float32, products of three passes keep the digits.
        whole = x.dtype == torch.float32
        precision = "tf32x3" if whole else "tf32"
        self.registers = {"maxnreg": FLOAT_REGISTERS} if whole else {}
        self.flags = {"SOFTPLUS": softplus, **_limits(low, high), "REVERSE": reverse, "PRECISION": precision}

    @staticmethod
    def _over_time(tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sequences of one kind, of one type and lying alike."""
        return frames([t.flatten(2).to(tensors[0].dtype) for t in tensors])

    def new(self, *size: int) -> Tensor:
        """Memory in float32."""
        return self.x[0].new_empty(size, dtype=torch.float32)

    def sizes(self, chunk: int, chunks: int) -> tuple[int, ...]:
        """Sizes in the order of the kernels."""
        return self.batch, self.time, self.heads, self.channels, self.states, self.heads // self.groups, chunk, chunks

    def strides(self) -> tuple[int, ...]:
        """How the inputs lie."""
        return (*layout(self.x[0]), *layout(self.delta[0]), *layout(self.B[0]), *layout(self.z))

    def chunk_states(
        self, chunk: int, chunks: int, dy: Tensor | None = None, dlast: Tensor | None = None,
        dinitial: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The state that comes into each chunk, (kind, direction, batch, chunk, head, head channel, state); with ``dy``
        the second kind is the gradient of the state that leaves it."""
        kinds, entries = 1 if dy is None else 2, self.batch * self.heads
        passing = self.new(kinds, self.directions, self.batch, chunks, self.heads, self.channels, self.states)
        sums = self.new(self.directions, self.batch, chunks, self.heads)
        launch(
            ssd_states_kernel, self.directions * entries * chunks,
            *_pairs(self.x, self.delta, self.A, self.B), *(_NOTHING if dy is None else _pairs(self.C)),
            *_pairs(self.bias), None if dy is None else self.z, self.lengths, dy, passing, sums,
            *self.sizes(chunk, chunks), *self.strides(), *layout(dy), **self.flags, **self.plan.constants(),
        )  # fmt: skip
        size = self.channels * self.states
        launch(
            ssd_pass_kernel, -(-size // _PASS_BLOCK) * entries * self.directions * kinds,
            passing, sums, self.initial_state, dlast, dinitial, self.heads, size, chunks, entries,
            DIRECTIONS=self.directions, REVERSE=self.flags["REVERSE"], BLOCK=_PASS_BLOCK, UNROLL=_PASS_UNROLL,
            num_warps=4,
        )  # fmt: skip
        return passing

    def outputs(self, y: Tensor, last: Tensor | None) -> None:
        """Compute outputs and last states into their memory."""
        p, y = self.plan, y.flatten(2)
        passing = self.chunk_states(p.chunk, p.chunks) if p.chunks > 1 else None
        launch(
            ssd_outputs_kernel, self.batch * p.chunks * self.heads,
            *_pairs(self.x, self.delta, self.A, self.B, self.C, self.D, self.bias), self.z, self.lengths, y, passing,
            None if passing is not None else self.initial_state, last, *self.sizes(p.chunk, p.chunks),
            *self.strides(), *layout(y), SKIPS=self.skips, **self.flags, **p.constants(), **self.registers,
        )  # fmt: skip


def _pairs(*kinds: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Of each kind of tensor those of both directions, None for the second where there is only one."""
    return tuple(t for tensors in kinds for t in (*tensors, None)[:2])


def ssd_forward(
    directions: Sequence[SsdInputs],
    shared: SsdShared,
    softplus: bool,
    reverse: bool,
    low: float,
    high: float,
    last_state: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs, of two directions their mean, and last states of one, empty where they are not asked for."""
    y, last = ssd_outputs(directions, last_state)
    if y.numel() == 0:
        if last_state:
            last.zero_() if shared.initial_state is None else last.copy_(shared.initial_state)
        return y, last
    with on_device(y):
        SsdLaunch(directions, shared, softplus, reverse, low, high).outputs(y, last if last_state else None)
    return y, last


def ssd_backward(
    directions: Sequence[SsdInputs],
    shared: SsdShared,
    dy: Tensor | None,
    dlast: Tensor | None,
    softplus: bool,
    reverse: bool,
    low: float,
    high: float,
    *,
    needs: tuple[Sequence[SsdInputs], SsdShared],
) -> SsdGradients:
    """Gradients, those of parameters and of the initial state in float32."""
    x, count = directions[0].x, len(directions)
    if x.numel() == 0:
        nothing, (z, initial_state, _) = [zeros_like(d) for d in directions], zeros_like(shared)
        return nothing, SsdShared(z, initial_state if dlast is None or initial_state is None else dlast)
    scan = SsdLaunch(directions, shared, softplus, reverse, low, high)
    p = scan.plan
    dy = torch.zeros_like(x) if dy is None else dy
    (dy,) = frames([dy.flatten(2)])

    def dense(t: Tensor) -> list[Tensor]:
        return [torch.empty(t.shape, dtype=t.dtype, device=x.device) for _ in directions]

    dx, ddelta, dz = dense(x), dense(directions[0].delta), [] if shared.z is None else dense(shared.z)
    dB, dC = (t.new_empty(count, *t.shape) for t in (directions[0].B, directions[0].C))
    dinitial = None if scan.initial_state is None else torch.empty_like(scan.initial_state)
    slots, width = scan.batch * p.backward_chunks, scan.heads * (2 + scan.skips)
    with on_device(x):
        passing = scan.chunk_states(p.backward_chunk, p.backward_chunks, dy, parameter(dlast), dinitial)
        maps = scan.new(p.parts, count, scan.batch, scan.time, scan.groups, 2, scan.states)
        sums, totals = scan.new(count, slots, width), scan.new(count, width)
        size = -(-scan.heads // scan.groups // p.parts)
        launch(
            ssd_gradients_kernel, p.programs,
            *_pairs(scan.x, scan.delta, scan.A, scan.B, scan.C, scan.D, scan.bias), scan.z, scan.lengths, dy, passing,
            scan.new(p.programs, p.scratch), *_pairs(dx, ddelta), maps, *(_pairs(dz) if dz else _NOTHING), sums,
            *scan.sizes(p.backward_chunk, p.backward_chunks), p.parts, size, *scan.strides(), *layout(dy),
            SKIPS=scan.skips, **scan.flags, **p.constants(backward=True), **scan.registers,
        )  # fmt: skip
        rows = count * scan.batch * scan.time
        launch(
            ssd_finish_kernel, -(-rows * scan.groups * scan.states // _FINISH_BLOCK) + count * -(-width // 64),
            maps, sums, dB, dC, totals, rows, scan.groups, scan.states, p.parts, slots, width,
            BLOCK=_FINISH_BLOCK, BLOCK_S=16, BLOCK_E=64, num_warps=4,
        )  # fmt: skip
    gradients = []
    for number, inputs in enumerate(directions):
        dA, dbias, dD = totals[number].split([scan.heads, scan.heads, scan.heads * scan.skips])
        skip, bias = None if inputs.D is None else dD.view(inputs.D.shape), None if inputs.delta_bias is None else dbias
        gradients.append(SsdInputs(dx[number], ddelta[number], dA, dB[number], dC[number], skip, bias))
    return gradients, SsdShared(dz[0] + dz[1] if len(dz) == 2 else dz[0] if dz else None, dinitial)


def ssd_step(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor]:
    """One frame: output and state after it."""
    batch, heads, channels = x.shape
    groups, states = B.shape[1:]
    y, after = x.new_empty(x.shape), state.new_empty(state.shape, dtype=torch.float32)
    if state.numel() == 0:
        return y.zero_(), after
    x, B, C = (_row(t.flatten(1)) for t in (x, B, C))
    z = None if z is None else _row(z.flatten(1))
    delta, D = _row(delta), parameter(D)
    block_n = power_of_2(states)
    block_p = min(power_of_2(channels), max(_STEP_TILE // block_n, 1))
    with on_device(x):
        launch(
            ssd_step_kernel, -(-channels // block_p) * batch * heads,
            parameter(state), x, delta, parameter(A), B, C, D, parameter(delta_bias), z, y, after, heads, channels,
            states, heads // groups, x.stride(0), delta.stride(0), B.stride(0), C.stride(0),
            0 if z is None else z.stride(0), SOFTPLUS=softplus, **_limits(low, high), SKIPS=_skips(D, channels),
            BLOCK_P=block_p, BLOCK_N=block_n, num_warps=2,
        )  # fmt: skip
    return y, after


def _row(t: Tensor) -> Tensor:
    """A frame (batch, features) whose features lie side by side."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _padded(size: int) -> int:
    """The next power of two that fills a tile, in steps that torch.compile can follow."""
    padded = SMALLEST_TILE
    while padded < size:
        padded *= 2
    return padded


def ssd_unsupported(channels: int, states: int) -> str | None:
    """Why the kernels cannot serve heads of such a size, None if they can."""
    if channels > LARGEST_HEAD or _padded(channels) * _padded(states) > LARGEST_TILE:
        return (
            f"it takes heads of up to {LARGEST_HEAD} channels, and of channels times states (padded to powers of two) "
            f"up to {LARGEST_TILE}, but got {channels} channels of {states} states."
        )
    return None

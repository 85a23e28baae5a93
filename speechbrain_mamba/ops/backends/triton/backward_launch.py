"""The backward pass of the selective scan on the Triton kernels, a slab of chunks after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.backward_kernels import borders_kernel, chunk_sums_kernel
from speechbrain_mamba.ops.backends.triton.gradients_kernel import gradients_kernel
from speechbrain_mamba.ops.backends.triton.launch import launch
from speechbrain_mamba.ops.backends.triton.layer_kernels import finish_maps_kernel, sums_kernel
from speechbrain_mamba.ops.backends.triton.plan import SUBCHUNK, Slab
from speechbrain_mamba.ops.backends.triton.scan_launch import ScanLaunch
from speechbrain_mamba.ops.backends.triton.strides import frames, layout, on_device, pair, parameter, zeros_like
from speechbrain_mamba.ops.directions import ScanInputs
from speechbrain_mamba.ops.kernel_backend import ScanGradients, ScanShared

Steps = Callable[[Slab], Tensor]
"""The steps in the frames of a slab, (direction, frame, channel)."""


class ScanBackward:
    """The backward pass of a scan, whose slabs may be taken one after the other.

    Arguments
    ---------
    scan : ScanLaunch
        The scan.
    dy : Tensor
        Gradient of the output.
    dlast : Tensor or None
        Gradient of the last state.
    with_sums : bool
        Whether A, D or the bias of the steps has a gradient.
    steps : callable, optional
        Makes the steps of a slab, where the scan's ``delta`` has none.
    """

    def __init__(self, scan: ScanLaunch, dy: Tensor, dlast: Tensor | None, with_sums: bool, steps: Steps | None = None):
        self.scan, self.steps, self.dy = scan, steps, dy
        p = scan.plan
        self.passing = scan.new(2, scan.count, scan.batch, p.backward_chunks, scan.states, scan.channels)
        chunk_sums = scan.new(scan.count, scan.batch, p.backward_chunks, scan.channels)
        for slab in p.slabs if steps else (p.whole,):
            deltas, lie, delta_row = self._deltas(slab)
            launch(
                chunk_sums_kernel, p.blocks * slab.chunks * slab.examples * scan.count,
                *scan.inputs("u"), *deltas, *scan.inputs("A", "B", "C", "delta_bias"), *scan.weights, scan.z,
                scan.lengths, dy, self.passing, chunk_sums, *self._sizes(slab), delta_row, *self._strides(lie),
                *layout(scan.z), *layout(dy), **scan.flags, **p.forward,
            )  # fmt: skip
        scan.pass_states(self.passing, chunk_sums, parameter(dlast))
        largest = p.slabs[0]
        self.rows = max(slab.end - slab.begin for slab in p.slabs)
        self.slots = largest.examples * largest.chunks
        self.raw = pair(self.passing, self.rows, scan.channels)
        subchunks = p.backward_chunk // SUBCHUNK
        self.borders = scan.new(scan.count, self.slots, subchunks, scan.channels, p.block_n)
        self.maps = scan.new(p.backward_blocks, scan.count, self.rows, 2 * p.block_n)
        self.sums = scan.new(scan.count, self.slots, (scan.states + 2) * scan.channels) if with_sums else None
        self.dinitial = None if scan.initial_state is None else torch.empty_like(scan.initial_state)

    def _deltas(self, slab: Slab) -> tuple[list[Tensor | None], tuple[int, int], int]:
        """Steps or factors of both directions, how they lie, and the frame that they begin with."""
        scan = self.scan
        if self.steps is None:
            return scan.inputs("delta"), layout(scan.directions[0].delta), 0
        return list(self.steps(slab)), (scan.time, scan.channels), slab.begin

    def _sizes(self, slab: Slab) -> tuple[int, ...]:
        scan, p = self.scan, self.scan.plan
        return (
            scan.batch, scan.time, scan.channels, scan.states, scan.ranks, p.backward_chunk, p.backward_chunks,
            slab.chunks, slab.examples, slab.chunk, slab.example,
        )  # fmt: skip

    def _strides(self, delta: tuple[int, int]) -> tuple[int, ...]:
        first = self.scan.directions[0]
        return (*layout(first.u), *delta, *layout(first.B))

    def run(
        self,
        slab: Slab,
        dus: Tensor | Sequence[Tensor | None],
        ddeltas: Tensor | Sequence[Tensor | None],
        out_row: int,
        dz: Tensor | None,
        y: Tensor | None = None,
    ) -> None:
        """Compute a slab's gradients into their memory.

        Arguments
        ---------
        slab : Slab
            The slab; they must come in order.
        dus, ddeltas : sequence of two Tensor
            Memory for the gradients of inputs and steps of each direction, (frames, channels).
        out_row : int
            The frame that these, and ``y``, begin with.
        dz : Tensor, optional
            Memory for the gate's gradient, of all frames.
        y : Tensor, optional
            Memory for the output, which two directions with a gate compute on their way, (frames, channels).
        """
        scan, p = self.scan, self.scan.plan
        channels = scan.channels
        deltas, lie, delta_row = self._deltas(slab)
        launch(
            borders_kernel, p.blocks * slab.chunks * slab.examples * scan.count,
            *scan.inputs("u"), *deltas, *scan.inputs("A", "B", "delta_bias"), *scan.weights, scan.lengths,
            self.passing, self.borders, *self.raw, *self._sizes(slab), slab.begin, delta_row, *self._strides(lie),
            channels, **scan.flags, **p.borders,
        )  # fmt: skip
        B, sizes = scan.directions[0].B, self._sizes(slab)
        flags = scan.flags
        launch(
            gradients_kernel, p.backward_blocks * slab.chunks * slab.examples,
            *scan.inputs("u", "A", "B", "C", "D"), scan.z, scan.lengths, self.dy, self.borders, self.passing,
            *self.raw, *dus, *ddeltas, self.maps, dz, y, self.sums, self.dinitial,
            *sizes[:4], *sizes[5:], slab.begin, out_row, slab.end - slab.begin, self.slots, slab.begin,
            *layout(scan.directions[0].u), *layout(B), *layout(scan.z), *layout(self.dy), channels, channels, channels,
            *layout(dz), channels, **flags, **p.backward,
        )  # fmt: skip

    def finish_maps(
        self, slab: Slab, out: Tensor, out_row: int, column: int = 0, factors: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Sum the gradients of B and C of a slab.

        Arguments
        ---------
        slab : Slab
            The slab that was run last.
        out : Tensor
            Memory, (direction, frame, features).
        out_row : int
            The frame of ``out`` with which the slab begins.
        column : int
            The first of the features, which are the states of B and of C as a program has them.
        factors : tuple of two Tensor, optional
            Features (direction, frame, features) that begin with the steps' factor, and memory for that factor in
            another dtype, (direction, frame, rank).
        """
        p, rows = self.scan.plan, slab.end - slab.begin
        projected, factor = factors or (None, None)
        launch(
            finish_maps_kernel, (-(-rows // 16), self.scan.count),
            self.maps, projected, out, factor, p.backward_blocks, rows, out.stride(1), slab.begin, out_row,
            0 if projected is None else projected.shape[1], out.shape[1], 0 if factor is None else factor.shape[1],
            COLUMN=column, COLUMNS=2 * p.block_n, BLOCK=16, num_warps=4,
        )  # fmt: skip


def sum_slots(partial: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Sum (group, slot, n) over the slots, and another (slot, groups, n) too, in one launch; both to (group, n)."""
    groups, slots, inner = partial.shape
    out = partial.new_empty((groups, inner))
    out_b = None if other is None else other.new_empty(other.shape[1:])
    size, size_b = out.numel(), 0 if out_b is None else out_b.numel()
    slots_b = 0 if other is None else other.shape[0]
    launch(
        sums_kernel, -(-size // 64) + -(-size_b // 64), partial, out, slots, size, other, out_b, slots_b, size_b, inner,
        BLOCK_S=16, BLOCK=64, num_warps=4,
    )  # fmt: skip
    return out, out_b


def split_sums(sums: Tensor, channels: int, states: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The gradients of A (channels, state), D and the bias of each direction."""
    size = channels * states
    return [(s[:size].view(channels, states), s[size : size + channels], s[size + channels :]) for s in sums]


def scan_backward(
    directions: Sequence[ScanInputs],
    shared: ScanShared,
    kept: Tensor,
    dy: Tensor | None,
    dlast: Tensor | None,
    softplus: bool,
    reverse: bool,
    *,
    needs: tuple[Sequence[ScanInputs], ScanShared],
) -> ScanGradients:
    """Gradients, those of parameters, B and C in float32; of A, D and the bias only where they are needed."""
    u = directions[0].u
    if u.numel() == 0:
        return _empty_gradients(directions, shared, dlast)
    scan = ScanLaunch(directions, shared, softplus, reverse)
    p, count = scan.plan, scan.count
    dy = torch.zeros_like(u) if dy is None else frames([dy])[0]
    with_sums = any(need.A or need.D or need.delta_bias for need in needs[0])
    dus, ddeltas = ([torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in ts] for ts in (
        [d.u for d in directions], [d.delta for d in directions]))  # fmt: skip
    dz = None if scan.z is None else torch.empty(scan.z.shape, dtype=scan.z.dtype, device=u.device)
    absent = [None] * (2 - count)
    with on_device(u):
        backward = ScanBackward(scan, dy, dlast, with_sums)
        dmaps = scan.new(count, scan.batch * scan.time, 2 * p.block_n)
        for slab in p.slabs:
            backward.run(slab, [*dus, *absent], [*ddeltas, *absent], 0, dz)
            backward.finish_maps(slab, dmaps, slab.begin)
        sums: Sequence = [(None, None, None)] * count
        if backward.sums is not None:
            sums = split_sums(sum_slots(backward.sums)[0], scan.channels, scan.states)
    dB_dC = dmaps.view(count, scan.batch, scan.time, 2, p.block_n)[..., : scan.states]
    gradients = [
        ScanInputs(
            dus[i], ddeltas[i], dA, dB_dC[i, :, :, 0], dB_dC[i, :, :, 1], None if d.D is None else dD,
            None if d.delta_bias is None else dbias,
        )
        for i, (d, (dA, dD, dbias)) in enumerate(zip(directions, sums))
    ]  # fmt: skip
    return gradients, ScanShared(dz, backward.dinitial)


def _empty_gradients(directions: Sequence[ScanInputs], shared: ScanShared, dlast: Tensor | None) -> ScanGradients:
    """Gradients of a scan over nothing, whose last state is its initial one."""
    z, initial_state, _ = zeros_like(shared)
    gradients = [zeros_like(d) for d in directions]
    return gradients, ScanShared(z, initial_state if dlast is None or initial_state is None else dlast)

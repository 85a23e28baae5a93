"""The backward pass of the selective scan on the Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.backward_kernels import chunk_sums_kernel
from speechbrain_mamba.ops.backends.triton.gradients_kernel import gradients_kernel
from speechbrain_mamba.ops.backends.triton.launch import launch
from speechbrain_mamba.ops.backends.triton.layer_kernels import finish_kernel
from speechbrain_mamba.ops.backends.triton.scan_launch import ScanLaunch
from speechbrain_mamba.ops.backends.triton.strides import frames, layout, on_device, parameter, zeros_like
from speechbrain_mamba.ops.directions import ScanInputs
from speechbrain_mamba.ops.kernel_backend import ScanGradients, ScanShared

SUMS_BLOCK = 64


class ScanBackward:
    """The backward pass of a scan.

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
    """

    def __init__(self, scan: ScanLaunch, dy: Tensor, dlast: Tensor | None, with_sums: bool):
        self.scan, self.dy, self.with_sums = scan, dy, with_sums
        p = scan.plan
        self.slots = scan.batch * p.backward_chunks
        self.passing = scan.new(2, scan.count, self.slots, scan.states, scan.channels)
        self.sums = scan.new(2, scan.count, self.slots, scan.channels)
        launch(
            chunk_sums_kernel, p.blocks * self.slots * scan.count,
            *scan.inputs("u", "delta", "A", "B", "C", "delta_bias"), *scan.weights, scan.z, scan.lengths, dy,
            self.passing, self.sums, *self._sizes(), *scan.strides(), *layout(scan.z), *layout(dy), **scan.flags,
            **p.sums,
        )  # fmt: skip
        scan.pass_states(self.passing.view(2, scan.count, scan.batch, -1, scan.states, scan.channels), self.sums,
                         parameter(dlast))  # fmt: skip
        self.maps: Tensor | None = scan.new(p.groups, scan.count, scan.batch * scan.time, 2 * p.block_n)
        self.dinitial = None if scan.initial_state is None else torch.empty_like(scan.initial_state)

    def _sizes(self) -> tuple[int, ...]:
        scan, p = self.scan, self.scan.plan
        return scan.batch, scan.time, scan.channels, scan.states, scan.ranks, p.backward_chunk, p.backward_chunks

    def run(
        self,
        dus: Sequence[Tensor | None] | Tensor,
        ddeltas: Sequence[Tensor | None] | Tensor,
        dz: Tensor | None,
        output: bool = False,
    ) -> None:
        """Compute gradients into their memory.

        Arguments
        ---------
        dus, ddeltas : sequence of two Tensor, or Tensor (2, frames, channels)
            Memory for the gradients of inputs and steps of each direction, (frames, channels); it may be that of the
            inputs and steps.
        dz : Tensor, optional
            Memory for the gate's gradient.
        output : bool
            Whether the output of a gated scan in both directions takes the place of its gradient.
        """
        scan, p = self.scan, self.scan.plan
        launch(
            gradients_kernel, p.programs,
            *scan.inputs("u", "delta", "A", "B", "C", "D", "delta_bias"), *scan.weights, scan.z, scan.lengths, self.dy,
            self.passing, self.sums if self.with_sums else None, scan.new(p.programs, p.scratch), *dus, *ddeltas,
            self.maps, dz, self.dinitial, *self._sizes(), p.groups, -(-p.backward_blocks // p.groups),
            *scan.strides(), *layout(scan.z), *layout(self.dy), *layout(dz), OUTPUT=output, **scan.flags, **p.backward,
        )  # fmt: skip

    def finish(
        self, out: Tensor, column: int = 0, factors: tuple[Tensor, Tensor] | None = None
    ) -> list[tuple[Tensor, Tensor, Tensor]] | None:
        """Sum the gradients of B and C, and of parameters, once; their shares are gone then.

        Arguments
        ---------
        out : Tensor
            Memory for those of B and C, (direction, frame, features).
        column : int
            The first of the features, which are the states of B and of C as a program has them.
        factors : tuple of two Tensor, optional
            Features (direction, frame, features) that begin with the steps' factor, and memory for that factor in
            another dtype, (direction, frame, rank).

        Returns
        -------
        list of tuple of three Tensor
            For each direction the gradients of A (channels, state), D and the bias, if there are any.
        """
        scan, p = self.scan, self.scan.plan
        maps, passing, sums, self.maps = self.maps, self.passing, self.sums, None
        del self.passing, self.sums
        projected, factor = factors or (None, None)
        size, rows = scan.states * scan.channels, scan.batch * scan.time
        dA, dD_dbias = None, None
        if self.with_sums:
            dA = scan.new(scan.count, scan.channels, scan.states)
            dD_dbias = scan.new(2, scan.count, scan.channels)
        programs = [-(-rows // 16) * scan.count, 0, 0]
        if self.with_sums:
            programs[1:] = [-(-scan.count * n // SUMS_BLOCK) for n in (size, 2 * scan.channels)]
        launch(
            finish_kernel, sum(programs),
            maps, projected, out, factor, passing[1] if self.with_sums else None, sums, dA, dD_dbias, p.groups, rows,
            out.shape[2], self.slots, scan.channels, scan.states,
            DIRECTIONS=scan.count, COLUMN=column, COLUMNS=2 * p.block_n, BLOCK=16, BLOCK_S=16, BLOCK_E=SUMS_BLOCK,
            num_warps=4,
        )  # fmt: skip
        if dA is None or dD_dbias is None:
            return None
        return [(dA[i], dD_dbias[0, i], dD_dbias[1, i]) for i in range(scan.count)]


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
        backward.run([*dus, *absent], [*ddeltas, *absent], dz)
        dmaps = scan.new(count, scan.batch * scan.time, 2 * p.block_n)
        sums: Sequence = backward.finish(dmaps) or [(None, None, None)] * count
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

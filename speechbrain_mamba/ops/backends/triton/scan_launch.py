"""The selective scan on the Triton kernels.

The kernels can also multiply the steps out of a low-rank factor, as a layer has it: ``delta`` is then the factor, and
``dt_proj_weights`` holds the weight of each direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.forward_kernels import chunk_states_kernel, outputs_kernel
from speechbrain_mamba.ops.backends.triton.launch import launch
from speechbrain_mamba.ops.backends.triton.pass_kernel import pass_states_kernel
from speechbrain_mamba.ops.backends.triton.plan import Plan, plan
from speechbrain_mamba.ops.backends.triton.strides import frames, layout, maps, on_device, parameter
from speechbrain_mamba.ops.directions import ScanInputs
from speechbrain_mamba.ops.kernel_backend import ScanShared, scan_outputs

_PASS_BLOCK, _PASS_UNROLL = 128, 8


class ScanLaunch:
    """Inputs as the kernels take them, and the arguments that several kernels share.

    B, C and factors may have more columns than there are states and ranks: as many as a program, with zeros. Inputs of
    each direction that are ``ready`` lie as the kernels take them, as a layer makes them.
    """

    def __init__(
        self,
        directions: Sequence[ScanInputs],
        shared: ScanShared,
        softplus: bool,
        reverse: bool,
        dt_proj_weights: Sequence[Tensor] = (),
        ready: bool = False,
    ):
        first, self.count = directions[0], len(directions)
        self.directions = [
            ScanInputs(d.u, d.delta, parameter(d.A), d.B, d.C, parameter(d.D), parameter(d.delta_bias))
            for d in (directions if ready else _ready(directions))
        ]
        self.weights: list[Tensor | None] = [parameter(weight) for weight in dt_proj_weights]
        self.weights += [None] * (2 - len(self.weights))
        self.z = None if shared.z is None else frames([shared.z])[0]
        self.initial_state, self.lengths = parameter(shared.initial_state), shared.lengths
        self.softplus, self.reverse = softplus, reverse
        (self.batch, self.time, self.channels), self.states = first.u.shape, first.A.shape[1]
        self.ranks = dt_proj_weights[0].shape[1] if dt_proj_weights else 0
        self.plan: Plan = plan(
            first.u.device, self.batch, self.time, self.channels, self.states, self.ranks, self.count,
            first.u.element_size(),
        )  # fmt: skip
        columns = (first.B.shape[2], first.delta.shape[2] if self.ranks else 0)
        self.masked = columns != (self.plan.block_n, self.plan.block_r)
        self.flags = {"SOFTPLUS": softplus, "DIRECTIONS": self.count, "REVERSE": reverse, "MASKED": self.masked}

    def inputs(self, *names: str) -> list[Tensor | None]:
        """Inputs of both directions, one name after another."""
        found: list[Tensor | None] = []
        for name in names:
            values = [getattr(d, name) for d in self.directions]
            found += values if self.count == 2 else [*values, None]
        return found

    def strides(self) -> tuple[int, ...]:
        """How the inputs of the recurrence lie."""
        first = self.directions[0]
        return (*layout(first.u), *layout(first.delta), *layout(first.B))

    def new(self, *size: int) -> Tensor:
        """Memory in float32."""
        return self.directions[0].u.new_empty(size, dtype=torch.float32)

    def pass_states(self, passing: Tensor, sums: Tensor, dlast: Tensor | None) -> None:
        """Run through the chunks, with the states alone or also with their gradients."""
        kinds, _, _, chunks = passing.shape[:4]
        blocks = -(-self.states * self.channels // _PASS_BLOCK)
        launch(
            pass_states_kernel, blocks * self.batch * self.count * kinds,
            *self.inputs("A"), self.initial_state, dlast, passing, sums, self.batch, self.channels, self.states, chunks,
            DIRECTIONS=self.count, REVERSE=self.reverse, BLOCK=_PASS_BLOCK, UNROLL=_PASS_UNROLL, num_warps=4,
        )  # fmt: skip


def _ready(directions: Sequence[ScanInputs]) -> list[ScanInputs]:
    """Inputs that lie as the kernels take them."""
    count = len(directions)
    us, deltas = frames([d.u for d in directions]), frames([d.delta for d in directions])
    shared = maps([d.B for d in directions] + [d.C for d in directions])
    lying = zip(directions, us, deltas, shared[:count], shared[count:])
    return [d._replace(u=u, delta=delta, B=B, C=C) for d, u, delta, B, C in lying]


def _chunk_states(scan: ScanLaunch) -> Tensor | None:
    """The state that comes into each chunk; None for the initial one of a single chunk."""
    p = scan.plan
    if p.chunks == 1:
        # In both directions there is no initial state, and zeros spare another variant of the kernel.
        return scan.new(2, scan.batch, 1, scan.states, scan.channels).zero_() if scan.count == 2 else None
    passing = scan.new(1, scan.count, scan.batch, p.chunks, scan.states, scan.channels)
    sums = scan.new(scan.count, scan.batch, p.chunks, scan.channels)
    launch(
        chunk_states_kernel, p.blocks * p.chunks * scan.batch * scan.count,
        *scan.inputs("u", "delta", "A", "B", "delta_bias"), *scan.weights, scan.lengths, passing, sums,
        scan.batch, scan.time, scan.channels, scan.states, scan.ranks, p.chunk, p.chunks,
        *scan.strides(), **scan.flags, **p.forward,
    )  # fmt: skip
    scan.pass_states(passing, sums, None)
    return passing


def run_scan(scan: ScanLaunch, y: Tensor, last: Tensor | None) -> None:
    """Compute outputs and last states into their memory."""
    p, z = scan.plan, scan.z
    launch(
        outputs_kernel, p.blocks * p.chunks * scan.batch,
        *scan.inputs("u", "delta", "A", "B", "C", "D", "delta_bias"), *scan.weights, z, scan.lengths, y,
        _chunk_states(scan), scan.initial_state, last,
        scan.batch, scan.time, scan.channels, scan.states, scan.ranks, p.chunk, p.chunks,
        *scan.strides(), *layout(z), *layout(y), **scan.flags, **p.outputs,
    )  # fmt: skip


def scan_kept(directions: Sequence[ScanInputs]) -> tuple[int, ...]:
    """Shape of the states that a scan keeps for its backward pass: it keeps none."""
    return (0,)


def scan_forward(
    directions: Sequence[ScanInputs],
    shared: ScanShared,
    softplus: bool,
    reverse: bool,
    last_state: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs and last states, empty where they are not asked for; and nothing to keep."""
    y, last, nothing = scan_outputs(directions, last_state, None)
    if y.numel() == 0:
        if last_state:
            last.zero_() if shared.initial_state is None else last.copy_(shared.initial_state)
        return y, last, nothing
    with on_device(y):
        run_scan(ScanLaunch(directions, shared, softplus, reverse), y, last if last_state else None)
    return y, last, nothing

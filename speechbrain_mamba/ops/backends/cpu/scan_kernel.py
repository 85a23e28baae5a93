"""The selective scan on the native kernels.

The kernels can also multiply the steps out of a low-rank factor, as a layer has it: ``delta`` is then the factor, and
``dt_proj_weights`` holds the weight of each direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import approximate, memory_like, parameter, pointer, readable, sequence
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.directions import ScanInputs
from speechbrain_mamba.ops.kernel_backend import ScanGradients, ScanShared, scan_outputs

NO_HEADS = (0, 0)
"""Fields of ``scan_args`` that only Mamba-2 has."""
NO_DIRECTION = (0,) * 25
"""Fields of a direction that is not there."""


class _Prepared:
    """Inputs as the kernels take them. They have to outlive the call: the kernels are given their addresses."""

    def __init__(self, directions: Sequence[ScanInputs], shared: ScanShared, weights: Sequence[Tensor]):
        self.directions = [
            ScanInputs(
                readable(d.u), readable(d.delta), parameter(d.A), readable(d.B), readable(d.C), parameter(d.D),
                parameter(d.delta_bias),
            )
            for d in directions
        ]  # fmt: skip
        self.weights = [parameter(weight) for weight in weights]
        self.approximate = approximate(directions[0].u)
        self.shared = ScanShared(readable(shared.z), parameter(shared.initial_state), shared.lengths)

    def fields(
        self, y: Tensor | None, last_state: Tensor | None, borders: Tensor | None, softplus: bool, reverse: bool
    ) -> list[int]:
        """Fields of ``scan_args``."""
        first, shared = self.directions[0], self.shared
        fields = [*first.u.shape, first.A.shape[1], softplus, self.approximate, torch.get_num_threads()]
        fields += [len(self.directions), *NO_HEADS, pointer(shared.lengths), *sequence(shared.z), *sequence(y)]
        initial_state = shared.initial_state
        for index, (d, weight) in enumerate(zip_longest(self.directions, self.weights)):
            for tensor in (d.u, d.delta, d.B, d.C):
                fields += sequence(tensor)
            fields += [pointer(weight), d.delta.shape[2]]
            fields += [pointer(tensor) for tensor in (d.A, d.D, d.delta_bias, initial_state, last_state)]
            fields += [0 if borders is None else borders[index].data_ptr(), reverse or index == 1]
            initial_state = None  # of a scan in one direction
        return fields if len(self.directions) == 2 else [*fields, *NO_DIRECTION]


def scan_kept(directions: Sequence[ScanInputs]) -> tuple[int, ...]:
    """Shape of the states before each chunk of frames."""
    (batch, time, channels), state = directions[0].u.shape, directions[0].A.shape[1]
    chunk, align = library().chunk, library().border_align
    return len(directions), batch, -(-time // chunk), -(-channels // align), state, align


def scan_forward(
    directions: Sequence[ScanInputs],
    shared: ScanShared,
    softplus: bool,
    reverse: bool,
    last_state: bool,
    keep: bool,
    dt_proj_weights: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last states and the states to keep; empty where they are not asked for."""
    y, last, borders = scan_outputs(directions, last_state, scan_kept(directions) if keep else None)
    prepared = _Prepared(directions, shared, dt_proj_weights)
    fields = prepared.fields(y, last if last_state else None, borders if keep else None, softplus, reverse)
    library().call("scan_forward", *fields)
    return y, last, borders


def scan_backward(
    directions: Sequence[ScanInputs],
    shared: ScanShared,
    borders: Tensor,
    dy: Tensor | None,
    dlast_state: Tensor | None,
    softplus: bool,
    reverse: bool,
    dt_proj_weights: Sequence[Tensor] = (),
    dz: Tensor | None = None,
    dmaps: Sequence[tuple[Tensor, Tensor]] = (),
) -> ScanGradients:
    """Gradients; ``dz`` and ``dmaps``, for B and C of each direction, are memory for some of them.

    With ``dt_proj_weights`` the gradient of ``delta`` is that of the steps multiplied out.
    """
    prepared = _Prepared(directions, shared, dt_proj_weights)
    dy = torch.zeros_like(directions[0].u) if dy is None else readable(dy)
    dlast_state = parameter(dlast_state)
    gradients = []
    for d, maps in zip_longest(prepared.directions, dmaps):
        dB, dC = maps or (memory_like(d.B), memory_like(d.C))
        du, ddelta = memory_like(d.u), memory_like(d.u)
        gradients.append(ScanInputs(du, ddelta, memory_like(d.A), dB, dC, memory_like(d.D), memory_like(d.delta_bias)))
    dz = memory_like(prepared.shared.z) if dz is None else dz
    dinitial = memory_like(prepared.shared.initial_state)
    fields = [*prepared.fields(None, None, borders, softplus, reverse), *sequence(dy), *sequence(dz)]
    states = [pointer(dlast_state), pointer(dinitial)]
    for g in gradients:
        for tensor in (g.u, g.delta, g.B, g.C):
            fields += sequence(tensor)
        fields += [*states, *(pointer(tensor) for tensor in (g.A, g.D, g.delta_bias))]
        states = [0, 0]
    library().call("scan_backward", *fields, *(0,) * (21 * (2 - len(gradients))))
    return gradients, ScanShared(dz, dinitial)


def scan_step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence: output and state."""
    parameters = [parameter(t) for t in (A, D, delta_bias, state)]
    sequences = [readable(t) for t in (u, delta, B, C, z)]
    y, after = u.new_empty(u.shape), u.new_empty(state.shape, dtype=torch.float32)
    fields = [*u.shape, A.shape[1], softplus, torch.get_num_threads()]
    for tensor in (*sequences, y):
        fields += sequence(tensor)
    library().call("scan_step", *fields, *(pointer(t) for t in (*parameters, after)))
    return y, after

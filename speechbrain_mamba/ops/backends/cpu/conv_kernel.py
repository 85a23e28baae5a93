"""The causal convolution on the native kernels, in one direction or in two over the same input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import (
    ABSENT,
    approximate,
    memory_like,
    parameter,
    pointer,
    readable,
    sequence,
)
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.directions import Filters
from speechbrain_mamba.ops.kernel_backend import ConvGradients, ConvShared, conv_outputs


def _prepare(directions: Sequence[Filters], shared: ConvShared) -> tuple[list[Filters], ConvShared]:
    """Inputs as the kernels take them. They have to outlive the call: the kernels are given their addresses."""
    filters = [Filters(parameter(d.weight), parameter(d.bias)) for d in directions]
    return filters, ConvShared(readable(shared.x), parameter(shared.initial_state), shared.lengths)


def _fields(
    directions: Sequence[Filters],
    shared: ConvShared,
    outputs: Sequence[Tensor],
    final_state: Tensor | None,
    silu: bool,
    reverse: bool,
) -> list[int]:
    """Fields of ``conv_args``; ``outputs`` are y or its gradient for each direction."""
    x, initial_state, lengths = shared
    first, second = directions[0], directions[1] if len(directions) == 2 else None
    fields = [*x.shape, first.weight.shape[1], silu, approximate(x), torch.get_num_threads(), len(directions)]
    fields += [pointer(lengths), *sequence(x)]
    fields += [*sequence(outputs[0]), pointer(first.weight), pointer(first.bias)]
    fields += [pointer(initial_state), pointer(final_state), reverse]
    if second is None:
        return [*fields, *ABSENT, 0, 0, 0, 0, 1]
    return [*fields, *sequence(outputs[1]), pointer(second.weight), pointer(second.bias), 0, 0, 1]


def conv_forward(
    directions: Sequence[Filters], shared: ConvShared, silu: bool, reverse: bool, final_state: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of one or two directions and the final state; empty where there is none."""
    y, y_b, final = conv_outputs(directions, shared, silu, reverse, final_state)
    computed = parameter(final) if final_state else None
    prepared = _prepare(directions, shared)
    library().call("conv_forward", *_fields(*prepared, [y, y_b], computed, silu, reverse))
    return y, y_b, final if computed is None else computed.to(final.dtype)


def conv_backward(
    directions: Sequence[Filters],
    shared: ConvShared,
    dy: Tensor | None,
    dy_b: Tensor | None,
    dfinal_state: Tensor | None,
    silu: bool,
    reverse: bool,
    dx: Tensor | None = None,
) -> ConvGradients:
    """Gradients; ``dx`` is memory for that of x."""
    prepared = filters, (x, initial_state, _) = _prepare(directions, shared)
    outputs = [torch.zeros_like(x) if d is None else readable(d) for d in (dy, dy_b)]
    dfinal_state = parameter(dfinal_state)
    dx = memory_like(x) if dx is None else dx
    dinitial = memory_like(initial_state)
    gradients = [Filters(memory_like(weight), memory_like(bias)) for weight, bias in filters]
    fields = [*_fields(*prepared, outputs, None, silu, reverse), *sequence(dx)]
    states = [pointer(dfinal_state), pointer(dinitial)]
    for gradient in gradients:
        fields += [*states, *map(pointer, gradient)]
        states = [0, 0]
    library().call("conv_backward", *fields, *(0,) * (4 * (2 - len(gradients))))
    return gradients, ConvShared(dx, dinitial)

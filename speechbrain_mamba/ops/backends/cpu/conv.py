"""The causal convolution's kernels as torch operations, in one direction or in two over the same input."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.arguments import ABSENT, gradient_memory, parameter, pointer, readable, sequence
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.backends.cpu.operations import OPERATIONS
from speechbrain_mamba.ops.conv_operations import CONV_INPUTS, conv_gradients, conv_outputs, register_conv


def _fields(named: dict, outputs: list[Tensor | None], final_state: Tensor | None, silu: bool,
            reverse: bool) -> list[int]:  # fmt: skip
    """Fields of ``conv_args``; ``outputs`` are y or its gradient for each direction."""
    directions = 1 if named["weight_b"] is None else 2
    fields = [*named["x"].shape, named["weight"].shape[1], silu, torch.get_num_threads(), directions]
    fields += [pointer(named["lengths"]), *sequence(named["x"])]
    fields += [*sequence(outputs[0]), pointer(named["weight"]), pointer(named["bias"])]
    fields += [pointer(named["initial_state"]), pointer(final_state), reverse]
    second = sequence(outputs[1]) if directions == 2 else ABSENT
    return [*fields, *second, pointer(named["weight_b"]), pointer(named["bias_b"]), 0, 0, 1]


def _prepare(named: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    prepared = {name: parameter(tensor) for name, tensor in named.items() if name not in ("x", "lengths")}
    return named | prepared | {"x": readable(named["x"])}


def conv_forward(given: dict, silu: bool, reverse: bool, final_state: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve inputs given by name; returns the outputs of one or two directions and the final state, empty ones where
    there is none."""
    given = dict.fromkeys(CONV_INPUTS) | given
    y, y_b, final = conv_outputs(given, final_state)
    computed = parameter(final) if final_state else None
    named = _prepare(given)  # its copies have to outlive the call: the kernel is given their addresses
    library().call("conv_forward", *_fields(named, [y, y_b], computed, silu, reverse))
    return y, y_b, final if computed is None else computed.to(final.dtype)


def conv_backward(given: dict, dy: Tensor | None, dy_b: Tensor | None, dfinal_state: Tensor | None, silu: bool,
                  reverse: bool, into: dict | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by name, of inputs given by name; ``into`` has memory for some of them."""
    given = dict.fromkeys(CONV_INPUTS) | given
    named = _prepare(given)
    dfinal_state = parameter(dfinal_state)
    outputs = [torch.zeros_like(named["x"]) if d is None else readable(d) for d in (dy, dy_b)]
    names = conv_gradients(named)
    grads = gradient_memory(named, names, into)
    fields = [*_fields(named, outputs, None, silu, reverse), *sequence(grads["x"])]
    fields += [pointer(dfinal_state), *(pointer(grads.get(name)) for name in ("initial_state", "weight", "bias"))]
    fields += [0, 0, pointer(grads.get("weight_b")), pointer(grads.get("bias_b"))]
    library().call("conv_backward", *fields)
    return {name: grads[name].to(given[name].dtype) for name in names}


causal_conv1d, bidirectional_causal_conv1d, causal_conv1d_update = register_conv(
    OPERATIONS, conv_forward, conv_backward
)

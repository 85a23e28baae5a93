"""The causal convolution's kernels as torch operations, in one direction or in two over the same input."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.cpu.arguments import ABSENT, gradient_memory, parameter, pointer, readable, sequence
from speechbrain_mamba.ops.cpu.native import library
from speechbrain_mamba.ops.cpu.operations import call, forbid_gradient, register, register_gradient

_INPUTS = ("x", "weight", "bias", "weight_b", "bias_b", "initial_state", "lengths")
_TENSORS = ", ".join(f"Tensor{'' if name in ('x', 'weight') else '?'} {name}" for name in _INPUTS)


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


def _outputs(named: dict, final_state: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, initial = named["x"], named["weight"], named["initial_state"]
    shape = (x.shape[0], x.shape[2], weight.shape[1] - 1)
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape if named["weight_b"] is not None else 0),
        x.new_empty(shape if final_state else 0, dtype=x.dtype if initial is None else initial.dtype),
    )


def conv_forward(given: dict, silu: bool, reverse: bool, final_state: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve inputs given by name; returns the outputs of one or two directions and the final state, empty ones where
    there is none."""
    given = dict.fromkeys(_INPUTS) | given
    y, y_b, final = _outputs(given, final_state)
    computed = parameter(final) if final_state else None
    named = _prepare(given)  # its copies have to outlive the call: the kernel is given their addresses
    library().call("conv_forward", *_fields(named, [y, y_b], computed, silu, reverse))
    return y, y_b, final if computed is None else computed.to(final.dtype)


def _conv(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return conv_forward(dict(zip(_INPUTS, arguments)), *arguments[len(_INPUTS) :])


def _conv_fake(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(dict(zip(_INPUTS, arguments)), arguments[-1])


def _differentiable(named: dict) -> list[str]:
    return [name for name in _INPUTS if name != "lengths" and named[name] is not None]


def conv_backward(given: dict, dy: Tensor | None, dy_b: Tensor | None, dfinal_state: Tensor | None, silu: bool,
                  reverse: bool, into: dict | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by name, of inputs given by name; ``into`` has memory for some of them."""
    given = dict.fromkeys(_INPUTS) | given
    named = _prepare(given)
    dfinal_state = parameter(dfinal_state)
    outputs = [torch.zeros_like(named["x"]) if d is None else readable(d) for d in (dy, dy_b)]
    names = _differentiable(named)
    grads = gradient_memory(named, names, into)
    fields = [*_fields(named, outputs, None, silu, reverse), *sequence(grads["x"])]
    fields += [pointer(dfinal_state), *(pointer(grads.get(name)) for name in ("initial_state", "weight", "bias"))]
    fields += [0, 0, pointer(grads.get("weight_b")), pointer(grads.get("bias_b"))]
    library().call("conv_backward", *fields)
    return {name: grads[name].to(given[name].dtype) for name in names}


def _conv_backward(*arguments) -> list[Tensor]:
    return list(conv_backward(dict(zip(_INPUTS, arguments)), *arguments[len(_INPUTS) :]).values())


def _conv_backward_fake(*arguments) -> list[Tensor]:
    named = dict(zip(_INPUTS, arguments))
    return [named[name].new_empty(named[name].shape) for name in _differentiable(named)]


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, silu, reverse, _ = inputs
    ctx.save_for_backward(*tensors)
    ctx.flags = silu, reverse
    ctx.set_materialize_grads(False)


def _backward(ctx, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    if all(d is None for d in dys):
        return (None,) * (len(inputs) + 3)
    outputs = call("conv_backward", *inputs, *dys, *ctx.flags)
    grads = dict(zip(_differentiable(dict(zip(_INPUTS, inputs))), outputs))
    return (*(grads.get(name) for name in _INPUTS), None, None, None)


register(
    "conv", f"({_TENSORS}, bool silu, bool reverse, bool final_state) -> (Tensor, Tensor, Tensor)", _conv, _conv_fake
)
register(
    "conv_backward",
    f"({_TENSORS}, Tensor? dy, Tensor? dy_b, Tensor? dfinal_state, bool silu, bool reverse) -> Tensor[]",
    _conv_backward,
    _conv_backward_fake,
)
register_gradient("conv", _setup_context, _backward)
forbid_gradient("conv_backward")


def causal_conv1d(x, weight, bias=None, activation=None, *, lengths=None, reverse=False, initial_state=None,
                  return_final_state=False):  # fmt: skip
    """The depthwise causal convolution; see :func:`speechbrain_mamba.ops.causal_conv1d`."""
    y, _, final_state = call(
        "conv", x, weight, bias, None, None, initial_state, lengths, activation is not None, reverse, return_final_state
    )
    return (y, final_state) if return_final_state else y


def bidirectional_causal_conv1d(x, weights, biases, activation, lengths):
    """Both directions at once; see :func:`speechbrain_mamba.ops.bidirectional_causal_conv1d`."""
    y, y_b, _ = call(
        "conv", x, weights[0], biases[0], weights[1], biases[1], None, lengths, activation is not None, False, False
    )
    return y, y_b


def causal_conv1d_update(x, state, weight, bias=None, activation=None):
    """One step of the convolution; see :func:`speechbrain_mamba.ops.causal_conv1d_update`."""
    y, state = causal_conv1d(x[:, None], weight, bias, activation, initial_state=state, return_final_state=True)
    return y[:, 0], state

"""The causal convolution as torch operations of a backend, whatever its kernels are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from speechbrain_mamba.ops.torch_ops import Operations

CONV_INPUTS = ("x", "weight", "bias", "weight_b", "bias_b", "initial_state", "lengths")
"""Tensors of a convolution in one direction, or with ``weight_b`` in two over the same input."""

_TENSORS = ", ".join(f"Tensor{'' if name in ('x', 'weight') else '?'} {name}" for name in CONV_INPUTS)


def conv_outputs(named: dict, final_state: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the outputs of one or two directions and the final state, empty where there is none."""
    x, initial = named["x"], named.get("initial_state")
    shape = (x.shape[0], x.shape[2], named["weight"].shape[1] - 1)
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape if named.get("weight_b") is not None else 0),
        x.new_empty(shape if final_state else 0, dtype=x.dtype if initial is None else initial.dtype),
    )


def conv_gradients(named: dict) -> list[str]:
    """Names of the inputs that get a gradient."""
    return [name for name in CONV_INPUTS if name != "lengths" and named.get(name) is not None]


def register_conv(operations: Operations, forward: Callable, backward: Callable) -> tuple[Callable, Callable, Callable]:
    """Make operations of a backend's convolution.

    Arguments
    ---------
    operations : Operations
        The backend's.
    forward : callable
        From inputs by name, whether SiLU follows, whether it runs in reverse and whether the final state is asked for,
        to what :func:`conv_outputs` says.
    backward : callable
        From inputs by name, gradients of the three outputs or None, and the first two flags, to gradients by name.

    Returns
    -------
    tuple of callable
        The backend's ``causal_conv1d``, ``bidirectional_causal_conv1d`` and ``causal_conv1d_update``.
    """
    count = len(CONV_INPUTS)

    def implementation(*arguments) -> tuple[Tensor, Tensor, Tensor]:
        return forward(dict(zip(CONV_INPUTS, arguments)), *arguments[count:])

    def fake(*arguments) -> tuple[Tensor, Tensor, Tensor]:
        return conv_outputs(dict(zip(CONV_INPUTS, arguments)), arguments[-1])

    def backward_implementation(*arguments) -> list[Tensor]:
        named = dict(zip(CONV_INPUTS, arguments))
        grads = backward(named, *arguments[count:])
        return [grads[name].to(named[name].dtype).contiguous() for name in conv_gradients(named)]

    def backward_fake(*arguments) -> list[Tensor]:
        named = dict(zip(CONV_INPUTS, arguments))
        return [named[name].new_empty(named[name].shape) for name in conv_gradients(named)]

    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        *tensors, silu, reverse, _ = inputs
        ctx.save_for_backward(*tensors)
        ctx.flags = silu, reverse
        ctx.set_materialize_grads(False)

    def differentiate(ctx, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if all(d is None for d in dys):
            return (None,) * (count + 3)
        outputs = operations.call("conv_backward", *inputs, *dys, *ctx.flags)
        grads = dict(zip(conv_gradients(dict(zip(CONV_INPUTS, inputs))), outputs))
        return (*(grads.get(name) for name in CONV_INPUTS), None, None, None)

    schema = f"({_TENSORS}, bool silu, bool reverse, bool final_state) -> (Tensor, Tensor, Tensor)"
    operations.register("conv", schema, implementation, fake)
    schema = f"({_TENSORS}, Tensor? dy, Tensor? dy_b, Tensor? dfinal_state, bool silu, bool reverse) -> Tensor[]"
    operations.register("conv_backward", schema, backward_implementation, backward_fake)
    operations.register_gradient("conv", setup_context, differentiate)
    operations.forbid_gradient("conv_backward")
    return _functions(operations)


def _functions(operations: Operations) -> tuple[Callable, Callable, Callable]:
    def causal_conv1d(x, weight, bias=None, activation=None, *, lengths=None, reverse=False, initial_state=None,
                      return_final_state=False):  # fmt: skip
        """The depthwise causal convolution; see :func:`speechbrain_mamba.ops.conv`."""
        inputs = (x, weight, bias, None, None, initial_state, lengths)
        y, _, final_state = operations.call("conv", *inputs, activation is not None, reverse, return_final_state)
        return (y, final_state) if return_final_state else y

    def bidirectional_causal_conv1d(x, weights, biases, activation, lengths):
        """Both directions at once; see :func:`speechbrain_mamba.ops.bidirectional_causal_conv1d`."""
        inputs = (x, weights[0], biases[0], weights[1], biases[1], None, lengths)
        y, y_b, _ = operations.call("conv", *inputs, activation is not None, False, False)
        return y, y_b

    def causal_conv1d_update(x, state, weight, bias=None, activation=None):
        """One step of the convolution; see :func:`speechbrain_mamba.ops.causal_conv1d_update`."""
        y, state = causal_conv1d(x[:, None], weight, bias, activation, initial_state=state, return_final_state=True)
        return y[:, 0], state

    return causal_conv1d, bidirectional_causal_conv1d, causal_conv1d_update

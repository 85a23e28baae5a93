"""What the operations of exported programs are in ONNX: standard operators around the functions of
:mod:`speechbrain_mamba.ops.onnx_functions`.

Each translation takes an operation's flat arguments, as :mod:`speechbrain_mamba.ops.kernel_backend` lays them out;
those not given are None. Batches are padded: whatever is past an example's length is replaced by zeros first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from speechbrain_mamba.ops.onnx_functions import DOMAIN
from speechbrain_mamba.utils._compat import record_onnx_node

Value = Any
"""A value of the graph."""
_FLOAT = 1
"""float32, among ONNX's numbers of types."""


def _op() -> Any:
    from onnxscript import opset18  # an extra of the package

    return opset18


def _ints(*numbers: int) -> Value:
    return _op().Constant(value_ints=list(numbers))


def _float(number: float) -> Value:
    return _op().Constant(value_float=float(number))


def _nothing() -> Value:
    """The place of an output that nobody asks for."""
    return _float(0)


class _Frames(NamedTuple):
    """Frames (batch, time, ...) in the order of a scan."""

    lengths: Value | None
    reverse: bool

    def turn(self, x: Value) -> Value:
        """Into that order, or back from it."""
        op = _op()
        if not self.reverse:
            return x
        if self.lengths is None:
            return op.Slice(x, _ints(-1), _ints(-(2**31)), _ints(1), _ints(-1))
        return op.ReverseSequence(x, self.lengths, batch_axis=0, time_axis=1)

    def mask(self, x: Value, axes: int) -> Value:
        """Zeros past the lengths, of a tensor with some axes after that of time."""
        op = _op()
        if self.lengths is None:
            return x
        zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
        time = op.Squeeze(op.Shape(x, start=1, end=2), _ints(0))
        valid = op.Less(op.Range(zero, time, one), op.Unsqueeze(self.lengths, _ints(1)))
        return op.Where(op.Unsqueeze(valid, _ints(*range(2, 2 + axes))), x, _float(0))

    def prepare(self, x: Value, axes: int = 1) -> Value:
        return self.turn(self.mask(x, axes))


def _silu(x: Value) -> Value:
    return _op().Mul(x, _op().Sigmoid(x))


def _step(delta: Value, bias: Value | None, softplus: bool, low: float = 0.0, high: float = math.inf) -> Value:
    """The step of a scan."""
    op = _op()
    if bias is not None:
        delta = op.Add(delta, bias)
    if softplus:
        delta = op.Softplus(delta)
    if low > 0 or (not softplus and low > -math.inf):
        delta = op.Max(delta, _float(low))
    return op.Min(delta, _float(high)) if high < math.inf else delta


def _zeros(*shape: Value) -> Value:
    """Zeros of a shape given by its parts."""
    return _op().ConstantOfShape(_op().Concat(*shape, axis=0))


def _size(x: Value, axis: int) -> Value:
    return _op().Shape(x, start=axis, end=axis + 1)


def _convolve(
    x: Value, weight: Value, bias: Value | None, silu: bool, frames: _Frames, initial: Value | None
) -> tuple[Value, Value]:
    """The convolution of frames in the order of the scan, zero past the lengths; and what it ran over, with the frames
    before."""
    op = _op()
    if initial is None:
        width = op.Sub(_size(weight, 1), _ints(1))
        initial = _zeros(_size(x, 0), _size(x, 2), width)
    padded = op.Concat(initial, op.Transpose(x, perm=[0, 2, 1]), axis=2)
    channels = weight.shape[0]
    filters = op.Unsqueeze(weight, _ints(1))
    y = op.Conv(padded, filters, *([] if bias is None else [bias]), group=int(channels))
    y = op.Transpose(y, perm=[0, 2, 1])
    return frames.mask(_silu(y) if silu else y, 1), padded


def _conv(
    weight: Value, bias: Value, weight_b: Value, bias_b: Value, x: Value, initial: Value, lengths: Value,
    silu: bool, reverse: bool, final_state: bool,
) -> tuple[Value, Value, Value]:  # fmt: skip
    op, first = _op(), _Frames(lengths, reverse)
    y, padded = _convolve(first.prepare(x), weight, bias, silu, first, initial)
    y_b = _nothing()
    if weight_b is not None:
        second = _Frames(lengths, True)
        y_b = second.turn(_convolve(second.prepare(x), weight_b, bias_b, silu, second, None)[0])
    state = _nothing()
    if final_state:
        width = int(weight.shape[1])
        if lengths is None:
            state = op.Slice(padded, _ints(1 - width), _ints(2**31), _ints(2)) if width > 1 else initial
        else:
            steps = op.Constant(value_ints=list(range(width - 1)))
            index = op.Unsqueeze(op.Add(op.Unsqueeze(lengths, _ints(1)), steps), _ints(2))
            turned = op.GatherND(op.Transpose(padded, perm=[0, 2, 1]), index, batch_dims=1)
            state = op.Transpose(turned, perm=[0, 2, 1])
    return first.turn(y), y_b, state


def _recur(name: str, u: Value, delta: Value, A: Value, B: Value, C: Value, state: Value) -> tuple[Value, Value]:
    y, last = record_onnx_node(DOMAIN, name, (u, delta, A, B, C, state), 2)
    return y, last


def _scan(
    u: Value, delta: Value, A: Value, B: Value, C: Value, D: Value, bias: Value,
    u_b: Value, delta_b: Value, A_b: Value, B_b: Value, C_b: Value, D_b: Value, bias_b: Value,
    z: Value, initial: Value, lengths: Value, softplus: bool, reverse: bool, last_state: bool, keep: bool,
) -> tuple[Value, Value, Value]:  # fmt: skip
    op, frames = _op(), _Frames(lengths, reverse)

    def run(frames: _Frames, u: Value, delta: Value, A: Value, B: Value, C: Value, D: Value, bias: Value) -> Any:
        u, delta, B, C = (frames.prepare(t) for t in (u, delta, B, C))
        return _run_scan(frames, u, _step(delta, bias, softplus), A, B, C, D, initial)

    y, last = run(frames, u, delta, A, B, C, D, bias)
    if u_b is not None:
        second = run(_Frames(lengths, True), u_b, delta_b, A_b, B_b, C_b, D_b, bias_b)[0]
        y = op.Mul(op.Add(y, second), _float(0.5))
    if z is not None:
        y = op.Mul(y, _silu(z))
    return frames.mask(y, 1), last if last_state else _nothing(), _nothing()


def _run_scan(
    frames: _Frames, u: Value, delta: Value, A: Value, B: Value, C: Value, D: Value | None, initial: Value | None
) -> tuple[Value, Value]:
    """A scan over frames in its order, whose output is in that of time."""
    op = _op()
    if initial is None:
        initial = _zeros(_size(u, 0), op.Shape(A))
    y, last = _recur("SelectiveScan", u, frames.mask(delta, 1), A, B, C, initial)  # a step of zero keeps the state
    if D is not None:
        y = op.Add(y, op.Mul(D, u))
    return frames.turn(y), last


def _layer(
    conv_weight: Value, conv_bias: Value, x_proj: Value, dt_proj: Value, bias: Value, A: Value, D: Value,
    conv_weight_b: Value, conv_bias_b: Value, x_proj_b: Value, dt_proj_b: Value, bias_b: Value, A_b: Value, D_b: Value,
    xz: Value, out_proj: Value, out_bias: Value, lengths: Value, keep: bool,
) -> tuple[Value, Value]:  # fmt: skip
    op = _op()
    x, z = op.Split(xz, axis=2, num_outputs=2)
    ends = _Frames(lengths, False)
    x = ends.mask(x, 1)

    def project(u: Value, weight: Value) -> Value:
        return op.MatMul(u, op.Transpose(weight, perm=[1, 0]))

    def run(reverse: bool, filters: Value, filter_bias: Value, x_proj: Value, dt_proj: Value, bias: Value, A: Value,
            D: Value) -> Value:  # fmt: skip
        frames = _Frames(lengths, reverse)
        u, _ = _convolve(frames.turn(x), filters, filter_bias, True, frames, None)
        rank, states = int(dt_proj.shape[1]), int(A.shape[1])
        # finite past the lengths, as u is
        projected = project(u, x_proj)
        factor = op.Slice(projected, _ints(0), _ints(rank), _ints(2))
        B = op.Slice(projected, _ints(rank), _ints(rank + states), _ints(2))
        C = op.Slice(projected, _ints(rank + states), _ints(rank + 2 * states), _ints(2))
        return _run_scan(frames, u, _step(project(factor, dt_proj), bias, True), A, B, C, D, None)[0]

    first = run(False, conv_weight, conv_bias, x_proj, dt_proj, bias, A, D)
    second = run(True, conv_weight_b, conv_bias_b, x_proj_b, dt_proj_b, bias_b, A_b, D_b)
    y = op.Mul(op.Mul(op.Add(first, second), _float(0.5)), _silu(z))
    y = project(ends.mask(y, 1), out_proj)
    return y if out_bias is None else op.Add(y, out_bias), _nothing()


def _ssd(
    x: Value, delta: Value, A: Value, B: Value, C: Value, D: Value, bias: Value,
    x_b: Value, delta_b: Value, A_b: Value, B_b: Value, C_b: Value, D_b: Value, bias_b: Value,
    z: Value, initial: Value, lengths: Value, softplus: bool, reverse: bool, low: float, high: float, last_state: bool,
) -> tuple[Value, Value]:  # fmt: skip
    op, frames = _op(), _Frames(lengths, reverse)
    x, B, C = (frames.prepare(t, 2) for t in (x, B, C))
    delta = frames.mask(_step(frames.prepare(delta), bias, softplus, low, high), 1)
    if initial is None:
        initial = _zeros(_size(x, 0), op.Shape(x, start=2), _size(B, 3))
    y, last = _recur("Ssd", x, delta, A, B, C, initial)
    y = _skip(y, x, D)
    y = frames.turn(y)
    if z is not None:
        y = op.Mul(y, _silu(z))
    return frames.mask(y, 2), last if last_state else _nothing()


def _skip(y: Value, x: Value, D: Value | None) -> Value:
    """Add the skip connection of Mamba-2 to (..., heads, head channels)."""
    op = _op()
    if D is None:
        return y
    return op.Add(y, op.Mul(op.Unsqueeze(D, _ints(1)) if len(D.shape) == 1 else D, x))


def _scan_step(
    state: Value, u: Value, delta: Value, A: Value, B: Value, C: Value, D: Value, z: Value, bias: Value, softplus: bool
) -> tuple[Value, Value]:
    op = _op()
    delta, last = _step(delta, bias, softplus), _ints(-1)
    decayed = op.Mul(op.Exp(op.Mul(op.Unsqueeze(delta, last), A)), state)
    added = op.Mul(op.Unsqueeze(op.Mul(delta, u), last), op.Unsqueeze(B, _ints(1)))
    state = op.Add(decayed, added)
    y = op.Squeeze(op.MatMul(state, op.Unsqueeze(C, last)), last)
    if D is not None:
        y = op.Add(y, op.Mul(D, u))
    return op.Mul(y, _silu(z)) if z is not None else y, state


def _ssd_step(
    state: Value, x: Value, delta: Value, A: Value, B: Value, C: Value, D: Value, z: Value, bias: Value, softplus: bool,
    low: float, high: float,
) -> tuple[Value, Value]:  # fmt: skip
    op = _op()
    delta, last = _step(delta, bias, softplus, low, high), _ints(-1)

    def of_heads(t: Value) -> Value:  # (batch, groups, states) to (batch, heads, states)
        groups, states = _size(t, 1), _size(t, 2)
        each = op.Div(_size(x, 1), groups)
        wide = op.Expand(op.Unsqueeze(t, _ints(2)), op.Concat(_ints(1), groups, each, states, axis=0))
        return op.Reshape(wide, op.Concat(_ints(0), _size(x, 1), states, axis=0))

    decay = op.Unsqueeze(op.Exp(op.Mul(delta, A)), _ints(2, 3))
    weighted = op.Unsqueeze(op.Mul(op.Unsqueeze(delta, last), x), last)
    state = op.Add(op.Mul(decay, state), op.Mul(weighted, op.Unsqueeze(of_heads(B), _ints(2))))
    y = op.Squeeze(op.MatMul(state, op.Unsqueeze(of_heads(C), last)), last)
    y = _skip(y, x, D)
    return op.Mul(y, _silu(z)) if z is not None else y, state


def _lstm(x: Value, weights: Sequence[Value], layers: int) -> Value:
    op = _op()

    def reorder(t: Value) -> Value:  # the gates i, f, g, o of torch are i, o, f, c in ONNX
        i, f, g, o = op.Split(t, axis=0, num_outputs=4)
        return op.Concat(i, o, f, g, axis=0)

    for layer in range(layers):
        into, across, bias, more = (reorder(t) for t in weights[4 * layer : 4 * layer + 4])
        first = _ints(0)
        hidden = int(weights[4 * layer + 1].shape[1])
        biases = op.Unsqueeze(op.Concat(bias, more, axis=0), first)
        y, _, _ = op.LSTM(x, op.Unsqueeze(into, first), op.Unsqueeze(across, first), biases, hidden_size=hidden)
        x = op.Squeeze(y, _ints(1))
    return x


def _squeeze(x: Value, axis: int) -> Value:
    # torch leaves an axis of another size alone, as SpeechBrain's Conv2d has it; ONNX refuses it
    size = x.shape[axis]
    return _op().Identity(x) if isinstance(size, int) and size != 1 else _op().Squeeze(x, _ints(axis))


def _cummax(x: Value, axis: int) -> tuple[Value, Value]:
    op, axes = _op(), len(x.shape)
    if axis != 1 or axes not in (2, 3):
        raise ValueError(f"cummax over axis {axis} of {axes} has no form in ONNX, only over time of 2 or 3 axes.")
    kind = int(x.dtype)
    if kind != _FLOAT:  # whole numbers such as marks of blocks, exact up to 2**24
        x = op.Cast(x, to=_FLOAT)
    if axes == 2:
        x = op.Unsqueeze(x, _ints(2))
    y = record_onnx_node(DOMAIN, "RunningMax", (x,), 1)[0]
    if axes == 2:
        y = op.Squeeze(y, _ints(2))
    return y if kind == _FLOAT else op.Cast(y, to=kind), _nothing()


def translations() -> dict[Any, Callable[..., Any]]:
    """The ``custom_translation_table`` of ``torch.onnx.export``: nodes of a graph for each operation of programs that
    were exported with the backend ``reference``."""
    from speechbrain_mamba.ops.backends import exported  # noqa: F401  # the operations are there when their module is

    operations = torch.ops.speechbrain_mamba_reference
    ours: dict[str, Callable[..., Any]] = {
        "scan": _scan,
        "conv": _conv,
        "layer": _layer,
        "ssd": _ssd,
        "scan_step": _scan_step,
        "ssd_step": _ssd_step,
    }
    table: dict[Any, Callable[..., Any]] = {
        getattr(operations, name).default: function for name, function in ours.items()
    }
    from speechbrain_mamba.ops import whole_lstm  # noqa: F401

    table[torch.ops.speechbrain_mamba_programs.lstm.default] = _lstm
    return {**table, torch.ops.aten.squeeze.dim: _squeeze, torch.ops.aten.cummax.default: _cummax}

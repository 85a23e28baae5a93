"""The selective scan's kernels as torch operations.

One operation serves a scan in one direction and the two of a bidirectional layer, whose arguments end in ``_b``. The
kernels can also multiply the steps out of a low-rank factor, which takes the place of ``delta`` where there is a
``delta_weight``: :func:`scan_forward` and :func:`scan_backward` are for the layer that has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.arguments import gradient_memory, parameter, pointer, readable, sequence
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.backends.cpu.operations import OPERATIONS
from speechbrain_mamba.ops.torch_ops import asks_for_gradient

_DIRECTION = ("u", "delta", "A", "B", "C", "D", "delta_bias")
_INPUTS = (*_DIRECTION, *(f"{name}_b" for name in _DIRECTION), "z", "initial_state", "lengths")
_REQUIRED = _DIRECTION[:5]
_TENSORS = ", ".join(f"Tensor{'' if name in _REQUIRED else '?'} {name}" for name in _INPUTS)


def _prepare(given: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Inputs by name, as the kernels take them."""
    named = dict.fromkeys((*_INPUTS, "delta_weight", "delta_weight_b")) | given
    for name, tensor in named.items():
        if tensor is not None and name != "lengths":
            sequential = tensor.dim() == 3 and name != "initial_state"
            named[name] = readable(tensor) if sequential else parameter(tensor)
    return named


def _directions(named: dict) -> list[dict]:
    """Each direction's own inputs."""
    names = (*_DIRECTION, "delta_weight")
    first = {name: named[name] for name in (*names, "initial_state")}
    if named["u_b"] is None:
        return [first]
    return [first, {name: named[f"{name}_b"] for name in names} | {"initial_state": None}]


def _forward_fields(named: dict, y: Tensor | None, last_state: Tensor | None, borders: Tensor | None, softplus: bool,
                    reverse: bool) -> list[int]:  # fmt: skip
    """Fields of ``scan_args``."""
    u, directions = named["u"], _directions(named)
    fields = [*u.shape, named["A"].shape[1], softplus, torch.get_num_threads(), len(directions)]
    fields += [pointer(named["lengths"]), *sequence(named["z"]), *sequence(y)]
    for index in range(2):
        if index == len(directions):
            fields += [0] * 25
            continue
        d = directions[index]
        for name in ("u", "delta", "B", "C"):
            fields += sequence(d[name])
        fields += [pointer(d["delta_weight"]), d["delta"].shape[2]]
        fields += [pointer(d[name]) for name in ("A", "D", "delta_bias", "initial_state")]
        fields += [pointer(last_state), 0 if borders is None else borders[index].data_ptr(), reverse or index == 1]
    return fields


def _border_shape(u: Tensor, A: Tensor, directions: int) -> tuple[int, ...]:
    """Shape of the states before each chunk of frames."""
    (batch, time, channels), chunk, align = u.shape, library().chunk, library().border_align
    return directions, batch, -(-time // chunk), -(-channels // align), A.shape[1], align


def _scan_outputs(named: dict, last_state: bool, borders: bool) -> tuple[Tensor, Tensor, Tensor]:
    u, A = named["u"], named["A"]
    batch, _, channels = u.shape
    shape = _border_shape(u, A, 1 if named.get("u_b") is None else 2)
    return (
        u.new_empty(u.shape),
        u.new_empty((batch, channels, A.shape[1]) if last_state else 0, dtype=torch.float32),
        u.new_empty(shape if borders else 0, dtype=torch.float32),
    )


def scan_forward(given: dict, softplus: bool, reverse: bool, last_state: bool, borders: bool):
    """Scan inputs given by name.

    Returns
    -------
    tuple of three Tensors
        Outputs, last states and states at the borders of chunks; empty ones where they are not asked for.
    """
    y, last, saved = _scan_outputs(given, last_state, borders)
    named = _prepare(given)  # its copies have to outlive the call: the kernel is given their addresses
    fields = _forward_fields(named, y, last if last_state else None, saved if borders else None, softplus, reverse)
    library().call("scan_forward", *fields)
    return y, last, saved


def _scan(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return scan_forward(dict(zip(_INPUTS, arguments)), *arguments[len(_INPUTS) :])


def _scan_fake(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return _scan_outputs(dict(zip(_INPUTS, arguments)), *arguments[-2:])


def _differentiable(named: dict) -> list[str]:
    """Names of the inputs that get a gradient, in the order of the backward operation's outputs."""
    return [name for name in _INPUTS if name != "lengths" and named.get(name) is not None]


def scan_backward(given: dict, borders: Tensor, dy: Tensor | None, dlast_state: Tensor | None, softplus: bool,
                  reverse: bool, into: dict | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by name, of inputs given by name; ``into`` has memory for some of them.

    Where there is a ``delta_weight``, the gradient of ``delta`` is that of the steps multiplied out.
    """
    named = _prepare(given)
    dy = torch.zeros_like(named["u"]) if dy is None else readable(dy)
    dlast_state = parameter(dlast_state)
    like = named | {f"delta{s}": named[f"u{s}"] for s in ("", "_b")}
    names = _differentiable(named)
    grads = gradient_memory(like, names, into)
    fields = _forward_fields(named, None, None, borders, softplus, reverse)
    fields += [*sequence(dy), *sequence(grads.get("z"))]
    for suffix in ("", "_b"):
        for name in ("u", "delta", "B", "C"):
            fields += sequence(grads.get(name + suffix))
        if suffix:
            fields += [0, 0]
        else:
            fields += [pointer(dlast_state), pointer(grads.get("initial_state"))]
        fields += [pointer(grads.get(name + suffix)) for name in ("A", "D", "delta_bias")]
    library().call("scan_backward", *fields)
    return {name: grads[name].to(given[name].dtype) for name in names}


def _scan_backward(*arguments) -> list[Tensor]:
    return list(scan_backward(dict(zip(_INPUTS, arguments)), *arguments[len(_INPUTS) :]).values())


def _scan_backward_fake(*arguments) -> list[Tensor]:
    named = dict(zip(_INPUTS, arguments))
    return [named[name].new_empty(named[name].shape) for name in _differentiable(named)]


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, softplus, reverse, _, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.flags = softplus, reverse
    ctx.set_materialize_grads(False)


def _backward(ctx, dy: Tensor | None, dlast_state: Tensor | None, _) -> tuple[Tensor | None, ...]:
    *inputs, borders = ctx.saved_tensors
    if dy is None and dlast_state is None:
        return (None,) * (len(inputs) + 4)
    if borders.numel() == 0:  # the forward pass was not told that gradients would be asked for
        _, _, borders = OPERATIONS.call("scan", *inputs, *ctx.flags, False, True)
    outputs = OPERATIONS.call("scan_backward", *inputs, borders, dy, dlast_state, *ctx.flags)
    grads = dict(zip(_differentiable(dict(zip(_INPUTS, inputs))), outputs))
    return (*(grads.get(name) for name in _INPUTS), None, None, None, None)


def _step(state, u, delta, A, B, C, D, z, delta_bias, softplus) -> tuple[Tensor, Tensor]:
    state, A, D, delta_bias = (parameter(t) for t in (state, A, D, delta_bias))
    u, delta, B, C, z = (readable(t) for t in (u, delta, B, C, z))
    y, after = u.new_empty(u.shape), torch.empty_like(state)
    fields = [*u.shape, A.shape[1], softplus, torch.get_num_threads()]
    for tensor in (u, delta, B, C, z, y):
        fields += sequence(tensor)
    library().call("scan_step", *fields, *(pointer(t) for t in (A, D, delta_bias, state, after)))
    return y, after


def _step_fake(state, u, delta, A, B, C, D, z, delta_bias, softplus) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), state.new_empty(state.shape, dtype=torch.float32)


OPERATIONS.register(
    "scan",
    f"({_TENSORS}, bool softplus, bool reverse, bool last_state, bool borders) -> (Tensor, Tensor, Tensor)",
    _scan,
    _scan_fake,
)
OPERATIONS.register(
    "scan_backward",
    f"({_TENSORS}, Tensor borders, Tensor? dy, Tensor? dlast_state, bool softplus, bool reverse) -> Tensor[]",
    _scan_backward,
    _scan_backward_fake,
)
OPERATIONS.register(
    "scan_step",
    "(Tensor state, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias,"
    " bool softplus) -> (Tensor, Tensor)",
    _step,
    _step_fake,
)
OPERATIONS.register_gradient("scan", _setup_context, _backward)
OPERATIONS.forbid_gradient("scan_backward")
OPERATIONS.forbid_gradient("scan_step")


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, *, lengths=None,
                   reverse=False, initial_state=None, return_last_state=False):  # fmt: skip
    """The selective scan; see :func:`speechbrain_mamba.ops.scan`."""
    keep = asks_for_gradient(u, delta, A, B, C, D, z, delta_bias, initial_state)
    y, last_state, _ = OPERATIONS.call(
"scan",
        u, delta, A, B, C, D, delta_bias, None, None, None, None, None, None, None, z, initial_state, lengths,
        delta_softplus, reverse, return_last_state, keep,
    )  # fmt: skip
    return (y, last_state) if return_last_state else y


def bidirectional_selective_scan(forward, reverse, z, delta_softplus, lengths):
    """Both directions at once; see :func:`speechbrain_mamba.ops.bidirectional_selective_scan`.

    ``forward`` and ``reverse`` hold each direction's arguments by name.
    """
    directions = [[direction[name] for name in _DIRECTION] for direction in (forward, reverse)]
    keep = asks_for_gradient(*directions[0], *directions[1], z)
    return OPERATIONS.call(
        "scan", *directions[0], *directions[1], z, None, lengths, delta_softplus, False, False, keep
    )[0]


def selective_state_update(state, u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """One step of the recurrence; see :func:`speechbrain_mamba.ops.selective_state_update`."""
    if not asks_for_gradient(state, u, delta, A, B, C, D, z, delta_bias):
        return OPERATIONS.call("scan_step", state, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    # A sequence of one frame, which has gradients.
    u, delta, B, C, z = (None if t is None else t[:, None] for t in (u, delta, B, C, z))
    y, state = selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state=state, return_last_state=True
    )
    return y[:, 0], state

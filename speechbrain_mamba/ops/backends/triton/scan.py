"""The selective scan's kernels as torch operations.

One operation serves a scan in one direction and the two of a bidirectional layer, whose arguments end in ``_b``. Where
there is a ``delta_weight``, ``delta`` is the low-rank factor that it multiplies out to steps, inside the kernels:
:func:`scan_forward` and :func:`scan_backward` are for the layer that has it.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.arguments import frames, maps, on_device, parameter, strides
from speechbrain_mamba.ops.backends.triton.backward_kernels import chunk_gradients_kernel, gradients_kernel
from speechbrain_mamba.ops.backends.triton.forward_kernels import (
    chunk_states_kernel,
    outputs_kernel,
    pass_states_kernel,
)
from speechbrain_mamba.ops.backends.triton.operations import OPERATIONS
from speechbrain_mamba.ops.backends.triton.plan import SUBCHUNK, Plan, plan
from speechbrain_mamba.ops.torch_ops import asks_for_gradient

_DIRECTION = ("u", "delta", "A", "B", "C", "D", "delta_bias")
_INPUTS = (*_DIRECTION, *(f"{name}_b" for name in _DIRECTION), "z", "initial_state", "lengths")
_TENSORS = ", ".join(f"Tensor{'' if name in _DIRECTION[:5] else '?'} {name}" for name in _INPUTS)
_SUFFIXES = ("", "_b")
_PASS_BLOCK, _PASS_UNROLL = 128, 8


class _Launch:
    """Inputs as the kernels take them, and the arguments that several kernels share."""

    def __init__(self, given: dict[str, Tensor | None], softplus: bool, reverse: bool):
        named = dict.fromkeys((*_INPUTS, "delta_weight", "delta_weight_b")) | given
        for name in ("u", "delta"):
            named[name], named[f"{name}_b"] = frames(named[name], named[f"{name}_b"])
        names = [f"{name}{suffix}" for name in "BC" for suffix in _SUFFIXES]
        named |= zip(names, maps(*(named[name] for name in names)))
        (named["z"],) = frames(named["z"])
        for name in ("A", "D", "delta_bias", "delta_weight"):
            for suffix in _SUFFIXES:
                named[name + suffix] = parameter(named[name + suffix])
        named["initial_state"] = parameter(named["initial_state"])
        self.named, self.softplus, self.reverse = named, softplus, reverse
        self.directions = 1 if named["u_b"] is None else 2
        (self.batch, self.time, self.channels), self.states = named["u"].shape, named["A"].shape[1]
        self.ranks = 0 if named["delta_weight"] is None else named["delta"].shape[2]
        device = named["u"].device
        self.plan: Plan = plan(device, self.batch, self.time, self.channels, self.states, self.ranks)

    def pairs(self, *names: str) -> list[Tensor | None]:
        """Inputs of both directions."""
        return [self.named[name + suffix] for name in names for suffix in _SUFFIXES]

    def sizes(self) -> list[int]:
        """Sizes, as all kernels of chunks begin with them."""
        return [
            self.batch, self.time, self.channels, self.states, self.ranks, self.plan.chunk, self.plan.chunks
        ]  # fmt: skip

    def strides(self) -> list[int]:
        """Strides of the inputs of the recurrence."""
        return [stride for name in ("u", "delta", "B") for stride in strides(self.named[name])]

    def new_states(self) -> tuple[Tensor, Tensor]:
        """Memory for each chunk's state and sum of steps."""
        shape = (self.directions, self.batch, self.plan.chunks)
        new = self.named["u"].new_empty
        states = new((*shape, self.states, self.channels), dtype=torch.float32)
        return states, new((*shape, self.channels), dtype=torch.float32)

    def flags(self) -> dict:
        """Constants of the kernels for both directions."""
        return {"SOFTPLUS": self.softplus, "DIRECTIONS": self.directions, "REVERSE": self.reverse}

    def pass_states(self, initial: Tensor | None, states: Tensor, sums: Tensor, descending: bool) -> None:
        """Run through the chunks."""
        blocks = triton.cdiv(self.states * self.channels, _PASS_BLOCK)
        pass_states_kernel[(blocks * self.batch * self.directions,)](
            *self.pairs("A"), initial, states, sums, self.batch, self.channels, self.states,
            self.plan.chunks, DESCENDING=descending, BLOCK=_PASS_BLOCK, UNROLL=_PASS_UNROLL, num_warps=4,
        )  # fmt: skip


def _chunk_states(launch: _Launch) -> Tensor | None:
    """The state that comes into each chunk; None where there is one chunk only."""
    p, named = launch.plan, launch.named
    if p.chunks == 1:
        return None
    states, sums = launch.new_states()
    programs = triton.cdiv(launch.channels, p.forward()["BLOCK_C"]) * p.chunks * launch.batch * launch.directions
    chunk_states_kernel[(programs,)](
        *launch.pairs("u", "delta", "A", "B", "delta_bias", "delta_weight"), named["lengths"], states, sums,
        *launch.sizes(), *launch.strides(), **launch.flags(), **p.forward(),
    )  # fmt: skip
    launch.pass_states(named["initial_state"], states, sums, launch.reverse)
    return states


def scan_forward(given: dict, softplus: bool, reverse: bool, last_state: bool):
    """Scan inputs given by name.

    Returns
    -------
    y : Tensor
        Outputs (batch, time, channels).
    last : Tensor or None
        Last states, where they are asked for.
    states : Tensor or None
        The state that comes into each chunk, for the backward pass; None where there is one chunk only.
    """
    u, A = given["u"], given["A"]
    y = u.new_empty(u.shape)
    last = u.new_empty((u.shape[0], u.shape[2], A.shape[1]), dtype=torch.float32) if last_state else None
    if y.numel() == 0:
        if last is not None:
            last.zero_() if given.get("initial_state") is None else last.copy_(given["initial_state"])
        return y, last, None
    launch = _Launch(given, softplus, reverse)
    p, named = launch.plan, launch.named
    with on_device(u):
        states = _chunk_states(launch)
        outputs_kernel[(triton.cdiv(launch.channels, p.forward()["BLOCK_C"]) * p.chunks * launch.batch,)](
            *launch.pairs("u", "delta", "A", "B", "C", "D", "delta_bias", "delta_weight"),
            named["z"], named["lengths"], y, states, named["initial_state"], last,
            *launch.sizes(), *launch.strides(), *strides(named["z"]), *strides(y), **launch.flags(), **p.forward(),
        )  # fmt: skip
    return y, last, states


def _leaving_gradients(launch: _Launch, states, dy: Tensor, dlast: Tensor | None) -> Tensor | None:
    """The gradient of the state that leaves each chunk; None where there is one chunk only."""
    p = launch.plan
    if p.chunks == 1:
        return None
    gradients, sums = launch.new_states()
    _run_chunk_gradients(launch, states, dy, None, gradients, sums, 0, p.chunks)
    launch.pass_states(dlast, gradients, sums, not launch.reverse)
    return gradients


def _run_chunk_gradients(launch: _Launch, states, dy, borders, gradients, sums, first: int, slab: int) -> None:
    p, named = launch.plan, launch.named
    constants = p.forward() | {"SUBCHUNK": SUBCHUNK}
    programs = triton.cdiv(launch.channels, constants["BLOCK_C"]) * slab * launch.batch * launch.directions
    chunk_gradients_kernel[(programs,)](
        *launch.pairs("u", "delta", "A", "B", "C", "delta_bias", "delta_weight"), named["z"], named["lengths"],
        dy, states, named["initial_state"], borders, gradients, sums, *launch.sizes(), first, slab,
        *launch.strides(), *strides(named["z"]), *strides(dy), **launch.flags(), **constants,
    )  # fmt: skip


class _Gradients:
    """Memory for the gradients of a scan; sums over programs have a place for each."""

    def __init__(self, launch: _Launch, into: dict[str, Tensor], output: bool):
        u, named = launch.named["u"], launch.named
        blocks = triton.cdiv(launch.channels, launch.plan.backward()["BLOCK_C"])
        shape = (launch.directions, launch.batch)
        chunk = (*shape, launch.plan.chunks)

        def new(*size: int) -> Tensor:
            return u.new_empty(size, dtype=torch.float32)

        self.du = u.new_empty((launch.directions, *u.shape))
        steps = u if launch.ranks else named["delta"]  # multiplied out, they have no tensor of their own
        self.ddelta = torch.empty_like(self.du, dtype=steps.dtype)
        self.maps = new(blocks, *shape, launch.time, 2 * launch.states)
        self.dA = new(*chunk, launch.states, launch.channels)
        self.dD, self.dbias = new(*chunk, launch.channels), new(*chunk, launch.channels)
        z, initial = named["z"], named["initial_state"]
        self.dz = into.get("z")
        if self.dz is None and z is not None:
            self.dz = z.new_empty(z.shape)
        self.y = u.new_empty(u.shape) if output else None
        self.initial = None if initial is None else torch.empty_like(initial)

    def by_name(self, launch: _Launch) -> dict[str, Tensor]:
        """Sums, by the name of the input whose gradient they are; B and C together as ``maps``."""
        maps = self.maps.sum(0)
        dA = self.dA.sum((1, 2)).transpose(-1, -2)
        dD, dbias = self.dD.sum((1, 2)), self.dbias.sum((1, 2))
        grads = {"z": self.dz, "initial_state": self.initial}
        for i, suffix in enumerate(_SUFFIXES[: launch.directions]):
            dB, dC = maps[i].split(launch.states, -1)
            values = (self.du[i], self.ddelta[i], dA[i], dB, dC, dD[i], dbias[i])
            grads |= {name + suffix: value for name, value in zip(_DIRECTION, values)}
        return grads


def scan_backward(given: dict, states: Tensor | None, dy: Tensor | None, dlast: Tensor | None, softplus: bool,
                  reverse: bool, into: dict | None = None, output: bool = False) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by name, of inputs given by name, sums in float32; where there is a ``delta_weight``, the gradient of
    ``delta`` is that of the steps multiplied out. ``into`` may have memory for that of z; ``output`` adds the output
    ``y``, as a gated scan computes it on its way.
    """
    u = given["u"]
    launch = _Launch(given, softplus, reverse)
    p, named = launch.plan, launch.named
    dy = torch.zeros_like(u) if dy is None else frames(dy)[0]
    dlast = parameter(dlast)
    out = _Gradients(launch, into or {}, output)
    constants = p.backward()
    with on_device(u):
        leaving = _leaving_gradients(launch, states, dy, dlast)
        shape = (launch.directions, launch.batch, p.slab, p.chunk // constants["SUBCHUNK"])
        borders = u.new_empty((*shape, launch.states, launch.channels), dtype=torch.float32)
        for first in range(0, p.chunks, p.slab):
            slab = min(p.slab, p.chunks - first)
            _run_chunk_gradients(launch, states, dy, borders, None, None, first, slab)
            for i, suffix in enumerate(_SUFFIXES[: launch.directions]):
                own = (
                    named[name + suffix] for name in ("u", "delta", "A", "B", "C", "D", "delta_bias", "delta_weight")
                )
                gradients_kernel[(triton.cdiv(launch.channels, constants["BLOCK_C"]) * slab * launch.batch,)](
                    *own, named["z"], named["lengths"], dy, borders, leaving, dlast, out.du[i], out.ddelta[i],
                    out.maps, out.dz, out.y, out.dA, out.dD, out.dbias, out.initial, i, *launch.sizes(), first, slab,
                    *launch.strides(), *strides(named["z"]), *strides(dy), *strides(out.du[i]), *strides(out.dz),
                    *strides(out.y), SOFTPLUS=softplus, REVERSE=reverse if launch.directions == 1 else i == 1,
                    HALF=0 if launch.directions == 1 else i + 1, **constants,
                )  # fmt: skip
    return out.by_name(launch) | ({"y": out.y} if output else {})


def _outputs(u: Tensor, A: Tensor, last_state: bool, states: bool, directions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Empty outputs of the operation."""
    (batch, time, channels), n = u.shape, A.shape[1]
    p = plan(u.device, batch, time, channels, n, 0)
    kept = (directions, batch, p.chunks, n, channels) if states and p.chunks > 1 and u.numel() else 0
    return (
        u.new_empty(u.shape),
        u.new_empty((batch, channels, n) if last_state else 0, dtype=torch.float32),
        u.new_empty(kept, dtype=torch.float32),
    )


def _scan(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    softplus, reverse, last_state, keep = arguments[len(_INPUTS) :]
    named = dict(zip(_INPUTS, arguments))
    y, last, states = scan_forward(named, softplus, reverse, last_state)
    nothing = named["u"].new_empty(0, dtype=torch.float32)
    return y, nothing if last is None else last, states if keep and states is not None else nothing.clone()


def _scan_fake(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    named = dict(zip(_INPUTS, arguments))
    return _outputs(named["u"], named["A"], *arguments[-2:], 1 if named["u_b"] is None else 2)


def _differentiable(named: dict) -> list[str]:
    """Names of the inputs that get a gradient, in the order of the backward operation's outputs."""
    return [name for name in _INPUTS if name != "lengths" and named.get(name) is not None]


def _scan_backward(*arguments) -> list[Tensor]:
    named = dict(zip(_INPUTS, arguments))
    states, dy, dlast, softplus, reverse = arguments[len(_INPUTS) :]
    names = _differentiable(named)
    if named["u"].numel() == 0:
        grads = {name: torch.zeros_like(named[name]) for name in names}
        if dlast is not None and "initial_state" in grads:
            grads["initial_state"] = dlast
    else:
        if states.numel() == 0:
            states = None
        grads = scan_backward(named, states, dy, dlast, softplus, reverse)
    return [grads[name].to(named[name].dtype).contiguous() for name in names]


def _scan_backward_fake(*arguments) -> list[Tensor]:
    named = dict(zip(_INPUTS, arguments))
    return [named[name].new_empty(named[name].shape) for name in _differentiable(named)]


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, softplus, reverse, _, keep = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.flags, ctx.kept = (softplus, reverse), keep
    ctx.set_materialize_grads(False)


def _backward(ctx, dy: Tensor | None, dlast: Tensor | None, _) -> tuple[Tensor | None, ...]:
    *inputs, states = ctx.saved_tensors
    if dy is None and dlast is None:
        return (None,) * (len(inputs) + 4)
    if not ctx.kept:  # the forward pass was not told that gradients would be asked for
        _, _, states = OPERATIONS.call("scan", *inputs, *ctx.flags, False, True)
    outputs = OPERATIONS.call("scan_backward", *inputs, states, dy, dlast, *ctx.flags)
    grads = dict(zip(_differentiable(dict(zip(_INPUTS, inputs))), outputs))
    return (*(grads.get(name) for name in _INPUTS), None, None, None, None)


OPERATIONS.register(
    "scan",
    f"({_TENSORS}, bool softplus, bool reverse, bool last_state, bool keep) -> (Tensor, Tensor, Tensor)",
    _scan,
    _scan_fake,
)
OPERATIONS.register(
    "scan_backward",
    f"({_TENSORS}, Tensor states, Tensor? dy, Tensor? dlast, bool softplus, bool reverse) -> Tensor[]",
    _scan_backward,
    _scan_backward_fake,
)
OPERATIONS.register_gradient("scan", _setup_context, _backward)
OPERATIONS.forbid_gradient("scan_backward")


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, *, lengths=None,
                   reverse=False, initial_state=None, return_last_state=False):  # fmt: skip
    """The selective scan; see :func:`speechbrain_mamba.ops.scan`."""
    keep = asks_for_gradient(u, delta, A, B, C, D, z, delta_bias, initial_state)
    y, last_state, _ = OPERATIONS.call(
        "scan", u, delta, A, B, C, D, delta_bias, *(None,) * 7, z, initial_state, lengths,
        delta_softplus, reverse, return_last_state, keep,
    )  # fmt: skip
    return (y, last_state) if return_last_state else y


def bidirectional_selective_scan(forward, reverse, z, delta_softplus, lengths):
    """Both directions at once; see :func:`speechbrain_mamba.ops.bidirectional_selective_scan`.

    ``forward`` and ``reverse`` hold each direction's arguments by name.
    """
    directions = [direction[name] for direction in (forward, reverse) for name in _DIRECTION]
    keep = asks_for_gradient(*directions, z)
    return OPERATIONS.call("scan", *directions, z, None, lengths, delta_softplus, False, False, keep)[0]


def selective_state_update(state, u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """One step of the recurrence, a sequence of one frame, for which one kernel runs; see
    :func:`speechbrain_mamba.ops.selective_state_update`."""
    u, delta, B, C, z = (None if t is None else t[:, None] for t in (u, delta, B, C, z))
    y, state = selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state=state, return_last_state=True
    )
    return y[:, 0], state

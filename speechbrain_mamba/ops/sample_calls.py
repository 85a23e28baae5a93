"""A small call of each operation, forward and backward: what a backend is checked with before it serves.

The lengths are shorter than the time, and the frames past them are NaN, which must reach nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechbrain_mamba.ops.directions import Direction, Filters, ScanInputs, SsdInputs
from speechbrain_mamba.ops.layer import run_layer, run_one_way
from speechbrain_mamba.ops.registry import Call
from speechbrain_mamba.ops.ssd import run_both_ways
from speechbrain_mamba.ops.step import run_step

BATCH, TIME, CHANNELS, D_MODEL = 2, 80, 48, 8
HEADS, GROUPS = 6, 2
LENGTHS = (80, 33)
SUMS = {"A", "D", "delta_bias", "weight", "bias", "out_proj_weight", "conv_weight", "conv_bias", "x_proj_weight",
        "dt_proj_weight"}  # fmt: skip
"""Inputs without an axis of time: their gradients are sums over batch and time, whose terms may cancel."""


class Case(NamedTuple):
    """What the kernels of a call depend on."""

    op: str
    """Name of the operation."""
    dtype: torch.dtype
    """Type of the sequences; parameters are float32."""
    states: int = 16
    """States per channel."""
    width: int = 4
    """Frames of a filter."""
    rank: int = 4
    """Rank of the step's factor."""
    continues: bool = False
    """Whether a scan has an initial state."""
    head: int = 8
    """Channels of a head of Mamba-2."""


class Operation(NamedTuple):
    """How an operation is called."""

    inputs: Callable[[Case], dict[str, Any]]
    """Its inputs, tensors in float64 or named tuples of them."""
    run: Callable[[ModuleType, dict[str, Any], Tensor], Any]
    """From backend, inputs and lengths to outputs."""
    gradients: int = 1
    """Of how many outputs the gradient is taken; 0 for steps, which not all backends differentiate."""


def _scan(case: Case, *shape: int) -> dict[str, Tensor]:
    shape = shape or (BATCH, TIME)
    inputs = {
        "u": torch.randn(*shape, CHANNELS),
        "delta": torch.randn(*shape, CHANNELS) - 1,
        "A": -4 * torch.rand(CHANNELS, case.states),
        "B": torch.randn(*shape, case.states),
        "C": torch.randn(*shape, case.states),
        "D": torch.randn(CHANNELS),
        "delta_bias": torch.randn(CHANNELS),
        "z": torch.randn(*shape, CHANNELS),
    }
    return inputs | ({"initial_state": torch.randn(BATCH, CHANNELS, case.states)} if case.continues else {})


def _both_scans(case: Case) -> dict[str, Any]:
    one, other = _scan(case), _scan(case)
    forward, reverse = (ScanInputs(*(inputs[name] for name in ScanInputs._fields)) for inputs in (one, other))
    return {"forward": forward, "reverse": reverse, "z": one["z"]}


def _scan_step(case: Case) -> dict[str, Tensor]:
    return {"state": torch.randn(BATCH, CHANNELS, case.states)} | _scan(case._replace(continues=False), BATCH)


def _ssd(case: Case, *shape: int) -> dict[str, Tensor]:
    shape = shape or (BATCH, TIME)
    inputs = {
        "x": torch.randn(*shape, HEADS, case.head),
        "delta": torch.randn(*shape, HEADS) - 1,
        "A": -4 * torch.rand(HEADS),
        "B": torch.randn(*shape, GROUPS, case.states),
        "C": torch.randn(*shape, GROUPS, case.states),
        "D": torch.randn(HEADS),
        "z": torch.randn(*shape, HEADS, case.head),
        "delta_bias": torch.randn(HEADS),
    }
    state = torch.randn(BATCH, HEADS, case.head, case.states)
    return inputs | ({"initial_state": state} if case.continues else {})


def _both_ssds(case: Case) -> dict[str, Any]:
    one, other = _ssd(case._replace(continues=False)), _ssd(case._replace(continues=False))
    forward, reverse = (SsdInputs(*(inputs[name] for name in SsdInputs._fields)) for inputs in (one, other))
    return {"forward": forward, "reverse": reverse, "z": one["z"]}


def _ssd_step(case: Case) -> dict[str, Tensor]:
    state = torch.randn(BATCH, HEADS, case.head, case.states)
    return {"state": state} | _ssd(case._replace(continues=False), BATCH)


def _filters(case: Case) -> Filters:
    return Filters(torch.randn(CHANNELS, case.width), torch.randn(CHANNELS))


def _conv(case: Case) -> dict[str, Tensor]:
    return {"x": torch.randn(BATCH, TIME, CHANNELS), **_filters(case)._asdict()}


def _both_convs(case: Case) -> dict[str, Any]:
    return {"x": torch.randn(BATCH, TIME, CHANNELS), "forward": _filters(case), "reverse": _filters(case)}


def _conv_step(case: Case) -> dict[str, Tensor]:
    state = torch.randn(BATCH, CHANNELS, case.width - 1)
    return {"x": torch.randn(BATCH, CHANNELS), "state": state, **_filters(case)._asdict()}


def _direction(case: Case) -> Direction:
    return Direction(
        *_filters(case),
        x_proj_weight=torch.randn(case.rank + 2 * case.states, CHANNELS) / CHANNELS**0.5,
        dt_proj_weight=torch.randn(CHANNELS, case.rank) / case.rank**0.5,
        delta_bias=torch.randn(CHANNELS) - 1,
        A=-4 * torch.rand(CHANNELS, case.states),
        D=torch.randn(CHANNELS),
    )


def _layer_step(case: Case) -> dict[str, Any]:
    return {
        "xz": torch.randn(BATCH, 2 * CHANNELS),
        "conv_state": torch.randn(BATCH, CHANNELS, case.width - 1),
        "ssm_state": torch.randn(BATCH, CHANNELS, case.states),
        "direction": _direction(case),
    }


def _one_way(case: Case) -> dict[str, Any]:
    x, z = torch.randn(2, BATCH, TIME, CHANNELS).unbind()
    inputs = {"x": x, "direction": _direction(case), "z": z}
    if not case.continues:
        return inputs
    states = {"conv_state": torch.randn(BATCH, CHANNELS, case.width - 1)}
    return inputs | states | {"scan_state": torch.randn(BATCH, CHANNELS, case.states)}


def _run_one_way(backend: ModuleType, inputs: dict[str, Any], lengths: Tensor) -> tuple[Tensor, ...]:
    x, direction, z = (inputs[name] for name in ("x", "direction", "z"))
    state = inputs.get("conv_state"), inputs.get("scan_state")
    y, after = run_one_way(backend, x, direction, z, lengths, True, state)
    return (y, *after)


def _layer(case: Case) -> dict[str, Any]:
    return {
        "xz": torch.randn(BATCH, TIME, 2 * CHANNELS),
        "forward": _direction(case),
        "reverse": _direction(case),
        "out_proj_weight": torch.randn(D_MODEL, CHANNELS) / CHANNELS**0.5,
        "out_proj_bias": None,
    }


OPERATIONS = {
    "selective_scan": Operation(
        _scan,
        lambda backend, inputs, lengths: backend.selective_scan(
            **inputs, delta_softplus=True, lengths=lengths, return_last_state=True
        ),
    ),
    "bidirectional_selective_scan": Operation(
        _both_scans,
        lambda backend, inputs, lengths: backend.bidirectional_selective_scan(
            **inputs, delta_softplus=True, lengths=lengths
        ),
    ),
    "selective_state_update": Operation(
        _scan_step,
        lambda backend, inputs, lengths: backend.selective_state_update(**inputs, delta_softplus=True),
        gradients=0,
    ),
    "ssd": Operation(
        _ssd,
        lambda backend, inputs, lengths: backend.ssd(
            **inputs, delta_softplus=True, dt_limit=(0.01, 2.0), lengths=lengths, return_last_state=True
        ),
    ),
    "bidirectional_ssd": Operation(
        _both_ssds,
        lambda backend, inputs, lengths: run_both_ways(
            backend, **inputs, delta_softplus=True, dt_limit=(0.01, 2.0), lengths=lengths
        ),
    ),
    "ssd_update": Operation(
        _ssd_step,
        lambda backend, inputs, lengths: backend.ssd_update(**inputs, delta_softplus=True, dt_limit=(0.01, 2.0)),
        gradients=0,
    ),
    "causal_conv1d": Operation(
        _conv,
        lambda backend, inputs, lengths: backend.causal_conv1d(
            **inputs, activation="silu", lengths=lengths, return_final_state=True
        ),
    ),
    "causal_conv1d_update": Operation(
        _conv_step,
        lambda backend, inputs, lengths: backend.causal_conv1d_update(**inputs, activation="silu"),
        gradients=0,
    ),
    "bidirectional_causal_conv1d": Operation(
        _both_convs,
        lambda backend, inputs, lengths: backend.bidirectional_causal_conv1d(
            **inputs, activation="silu", lengths=lengths
        ),
        gradients=2,
    ),
    "mamba_inner_update": Operation(
        _layer_step, lambda backend, inputs, lengths: run_step(backend, **inputs), gradients=0
    ),
    "mamba_inner": Operation(_one_way, _run_one_way),
    "bidirectional_mamba_inner": Operation(
        _layer, lambda backend, inputs, lengths: run_layer(backend, **inputs, lengths=lengths)
    ),
}
"""Every operation by name."""


def _mapped(function: Callable[[str, Tensor], Tensor], inputs: dict[str, Any]) -> dict[str, Any]:
    """A function of name and tensor, of each tensor inside."""

    def apply(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            fields: Any = type(value)
            return fields(*(apply(field, t) for field, t in zip(fields._fields, value)))
        return None if value is None else function(name, value)

    return {name: apply(name, value) for name, value in inputs.items()}


def make_inputs(case: Case) -> dict[str, Any]:
    """Make the inputs of a case on the CPU, always the same: sequences rounded to its dtype, parameters in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = OPERATIONS[case.op].inputs(case)

    def prepare(name: str, t: Tensor) -> Tensor:
        if t.dim() >= 3 and t.shape[1] == TIME:
            for example, length in enumerate(LENGTHS):
                t[example, length:] = torch.nan
        return t if name in SUMS or "state" in name else t.to(case.dtype)

    return _mapped(prepare, inputs)


def call_of(case: Case, inputs: dict[str, Any], device: torch.device) -> Call:
    """What a backend is asked whether it supports."""
    tensors: list[Tensor] = []

    def add(name: str, t: Tensor) -> Tensor:
        tensors.append(torch.empty_like(t, device=device))
        return t

    _mapped(add, inputs)
    return Call(case.op, tensors[0], tuple(tensors[1:]), case.states, case.width, case.rank, case.continues, case.head)


def run_case(
    backend: ModuleType, case: Case, inputs: dict[str, Any], device: torch.device, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Outputs of a backend by number, and gradients of its inputs by name, on a device; ``dtype`` replaces the types of
    all inputs."""
    operation = OPERATIONS[case.op]
    leaves: dict[str, Tensor] = {}

    def leaf(name: str, t: Tensor) -> Tensor:
        moved = t.detach().to(device=device, dtype=dtype or t.dtype)
        moved = moved.requires_grad_() if operation.gradients else moved
        leaves[f"{len(leaves)} {name}"] = moved
        return moved

    outputs = operation.run(backend, _mapped(leaf, inputs), torch.tensor(LENGTHS, device=device))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    results = {str(number): y.detach() for number, y in enumerate(outputs)}
    if operation.gradients:
        outputs = outputs[: operation.gradients]
        # weights that every dtype represents exactly
        weights = [(torch.arange(y.numel(), device=device) % 17 - 8).reshape(y.shape).to(y.dtype) / 8 for y in outputs]
        gradients = torch.autograd.grad(outputs, list(leaves.values()), weights)
        results |= {f"gradient {name}": gradient for name, gradient in zip(leaves, gradients)}
    return results

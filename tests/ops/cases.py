"""Random inputs of every operation, and the comparison of a backend with the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_mamba import ops
from speechbrain_mamba.ops import Direction, ScanInputs, SsdInputs

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest error relative to a tensor's largest value; half precision rounds outputs and gradients."""
OVER_TIME = ("u", "delta", "B", "C", "z")
SUMS = {"weight", "bias", "out_proj_weight", "out_proj_bias", "A", *Direction._fields}
"""Gradients that are sums over batch and time, whose terms may cancel: they get ten times the tolerance."""
SUMS_OVER_CHANNELS = {"B", "C"}
"""Likewise, of fewer terms: twice the tolerance."""


def pick(*choices):
    """One of the choices, by torch's generator."""
    return choices[int(torch.randint(len(choices), ()))]


def size(largest: int) -> int:
    """A size between 1 and the largest."""
    return int(torch.randint(1, largest + 1, ()))


def lengths_of(batch: int, time: int) -> Tensor | None:
    """None or lengths, some of them 0, 1 or all."""
    if pick(True, False):
        return None
    return torch.tensor([pick(0, 1, time, int(torch.randint(time + 1, ()))) for _ in range(batch)])


def scan_inputs(
    batch: int, time: int, channels: int, states: int, softplus: bool = True, dtypes: dict | None = None
) -> dict[str, Tensor]:
    """Every input of a scan, in float32 but for ``dtypes``; those over time are slices, as in a layer."""
    xz, maps = torch.randn(batch, time, 2 * channels), torch.randn(batch, time, 3 + 2 * states)
    inputs = {
        "u": xz[..., :channels],
        "z": xz[..., channels:],
        "delta": torch.randn(batch, time, channels) - 1,
        "A": -4 * torch.rand(channels, states),
        "B": maps[..., 3 : 3 + states],
        "C": maps[..., 3 + states :],
        "D": torch.randn(channels),
        "delta_bias": torch.randn(channels),
        "initial_state": torch.randn(batch, channels, states),
    }
    if not softplus:
        for name in ("delta", "delta_bias"):
            inputs[name] = inputs[name].abs() * 0.2
    return {name: tensor.to((dtypes or {}).get(name, torch.float32)) for name, tensor in inputs.items()}


def bidirectional_scan_inputs(
    batch: int, time: int, channels: int, states: int, gated: bool = True, dtypes: dict | None = None
) -> dict:
    """Every input of a bidirectional scan."""
    directions = [scan_inputs(batch, time, channels, states, dtypes=dtypes) for _ in range(2)]
    forward, reverse = (ScanInputs(*(one[name] for name in ScanInputs._fields)) for one in directions)
    return {"forward": forward, "reverse": reverse} | ({"z": directions[0]["z"]} if gated else {})


def ssd_inputs(
    batch: int, time: int, heads: int, channels: int, groups: int, states: int, dtypes: dict | None = None,
    skip_by_channel: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Every input of a scan of Mamba-2, in float32 but for ``dtypes``; those over time are slices, as in a layer."""
    size = heads * channels
    xz, maps = torch.randn(batch, time, 2 * size), torch.randn(batch, time, 3 + 2 * groups * states)
    inputs = {
        "x": xz[..., :size].unflatten(-1, (heads, channels)),
        "delta": torch.randn(batch, time, heads) - 1,
        "A": -4 * torch.rand(heads),
        "B": maps[..., 3 : 3 + groups * states].unflatten(-1, (groups, states)),
        "C": maps[..., 3 + groups * states :].unflatten(-1, (groups, states)),
        "D": torch.randn(heads, channels) if skip_by_channel else torch.randn(heads),
        "z": xz[..., size:].unflatten(-1, (heads, channels)),
        "delta_bias": torch.randn(heads),
        "initial_state": torch.randn(batch, heads, channels, states),
    }
    return {name: tensor.to((dtypes or {}).get(name, torch.float32)) for name, tensor in inputs.items()}


def bidirectional_ssd_inputs(
    batch: int, time: int, heads: int, channels: int, groups: int, states: int, dtypes: dict | None = None,
    skip_by_channel: bool = False, missing: Collection[str] = (),
) -> dict:  # fmt: skip
    """Every input of a scan of Mamba-2 in both directions, or all but some."""
    sizes = (batch, time, heads, channels, groups, states, dtypes, skip_by_channel)
    one, other = ({k: t for k, t in ssd_inputs(*sizes).items() if k not in missing} for _ in range(2))
    forward, reverse = (SsdInputs(**{k: t[k] for k in SsdInputs._fields if k in t}) for t in (one, other))
    return {"forward": forward, "reverse": reverse} | ({"z": one["z"]} if "z" in one else {})


def layer_inputs(batch: int, time: int, channels: int, states: int, rank: int, width: int = 4) -> dict:
    """Every input of a bidirectional layer."""

    def direction() -> Direction:
        return Direction(
            torch.randn(channels, width) / width,
            torch.randn(channels),
            torch.randn(rank + 2 * states, channels) / channels**0.5,
            torch.randn(channels, rank) / rank**0.5,
            torch.randn(channels),
            -torch.randn(channels, states).exp(),
            torch.randn(channels),
        )

    return {
        "xz": torch.randn(batch, time, 2 * channels),
        "forward": direction(),
        "reverse": direction(),
        "out_proj_weight": torch.randn(6, channels) / channels**0.5,
        "out_proj_bias": torch.randn(6),
    }


def without_bias(inputs: dict, conv: bool, out_proj: bool) -> dict:
    """Inputs of a layer without some of its biases."""
    if conv:
        inputs = inputs | {name: inputs[name]._replace(conv_bias=None) for name in ("forward", "reverse")}
    return inputs | {"out_proj_bias": None} if out_proj else inputs


def mapped(function: Callable, value):
    """A function of a tensor, of each tensor of a named tuple, or None for None."""
    if value is None:
        return None
    return type(value)(*(mapped(function, t) for t in value)) if isinstance(value, tuple) else function(value)


def named_tensors(inputs: dict[str, Tensor | NamedTuple | None]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an operation's inputs, each with its name, such as ``u`` or ``forward.A``."""
    for name, value in inputs.items():
        if isinstance(value, tuple):
            yield from ((f"{name}.{field}", t) for field, t in zip(value._fields, value) if t is not None)
        elif value is not None:
            yield name, value


def moved(tensor: Tensor, device: str, dtype: torch.dtype | None = None) -> Tensor:
    """A copy of a tensor on a device, with its strides and its offset: ``.to`` makes slices dense."""
    tensor, dtype = tensor.detach(), dtype or tensor.dtype
    if tensor.numel() == 0 or 0 in tensor.stride():
        return tensor.to(device, dtype, copy=True)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    storage = torch.empty(tensor.storage_offset() + last + 1, device=device, dtype=dtype)
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(tensor)


def run(op, inputs: dict, device: str = "cpu", dtype: torch.dtype | None = None, **options) -> dict[str, Tensor]:
    """Outputs of an operation by number, and gradients of its inputs by name."""

    def leaf(tensor: Tensor) -> Tensor:
        return moved(tensor, device, dtype).requires_grad_()

    leaves = {name: mapped(leaf, value) for name, value in inputs.items()}
    outputs = op(**leaves, **{name: value for name, value in options.items() if name != "lengths" or value is not None})
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(1)
    weights = [torch.randint(-8, 9, y.shape) / 8 for y in outputs]  # that every dtype represents exactly
    sum((y.double() * w.to(device)).sum() for y, w in zip(outputs, weights)).backward()
    return {str(i): y.detach() for i, y in enumerate(outputs)} | {name: t.grad for name, t in named_tensors(leaves)}


def check(op, inputs: dict, backend: str, device: str = "cpu", roundings: int = 1, **options) -> None:
    """Assert that a backend agrees with the reference in float64, and leaves its inputs alone.

    ``roundings`` counts the steps of an operation that each round to the dtype of its inputs.
    """
    before = {name: t.clone() for name, t in named_tensors(inputs)}
    with ops.use_backend(backend):
        results = run(op, inputs, device, **options)
    for name, tensor in named_tensors(inputs):
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    with ops.use_backend("reference"):
        expected = run(op, inputs, "cpu", torch.float64, **options)
    tolerance = roundings * max(TOLERANCE[t.dtype] for t in before.values())
    assert results.keys() == expected.keys()
    for name, right in expected.items():
        assert results[name].shape == right.shape, name
        if right.numel():
            error = (results[name].double().cpu() - right).abs().max().item() / max(right.abs().max().item(), 1e-30)
            own = name.split(".")[-1]
            terms = 10 if own in SUMS else 2 if own in SUMS_OVER_CHANNELS else 1
            assert error < tolerance * terms, (name, error)

"""Comparing a backend with the reference in float64: outputs, states and the gradient of every input."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import library

INSTRUCTION_SETS = library().instruction_sets
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest error relative to a tensor's largest value; half precision rounds outputs and gradients."""
SUMS = ("A", "D", "delta_bias", "weight", "bias", "conv_weight", "conv_bias")
SUMS += ("x_proj_weight", "dt_proj_weight", "out_proj_weight", "out_proj_bias")
"""Gradients that are sums over batch and time, whose terms may cancel: they get ten times the tolerance."""


def weights(*shape: int) -> Tensor:
    """Random gradients of outputs that every dtype represents exactly."""
    return torch.randint(-8, 9, shape) / 8


def scan_inputs(batch: int, time: int, channels: int, state: int, dtypes: dict | None = None) -> dict[str, Tensor]:
    """Every input of a scan, in float32 but for ``dtypes``; those over time are slices, as in a layer."""
    xz = torch.randn(batch, time, 2 * channels)
    projected = torch.randn(batch, time, 3 + 2 * state)
    inputs = {
        "u": xz[..., :channels],
        "z": xz[..., channels:],
        "delta": torch.randn(batch, time, channels) - 1,
        "A": -4 * torch.rand(channels, state),
        "B": projected[..., 3 : 3 + state],
        "C": projected[..., 3 + state :],
        "D": torch.randn(channels),
        "delta_bias": torch.randn(channels),
        "initial_state": torch.randn(batch, channels, state),
    }
    return {name: tensor.to((dtypes or {}).get(name, torch.float32)) for name, tensor in inputs.items()}


def run(op, inputs: dict[str, Tensor | tuple[Tensor, Tensor]], dtype: torch.dtype | None = None, **options) -> dict:
    """Outputs of an operation by number, and gradients of its inputs by name."""

    def leaf(tensor: Tensor) -> Tensor:
        return (tensor.detach() if dtype is None else tensor.detach().to(dtype)).requires_grad_()

    leaves = {name: tuple(map(leaf, t)) if isinstance(t, tuple) else leaf(t) for name, t in inputs.items()}
    outputs = op(**leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(1)
    sum((y * weights(*y.shape).to(y.dtype)).double().sum() for y in outputs).backward()
    results = {str(i): y.detach() for i, y in enumerate(outputs)}
    for name, t in leaves.items():
        results |= {f"{name}{i}": s.grad for i, s in enumerate(t)} if isinstance(t, tuple) else {name: t.grad}
    return results


def relative_errors(results: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Largest error of each tensor relative to the largest expected value."""
    assert results.keys() == expected.keys()
    errors = {}
    for name, tensor in results.items():
        assert tensor.shape == expected[name].shape, name
        if tensor.numel():
            difference = (tensor.double() - expected[name]).abs().max().item()
            errors[name] = difference / max(expected[name].abs().max().item(), 1e-30)
    return errors


def check_against_reference(op, inputs: dict, roundings: int = 1, **options) -> None:
    """Assert that the backend ``cpu`` agrees with the float64 reference, and leaves its inputs alone.

    ``roundings`` counts the steps of an operation that each round to the dtype of its inputs.
    """
    flat = [s for t in inputs.values() for s in (t if isinstance(t, tuple) else (t,))]
    before = [t.clone() for t in flat]
    with ops.use_backend("cpu"):
        results = run(op, inputs, **options)
    for tensor, copy in zip(flat, before):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0, equal_nan=True)
    with ops.use_backend("reference"):
        expected = run(op, inputs, torch.float64, **options)
    tolerance = roundings * max(TOLERANCE[t.dtype] for t in flat)
    errors = relative_errors(results, expected)
    assert all(error < tolerance * (10 if name.rstrip("01") in SUMS else 1) for name, error in errors.items()), errors

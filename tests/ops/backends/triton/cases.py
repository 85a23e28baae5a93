"""Random cases of every operation, and their comparison with the reference in float64.

They run on CUDA, or in Triton's interpreter, where time goes by in milliseconds per frame: there the sequences, and the
chunks that they are cut into, are short.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.triton import INTERPRETED, conv, plan

DEVICE = "cpu" if INTERPRETED else "cuda"
RUNS = INTERPRETED or torch.cuda.is_available()
LONGEST, WIDEST, MOST_STATES = (18, 36, 8) if INTERPRETED else (700, 300, 100)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest error relative to a tensor's largest value; half precision rounds outputs and gradients."""
OVER_TIME = ("u", "delta", "B", "C", "z")


def shorten_chunks(monkeypatch) -> None:
    """Several chunks, slabs of chunks and tiles for a few frames."""
    if INTERPRETED:
        monkeypatch.setattr(plan, "SHORTEST_CHUNK", 8)
        monkeypatch.setattr(plan, "PROGRAMS_OF_A_PROCESSOR", 64)
        monkeypatch.setattr(plan, "BORDER_BYTES", 20_000)
        monkeypatch.setattr(conv, "_TILE", (8, 16))
        monkeypatch.setattr(conv, "_BACKWARD_TILE", (8, 16))


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


def scan_inputs(batch: int, time: int, channels: int, states: int, softplus: bool = True) -> dict[str, Tensor]:
    """Every input of a scan in float32; those over time are slices, as in a layer."""
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
    return inputs


def inner_inputs(batch: int, time: int, channels: int, states: int, rank: int, width: int = 4) -> dict:
    """Every input of a bidirectional layer."""

    def pair(*shape: int) -> tuple[Tensor, Tensor]:
        return torch.randn(shape), torch.randn(shape)

    return {
        "xz": torch.randn(batch, time, 2 * channels),
        "conv_weight": tuple(w / width for w in pair(channels, width)),
        "conv_bias": pair(channels),
        "x_proj_weight": tuple(w / channels**0.5 for w in pair(rank + 2 * states, channels)),
        "dt_proj_weight": tuple(w / rank**0.5 for w in pair(channels, rank)),
        "delta_bias": pair(channels),
        "A": tuple(-w.exp() for w in pair(channels, states)),
        "D": pair(channels),
        "out_proj_weight": torch.randn(6, channels) / channels**0.5,
        "out_proj_bias": torch.randn(6),
    }


def run(op, inputs: dict, device: str, dtype: torch.dtype | None, **options) -> dict[str, Tensor]:
    """Outputs of an operation by number, and gradients of its inputs by name, in float64 on the CPU."""

    def leaf(tensor: Tensor) -> Tensor:
        moved = tensor.detach().to(device)
        # A copy by .to() is dense; the kernels are to see the slices.
        return (moved if dtype is None else moved.to(dtype)).requires_grad_()

    leaves = {name: tuple(map(leaf, t)) if isinstance(t, tuple) else leaf(t) for name, t in inputs.items()}
    lengths = options.pop("lengths", None)
    outputs = op(**leaves, lengths=lengths, **options) if lengths is not None else op(**leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(1)
    weights = [torch.randint(-8, 9, y.shape) / 8 for y in outputs]
    sum((y.double() * w.to(device)).sum() for y, w in zip(outputs, weights)).backward()
    results = {str(i): y.detach() for i, y in enumerate(outputs)}
    for name, t in leaves.items():
        results |= {f"{name}{i}": s.grad for i, s in enumerate(t)} if isinstance(t, tuple) else {name: t.grad}
    assert all(r is not None for r in results.values())
    return {name: r.double().cpu() for name, r in results.items()}


def check(op, inputs: dict, backend: str = "triton", device: str = DEVICE, factor: float = 1.0, **options) -> None:
    """Assert that a backend agrees with the reference in float64, and leaves its inputs alone.

    Sums over batch and time get ten times the tolerance, as their terms may cancel.
    """
    flat = [s for t in inputs.values() for s in (t if isinstance(t, tuple) else (t,))]
    before = [t.clone() for t in flat]
    with ops.use_backend(backend):
        results = run(op, inputs, device, None, **options)
    for tensor, copy in zip(flat, before):
        assert torch.equal(tensor, copy)
    with ops.use_backend("reference"):
        expected = run(op, inputs, "cpu", torch.float64, **options)
    tolerance = factor * max(TOLERANCE[t.dtype] for t in flat)
    for name, right in expected.items():
        assert results[name].shape == right.shape, name
        if right.numel():
            error = (results[name] - right).abs().max().item() / max(right.abs().max().item(), 1e-30)
            summed = not name.isdigit() and name.rstrip("01") not in (*OVER_TIME, "x", "xz", "initial_state")
            assert error < tolerance * (10 if summed else 1), (name, error)

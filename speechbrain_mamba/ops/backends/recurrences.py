"""The recurrences in plain PyTorch, one step of time after another.

While ``torch.export`` traces a program, they are operations of it: a Python loop would be unrolled for one number of
frames. :mod:`speechbrain_mamba.ops.onnx_functions` says what they are in ONNX.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from speechbrain_mamba.ops.torch_ops import Operations


def _selective(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(u.shape[1]):
        state = torch.exp(delta[:, t, :, None] * A) * state + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        outputs.append((state * C[:, t, None]).sum(-1))
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(u), state


def ssd_step(state: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """One frame of :func:`ssd_recurrence`, whose arguments have no axis of time; returns the output and the state."""
    B, C = (t.repeat_interleave(len(A) // t.shape[1], 1)[:, :, None] for t in (B, C))  # of each head
    state = torch.exp(delta * A)[..., None, None] * state + (delta[..., None] * x)[..., None] * B
    return (state * C).sum(-1), state


def _ssd(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(x.shape[1]):
        y, state = ssd_step(state, x[:, t], delta[:, t], A, B[:, t], C[:, t])
        outputs.append(y)
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(x), state


_operations = Operations("reference", ("CompositeExplicitAutograd",))


def _register(name: str, recurrence: Callable[..., tuple[Tensor, Tensor]]) -> None:
    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        y, state = recurrence(*tensors)
        return y, state.clone() if state is tensors[-1] else state  # an operation may not return its input

    def fake(u: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(u, memory_format=torch.contiguous_format), torch.empty_like(others[-1])

    def backward(ctx: object, *gradients: Tensor) -> None:
        raise NotImplementedError("A program that was exported with the backend 'reference' is for inference only.")

    tensors = ", ".join(f"Tensor {argument}" for argument in ("u", "delta", "A", "B", "C", "state"))
    _operations.register(name, f"({tensors}) -> (Tensor, Tensor)", run, fake)
    _operations.register_gradient(name, lambda ctx, inputs, output: None, backward)


_register("selective_recurrence", _selective)
_register("ssd_recurrence", _ssd)


def selective_recurrence(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence of :func:`speechbrain_mamba.ops.selective_scan` without its skip connection and gate.

    Arguments
    ---------
    u, delta : Tensor
        Input and step, (batch, time, channels), in the order of the scan; a step of zero keeps the state.
    A : Tensor
        (channels, state)
    B, C : Tensor
        (batch, time, state)
    state : Tensor
        State before the first frame, (batch, channels, state).

    Returns
    -------
    y, last_state : Tensor
        Output (batch, time, channels), and the state after the last frame.
    """
    exporting = torch.compiler.is_exporting()
    recurrence = _operations.operators["selective_recurrence"] if exporting else _selective
    return recurrence(u, delta, A, B, C, state)


def ssd_recurrence(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence of :func:`speechbrain_mamba.ops.ssd` without its skip connection and gate.

    Arguments
    ---------
    x : Tensor
        Input (batch, time, heads, head channels), in the order of the scan.
    delta : Tensor
        Step (batch, time, heads); a step of zero keeps the state.
    A : Tensor
        (heads,)
    B, C : Tensor
        (batch, time, groups, state)
    state : Tensor
        State before the first frame, (batch, heads, head channels, state).

    Returns
    -------
    y, last_state : Tensor
        Output like ``x``, and the state after the last frame.
    """
    recurrence = _operations.operators["ssd_recurrence"] if torch.compiler.is_exporting() else _ssd
    return recurrence(x, delta, A, B, C, state)

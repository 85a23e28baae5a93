"""The recurrences in plain PyTorch, one step of time after another."""

from __future__ import annotations

import torch
from torch import Tensor


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
    outputs = []
    for t in range(x.shape[1]):
        y, state = ssd_step(state, x[:, t], delta[:, t], A, B[:, t], C[:, t])
        outputs.append(y)
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(x), state

"""The functions of ``mamba_ssm.ops.triton.selective_state_update``, on our operations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from speechbrain_mamba import ops


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """Scan the next frame. ``state`` is changed in place.

    Arguments
    ---------
    state : Tensor
        State before the frame, (entries, channels, state) or (entries, heads, channels, state).
    x, dt, z : Tensor
        Input, step and gate, (batch, channels) or (batch, heads, channels).
    A : Tensor
        State matrix, (channels, state) or (heads, channels, state).
    B, C : Tensor
        Maps, (batch, state) or (batch, groups, state), each for ``heads // groups`` successive heads.
    D, dt_bias : Tensor, optional
        Skip connection and what is added to the step, (channels,) or (heads, channels).
    dt_softplus : bool
        Whether the step goes through a softplus.
    state_batch_indices : Tensor, optional
        The entry of the state of each example, integers (batch,); without it, they are in order. An example with a
        negative one is padding: it gives zeros and changes no state.

    Returns
    -------
    Tensor
        Output like ``x``.

    Example
    -------
    >>> import torch
    >>> state, x, dt = torch.zeros(1, 3, 2), torch.ones(1, 3), torch.ones(1, 3)
    >>> selective_state_update(state, x, dt, -torch.rand(3, 2), torch.ones(1, 2), torch.ones(1, 2))
    tensor([[2., 2., 2.]])
    """
    by_channel = (1, 2) if state.dim() == 4 else (1, 1)  # heads and their channels are one axis for our step

    def flat(t: Any) -> Any:
        return None if t is None else t.flatten(*by_channel)

    def parameter(t: Any) -> Any:
        return t if t is None or state.dim() == 3 else t.flatten(0, 1)

    entries = None if state_batch_indices is None else state_batch_indices.long()
    before = state if entries is None else state[entries.clamp(min=0)]
    y, after = ops.selective_state_update(
        flat(before), flat(x), flat(dt), parameter(A), B, C, parameter(D), flat(z), parameter(dt_bias), dt_softplus,
    )  # fmt: skip
    y, after = y.view_as(x), after.view_as(before).detach().to(state.dtype)
    if entries is None:
        state.copy_(after)
        return y
    valid = entries >= 0
    state[entries[valid]] = after[valid]
    return y.masked_fill(~valid.view(-1, *[1] * (y.dim() - 1)), 0)


def selective_state_update_ref(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """:func:`selective_state_update` by our reference backend."""
    with ops.use_backend("reference"):
        return selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)

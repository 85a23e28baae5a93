"""The functions of ``causal_conv1d``, on our operations. Tensors over time are (batch, channels, time), as there."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba import ops
from speechbrain_mamba.drop_in.selective_scan import frames_first


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | str | None = None,
    initial_states: Tensor | str | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The convolution of causal-conv1d; see :func:`speechbrain_mamba.ops.causal_conv1d`.

    Arguments
    ---------
    x : Tensor
        Input, (batch, channels, time).
    weight, bias : Tensor
        Filters of any width, (channels, width), and bias, (channels,).
    seq_idx : Tensor, optional
        Which packed sequence each frame belongs to, integers (batch, time). As in causal-conv1d 1.0, the activation
        may stand here, or as in 1.1 in the next place.
    initial_states : Tensor, optional
        The inputs before the first frame, (batch, channels, width - 1).
    return_final_states : bool
        Whether to return the last inputs too.
    final_states_out : Tensor, optional
        Memory that they are written to.
    activation : str, optional
        None, ``silu`` or ``swish``.

    Returns
    -------
    Tensor
        Output like ``x``, and with ``return_final_states`` the last inputs, (batch, channels, width - 1).

    Example
    -------
    >>> causal_conv1d_fn(torch.ones(1, 1, 3), torch.tensor([[1.0, 2.0]]))
    tensor([[[2., 3., 3.]]])
    """
    if isinstance(seq_idx, str):
        seq_idx, activation = None, seq_idx
    if isinstance(initial_states, str):
        initial_states, activation = None, initial_states
    frames = frames_first(x)
    if not return_final_states:
        y = ops.causal_conv1d(frames, weight, bias, activation, initial_state=initial_states, seq_idx=seq_idx)
        return frames_first(y)  # type: ignore[arg-type]
    y, last = ops.causal_conv1d(
        frames, weight, bias, activation, initial_state=initial_states, seq_idx=seq_idx, return_final_state=True
    )
    return frames_first(y), last if final_states_out is None else final_states_out.copy_(last)


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`causal_conv1d_fn` by our reference backend."""
    with ops.use_backend("reference"):
        return causal_conv1d_fn(
            x, weight, bias, None, initial_states, return_final_states, final_states_out, activation
        )


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Convolve the next frame or frames. ``conv_state`` is changed in place.

    Arguments
    ---------
    x : Tensor
        Next frames, (batch, channels) or (batch, channels, time).
    conv_state : Tensor
        The frames before, oldest first, (entries, channels, length), at least ``width - 1`` of them.
    weight, bias, activation
        As in :func:`causal_conv1d_fn`.
    cache_seqlens : Tensor, optional
        Frames that each example has had, integers (batch,). The state is then a ring: frame ``i`` is at ``i`` modulo
        its length.
    conv_state_indices : Tensor, optional
        The entry of the state of each example, integers (batch,); without it, they are in order. An example with a
        negative one is padding: it gives zeros and changes no state.

    Returns
    -------
    Tensor
        Output like ``x``.

    Example
    -------
    >>> state = torch.zeros(1, 1, 1)
    >>> causal_conv1d_update(torch.ones(1, 1), state, torch.tensor([[1.0, 2.0]])), state
    (tensor([[2.]]), tensor([[[1.]]]))
    """
    frames = x[..., None] if x.dim() == 2 else x
    history, length = weight.shape[1] - 1, conv_state.shape[-1]
    if length < history:
        raise ValueError(
            f"causal_conv1d_update: conv_state keeps {length} frames, but a filter of {history + 1} frames needs at "
            f"least {history}."
        )
    entries = None if conv_state_indices is None else conv_state_indices.long()
    states = conv_state if entries is None else conv_state[entries.clamp(min=0)]
    before = states[..., length - history :] if cache_seqlens is None else _read(states, cache_seqlens, history)
    y = frames_first(
        ops.causal_conv1d(frames_first(frames), weight, bias, activation, initial_state=before)  # type: ignore[arg-type]
    )
    after = _append(states, frames, cache_seqlens).detach()
    if entries is None:
        conv_state.copy_(after)
    else:
        valid = entries >= 0
        conv_state[entries[valid]] = after[valid]
        y = y.masked_fill(~valid[:, None, None], 0)
    return y[..., 0] if x.dim() == 2 else y


def _places(cache_seqlens: Tensor, offsets: Tensor, states: Tensor) -> Tensor:
    """Where frames, counted from each example's next one, are in its ring; (batch, channels, offsets)."""
    places = (cache_seqlens[:, None].long() + offsets).remainder(states.shape[-1])
    return places[:, None].expand(-1, states.shape[1], -1)


def _read(states: Tensor, cache_seqlens: Tensor, history: int) -> Tensor:
    """The last frames of each ring, oldest first."""
    return states.gather(-1, _places(cache_seqlens, torch.arange(-history, 0, device=states.device), states))


def _append(states: Tensor, frames: Tensor, cache_seqlens: Tensor | None) -> Tensor:
    """The states after frames."""
    length, time = states.shape[-1], frames.shape[-1]
    if cache_seqlens is None:
        return torch.cat([states, frames.to(states.dtype)], -1)[..., time:]
    kept = torch.arange(max(0, time - length), time, device=states.device)  # the others would be overwritten
    return states.scatter(-1, _places(cache_seqlens, kept, states), frames[..., kept].to(states.dtype))


def causal_conv1d_update_ref(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
) -> Tensor:
    """:func:`causal_conv1d_update` by our reference backend."""
    with ops.use_backend("reference"):
        return causal_conv1d_update(x, conv_state, weight, bias, activation, cache_seqlens)


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last frames of each of several sequences that stand one after another.

    Arguments
    ---------
    x : Tensor
        Frames of all sequences, (frames, channels).
    cu_seqlens : Tensor
        Where each sequence begins, and where the last ends, integers (sequences + 1,).
    state_len : int
        Frames to keep of each.

    Returns
    -------
    Tensor
        (sequences, channels, state_len), oldest first, with zeros before shorter sequences.

    Example
    -------
    >>> causal_conv1d_varlen_states(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 3]), 2)
    tensor([[[0., 1.]],
            [[2., 3.]]])
    """
    starts, ends = cu_seqlens[:-1, None].long(), cu_seqlens[1:, None].long()
    places = ends + torch.arange(-state_len, 0, device=x.device)
    states = x[places.clamp(min=0)].masked_fill((places < starts)[..., None], 0)
    return frames_first(states)


def causal_conv1d_varlen_states_ref(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """:func:`causal_conv1d_varlen_states`, one sequence after another."""
    states = x.new_zeros(len(cu_seqlens) - 1, x.shape[1], state_len)
    for state, start, end in zip(states, cu_seqlens.tolist(), cu_seqlens.tolist()[1:]):
        last = x[max(start, end - state_len) : end]
        state[:, state_len - len(last) :] = last.T
    return states

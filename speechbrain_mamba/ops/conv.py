"""The short depthwise causal convolution in front of Mamba's scan."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.checks import check_dims, check_directions, check_lengths, check_shape
from speechbrain_mamba.ops.directions import Filters
from speechbrain_mamba.ops.lengths import mask_frames
from speechbrain_mamba.ops.registry import Call, select_backend


def _check_activation(op: str, activation: str | None) -> str | None:
    """Check an activation and return its one name, ``silu`` or None."""
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"{op}: activation is {activation!r}, but must be None, 'silu' or 'swish'.")
    return "silu" if activation else None


def _check(op: str, x: Tensor, filters: Filters, lengths: Tensor | None) -> Tensor | None:
    """Check the arguments of a convolution named ``op``; returns the lengths on the input's device."""
    weight, bias = filters
    check_dims(op, "x", x, "(batch, time, channels)")
    check_dims(op, "weight", weight, "(channels, width)")
    (batch, time, channels), width = x.shape, weight.shape[1]
    check_shape(op, "weight", weight, "(channels, width)", (channels, width))
    check_shape(op, "bias", bias, "(channels,)", (channels,))
    return check_lengths(op, lengths, batch, time, x.device)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with its own causal filter: an output frame sees ``width - 1`` earlier frames and itself.

    Arguments
    ---------
    x : Tensor
        Input (batch, time, channels).
    weight : Tensor
        Filters (channels, width); the last tap meets the current frame.
    bias : Tensor, optional
        Bias (channels,).
    activation : str, optional
        None, ``silu`` or its other name ``swish``.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,). Frames past the length give zeros and get no gradient, even if
        they hold NaN.
    reverse : bool
        Run backwards in time, from each example's own last valid frame: "earlier" then means later frames.
    initial_state : Tensor, optional
        The ``width - 1`` inputs before the first frame in the scan's order, oldest first, (batch, channels, width - 1);
        zeros by default.
    return_final_state : bool
        Whether to return the last ``width - 1`` inputs of each example in the scan's order too.
    seq_idx : Tensor, optional
        Which of several sequences packed into an example each frame belongs to, integers (batch, time). A frame sees
        earlier frames of its own sequence only; a negative number marks padding, which gives zeros. It goes with
        neither ``initial_state`` nor ``return_final_state``.

    Returns
    -------
    Tensor
        Output (batch, time, channels), dtype of ``x``; and with ``return_final_state`` the state (batch, channels,
        width - 1), in the dtype of ``initial_state`` or else of ``x``.

    Raises
    ------
    ValueError
        For shapes that do not fit, an unknown activation, lengths out of range, or a backend that cannot serve the
        call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> y = causal_conv1d(torch.ones(1, 3, 1), torch.tensor([[1.0, 2.0]]))
    >>> y.flatten()
    tensor([2., 3., 3.])
    """
    op = "causal_conv1d"
    lengths = _check(op, x, Filters(weight, bias), lengths)
    activation = _check_activation(op, activation)
    width = weight.shape[1]
    state_shape = (x.shape[0], x.shape[2], width - 1)
    check_shape(op, "initial_state", initial_state, "(batch, channels, width - 1)", state_shape)
    if seq_idx is not None:
        if initial_state is not None or return_final_state:
            raise ValueError(f"{op}: seq_idx packs several sequences into one: it goes with no initial or final state.")
        check_shape(op, "seq_idx", seq_idx, "(batch, time)", (x.shape[0], x.shape[1]))
        if seq_idx.is_floating_point():
            raise TypeError(f"{op}: seq_idx has dtype {seq_idx.dtype}, but must be integers: numbers of sequences.")
        with torch.autocast(x.device.type, enabled=False):
            return _convolve_packed(x, Filters(weight, bias), activation, lengths, reverse, seq_idx)
    backend = select_backend(Call(op, x, (weight, bias, initial_state), width=width))
    with torch.autocast(x.device.type, enabled=False):
        return backend.causal_conv1d(
            x, weight, bias, activation, lengths=lengths, reverse=reverse, initial_state=initial_state,
            return_final_state=return_final_state,
        )  # fmt: skip


def _convolve_packed(
    x: Tensor, filters: Filters, activation: str | None, lengths: Tensor | None, reverse: bool, seq_idx: Tensor
) -> Tensor:
    """Convolve packed sequences: each tap meets the frame before it, unless that is of another sequence."""
    dtype, (weight, bias), time = torch.promote_types(x.dtype, torch.float32), filters, x.shape[1]
    padding = seq_idx[..., None] < 0
    frames = mask_frames(x, lengths).masked_fill(padding, 0).to(dtype)
    y = frames * weight[:, -1].to(dtype)
    for back in range(1, min(weight.shape[1], time)):
        # the frame that each frame sees is `back` frames away, in the direction of the scan
        here, there = (slice(None, -back), slice(back, None)) if reverse else (slice(back, None), slice(None, -back))
        other = (seq_idx[:, here] != seq_idx[:, there])[..., None]
        tap = frames[:, there].masked_fill(other, 0) * weight[:, -1 - back].to(dtype)
        y = y + F.pad(tap, (0, 0, 0, back) if reverse else (0, 0, back, 0))
    if bias is not None:
        y = y + bias.to(dtype)
    y = F.silu(y) if activation else y
    return mask_frames(y.masked_fill(padding, 0), lengths).to(x.dtype)


def causal_conv1d_update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> tuple[Tensor, Tensor]:
    """One step of :func:`causal_conv1d`, for decoding and streaming. Nothing is changed in place.

    Arguments
    ---------
    x : Tensor
        Input frame (batch, channels).
    state : Tensor
        The ``width - 1`` frames before, oldest first, (batch, channels, width - 1).
    weight, bias, activation
        As in :func:`causal_conv1d`.

    Returns
    -------
    y : Tensor
        Output frame (batch, channels), dtype of ``x``.
    state : Tensor
        State after the step, like ``state``.

    Raises
    ------
    ValueError
        For shapes that do not fit, an unknown activation, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> y, state = causal_conv1d_update(torch.ones(1, 1), torch.zeros(1, 1, 1), torch.tensor([[1.0, 2.0]]))
    >>> y.item(), state.item()
    (2.0, 1.0)
    """
    op = "causal_conv1d_update"
    check_dims(op, "x", x, "(batch, channels)")
    check_dims(op, "weight", weight, "(channels, width)")
    (batch, channels), width = x.shape, weight.shape[1]
    check_shape(op, "weight", weight, "(channels, width)", (channels, width))
    check_shape(op, "bias", bias, "(channels,)", (channels,))
    check_shape(op, "state", state, "(batch, channels, width - 1)", (batch, channels, width - 1))
    activation = _check_activation(op, activation)
    backend = select_backend(Call(op, x, (state, weight, bias), width=width))
    with torch.autocast(x.device.type, enabled=False):
        return backend.causal_conv1d_update(x, state, weight, bias, activation)


def bidirectional_causal_conv1d(
    x: Tensor, forward: Filters, reverse: Filters, activation: str | None = None, *, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve one input causally in both directions of time, each with its own filters.

    Arguments
    ---------
    x : Tensor
        Input (batch, time, channels).
    forward, reverse : Filters
        Weight and bias of each direction, as in :func:`causal_conv1d`, of the same shapes.
    activation : str, optional
        None, ``silu`` or its other name ``swish``.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,), as in :func:`causal_conv1d`.

    Returns
    -------
    tuple of two Tensors
        Outputs of the forward and the reverse direction, (batch, time, channels), dtype of ``x``.

    Raises
    ------
    ValueError
        For shapes that do not fit, an unknown activation, lengths out of range, or a backend that cannot serve the
        call.
    TypeError
        For dtypes that do not fit, or anything but ``Filters``.

    Example
    -------
    >>> filters = Filters(torch.tensor([[1.0, 2.0]]))
    >>> y, y_reverse = bidirectional_causal_conv1d(torch.ones(1, 3, 1), filters, filters)
    >>> y.flatten(), y_reverse.flatten()
    (tensor([2., 3., 3.]), tensor([3., 3., 2.]))
    """
    op = "bidirectional_causal_conv1d"
    check_directions(op, Filters, forward, reverse)
    lengths = _check(op, x, forward, lengths)
    activation = _check_activation(op, activation)
    backend = select_backend(Call(op, x, (*forward, *reverse), width=forward.weight.shape[1]))
    with torch.autocast(x.device.type, enabled=False):
        return backend.bidirectional_causal_conv1d(x, forward, reverse, activation, lengths)

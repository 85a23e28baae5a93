"""Reference implementation of every operation in plain PyTorch.

Nothing here is tuned. The recurrences, in ``recurrences.py``, are written as in the papers, one step of time after
another, vectorized over batch, channels and state; gradients come from autograd. Arithmetic is in float32, or in
float64 when the input is float64. All other backends are tested against this file.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.backends.recurrences import selective_recurrence, ssd_recurrence, ssd_step
from speechbrain_mamba.ops.directions import Filters, ScanInputs, SsdInputs
from speechbrain_mamba.ops.lengths import mask_frames, valid_frames
from speechbrain_mamba.ops.registry import Call
from speechbrain_mamba.ops.rowwise import Norm, activate, normalize


def unavailable() -> str | None:
    """Why this backend cannot be used here: None, as it always can."""
    return None


def unsupported(call: Call) -> str | None:
    """Why this backend cannot serve a call: None, as it serves all."""
    return None


def scan_order(time: int, lengths: Tensor | None, reverse: bool, device: torch.device) -> Tensor | None:
    """Positions in the order of a reverse scan, (batch or 1, time): each example's valid frames backwards, then its
    padding. Its own inverse; None for a forward scan.
    """
    if not reverse:
        return None
    position = torch.arange(time, device=device)[None]
    if lengths is None:
        return time - 1 - position
    return torch.where(valid_frames(lengths, time), lengths[:, None] - 1 - position, position)


def reorder(x: Tensor, order: Tensor | None) -> Tensor:
    """Bring frames (batch, time, ...) into an order, or back."""
    if order is None:
        return x
    return x.gather(1, order.reshape(order.shape + (1,) * (x.dim() - 2)).expand(x.shape))


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The type of states and sums."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def selective_state_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence; see :func:`speechbrain_mamba.ops.selective_state_update`."""
    dtype, out_dtype = accumulation_dtype(u), u.dtype
    state, u, delta, A, B, C = (t.to(dtype) for t in (state, u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    state = torch.exp(delta[..., None] * A) * state + (delta * u)[..., None] * B[:, None]
    y = (state * C[:, None]).sum(-1)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(out_dtype), state


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan; see :func:`speechbrain_mamba.ops.scan`."""
    batch, time, channels = u.shape
    dtype, out_dtype = accumulation_dtype(u), u.dtype
    order = scan_order(time, lengths, reverse, u.device)

    def prepare(x: Tensor) -> Tensor:
        return reorder(mask_frames(x.to(dtype), lengths), order)

    u, delta, B, C = prepare(u), prepare(delta), prepare(B), prepare(C)
    A = A.to(dtype)
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    delta = mask_frames(delta, lengths)  # a step of length zero keeps the state

    state = u.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state.to(dtype)
    y, state = selective_recurrence(u, delta, A, B, C, state)
    if D is not None:
        y = y + D.to(dtype) * u
    y = reorder(y, order)
    if z is not None:
        y = y * F.silu(mask_frames(z.to(dtype), lengths))
    y = mask_frames(y, lengths).to(out_dtype)
    return (y, state) if return_last_state else y


def bidirectional_selective_scan(
    forward: ScanInputs, reverse: ScanInputs, z: Tensor | None, delta_softplus: bool, lengths: Tensor | None
) -> Tensor:
    """Both directions of a scan, averaged; see :func:`speechbrain_mamba.ops.bidirectional_selective_scan`."""

    def scan(direction: ScanInputs, backwards: bool) -> Tensor:
        u, delta, A, B, C, D, delta_bias = direction
        u = u.to(accumulation_dtype(u))  # rounded to the input's type at the end only
        inputs = (u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        return cast(Tensor, selective_scan(*inputs, lengths=lengths, reverse=backwards))

    return (0.5 * (scan(forward, False) + scan(reverse, True))).to(forward.u.dtype)


def step_size(delta: Tensor, bias: Tensor | None, softplus: bool, limit: tuple[float, float]) -> Tensor:
    """The steps of :func:`speechbrain_mamba.ops.ssd`, in the type of its states."""
    delta = delta.to(accumulation_dtype(delta))
    if bias is not None:
        delta = delta + bias.to(delta.dtype)
    if softplus:
        delta = F.softplus(delta)
    return delta.clamp(*limit)


def _ssd_output(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add the skip connection to (..., heads, head channels), and gate it."""
    if D is not None:
        y = y + (D[:, None] if D.dim() == 1 else D) * x
    return y if z is None else y * F.silu(z)


def ssd_update(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    dt_limit: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence; see :func:`speechbrain_mamba.ops.ssd_update`."""
    dtype = accumulation_dtype(x)
    delta = step_size(delta, delta_bias, delta_softplus, dt_limit).to(dtype)
    out_dtype = x.dtype
    state, x, A, B, C = (t.to(dtype) for t in (state, x, A, B, C))
    D, z = (t if t is None else t.to(dtype) for t in (D, z))
    y, state = ssd_step(state, x, delta, A, B, C)
    return _ssd_output(y, x, D, z).to(out_dtype), state


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    dt_limit: tuple[float, float],
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    chunk_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan of Mamba-2, frame by frame whatever ``chunk_size``; see :func:`speechbrain_mamba.ops.ssd`."""
    batch, time, heads, channels = x.shape
    dtype, out_dtype = accumulation_dtype(x), x.dtype
    order = scan_order(time, lengths, reverse, x.device)

    def prepare(t: Tensor) -> Tensor:
        return reorder(mask_frames(t.to(dtype), lengths), order)

    x, B, C, z = prepare(x), prepare(B), prepare(C), None if z is None else prepare(z)
    delta = step_size(prepare(delta), delta_bias, delta_softplus, dt_limit)
    delta = mask_frames(delta, lengths)  # a step of length zero keeps the state
    A, D = A.to(dtype), None if D is None else D.to(dtype)
    shape = (batch, heads, channels, B.shape[-1])
    state = x.new_zeros(shape) if initial_state is None else initial_state.to(dtype)
    y, state = ssd_recurrence(x, delta, A, B, C, state)
    y = mask_frames(reorder(_ssd_output(y, x, D, z), order), lengths).to(out_dtype)
    return (y, state) if return_last_state else y


def bidirectional_ssd(
    forward: SsdInputs,
    reverse: SsdInputs,
    z: Tensor | None,
    delta_softplus: bool,
    dt_limit: tuple[float, float],
    lengths: Tensor | None,
    chunk_size: int | None = None,
) -> Tensor:
    """Both directions, averaged; see :func:`speechbrain_mamba.ops.bidirectional_ssd`."""

    def scan(inputs: SsdInputs, backwards: bool) -> Tensor:
        x, delta, A, B, C, D, delta_bias = inputs
        x = x.to(accumulation_dtype(x))  # rounded to the input's type at the end only
        arguments = (x, delta, A, B, C, D, z, delta_bias, delta_softplus, dt_limit)
        return cast(Tensor, ssd(*arguments, lengths=lengths, reverse=backwards))

    return (0.5 * (scan(forward, False) + scan(reverse, True))).to(forward.x.dtype)


def quantize_rows(x: Tensor, norm: Norm | None = None, room: int = 0) -> tuple[Tensor, Tensor]:
    """Each row (rows, features) in units of its scale, plus 128, as unsigned integers; and the scales (rows,).

    The largest magnitude of a row becomes 127. A row without any above 1e-30 is zero. Of a row that holds NaN or
    infinity the scale is that, and the integers mean nothing. Rows go through ``norm`` first. There are at least
    ``room`` rows of integers; what those hold that are too many means nothing.
    """
    x = normalize(x.float(), norm)
    largest = x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
    largest = torch.where(largest < 1e-30, 0.0, largest)
    inverse = torch.where(largest == 0, 0.0, 127 / largest)
    whole = (x * inverse[:, None]).nan_to_num().round() + 128
    whole = F.pad(whole, (0, 0, 0, max(room - len(x), 0)))
    return whole.to(torch.uint8), largest / 127


def normalize_rows(x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """Rows (rows, features) after a normalization, in a type of their own."""
    return normalize(x.float(), norm).to(dtype)


def finish_rows(
    products: Tensor, scales: Tensor | None, bias: Tensor | None, y: Tensor, activation: str | None = None
) -> None:
    """Write ``products`` (rows, features) times the rows' scales, plus a bias (features,), to ``y``, after an
    activation."""
    products = products.float() if scales is None else products.float() * scales[:, None]
    y.copy_(activate(products if bias is None else products + bias, activation))


def _activate(y: Tensor, activation: str | None) -> Tensor:
    return F.silu(y) if activation == "silu" else y


def causal_conv1d_update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> tuple[Tensor, Tensor]:
    """One step of the convolution; see :func:`speechbrain_mamba.ops.causal_conv1d_update`."""
    dtype = accumulation_dtype(x)
    window = torch.cat([state.to(dtype), x.to(dtype)[..., None]], -1)
    y = (window * weight.to(dtype)).sum(-1)
    if bias is not None:
        y = y + bias.to(dtype)
    return _activate(y, activation).to(x.dtype), window[..., 1:].to(state.dtype)


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
) -> Tensor | tuple[Tensor, Tensor]:
    """The depthwise causal convolution; see :func:`speechbrain_mamba.ops.conv`."""
    batch, time, channels = x.shape
    width = weight.shape[1]
    dtype, out_dtype = accumulation_dtype(x), x.dtype
    order = scan_order(time, lengths, reverse, x.device)
    history = x.new_zeros(batch, width - 1, channels) if initial_state is None else initial_state.transpose(1, 2)
    padded = torch.cat([history.to(dtype), reorder(mask_frames(x.to(dtype), lengths), order)], 1)
    taps = (weight[:, k].to(dtype) * padded[:, k : k + time] for k in range(width))
    y = sum(taps, torch.zeros((), dtype=dtype, device=x.device))
    if bias is not None:
        y = y + bias.to(dtype)
    y = mask_frames(reorder(_activate(y, activation), order), lengths).to(out_dtype)
    if not return_final_state:
        return y
    # The last width - 1 inputs before each example's end, in the order of the scan.
    end = torch.full((batch,), time, device=x.device) if lengths is None else lengths
    last = end[:, None] + torch.arange(width - 1, device=x.device)
    final_state = padded.gather(1, last[..., None].expand(-1, -1, channels)).transpose(1, 2)
    return y, final_state.to(out_dtype if initial_state is None else initial_state.dtype)


def bidirectional_causal_conv1d(
    x: Tensor, forward: Filters, reverse: Filters, activation: str | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both directions of a convolution; see :func:`speechbrain_mamba.ops.bidirectional_causal_conv1d`."""
    y = causal_conv1d(x, *forward, activation, lengths=lengths)
    y_reverse = causal_conv1d(x, *reverse, activation, lengths=lengths, reverse=True)
    return cast(Tensor, y), cast(Tensor, y_reverse)

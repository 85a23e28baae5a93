"""What the scan's kernels share: a walk through the frames of a chunk, in the order of the scan.

A sequence (batch, time, features) has contiguous features. ``rows`` and ``time`` of a tensor say how it lies: an
example begins ``rows`` frames after the one before it, and a frame ``time`` elements after the one before it. That way
only the latter decides on alignment, and no kernel is compiled again for another length.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import LOG2E, load_map, load_tile, softplus


@triton.jit
def of_direction(first, second, direction):
    """The tensor of a direction; the first where there is no second."""
    chosen = first
    if second is not None:
        chosen = first if direction == 0 else second
    return chosen


@triton.jit
def locate(lengths, b, k, chunk, time):
    """First frame of a chunk, its number of frames, and how many of these are valid.

    Lengths on a GPU are never checked: one out of range counts as the nearest that is in it.
    """
    start = k * chunk
    end = tl.minimum(start + chunk, time)
    valid_end = end
    if lengths is not None:
        valid_end = tl.minimum(end, tl.load(lengths + b))
    return start, (end - start).to(tl.int32), tl.maximum(valid_end - start, 0).to(tl.int32)


@triton.jit
def origin(start, count, REVERSE):
    """The frame that a walk begins with, and its direction; the first frame if none is valid, which may be read."""
    last = start + tl.maximum(count - 1, 0)
    return tl.where(REVERSE, last, start), tl.where(REVERSE, -1, 1)


@triton.jit
def frame_of(s, count):
    """The step of a walk, or past the valid ones the last of these, which is read to no effect; and whether it is
    valid."""
    return tl.maximum(tl.minimum(s, count - 1), 0), s < count


@triton.jit
def clear(base, stride, feature, size, count, frames):
    """Zeros for a chunk's frames past the length."""
    zeros = tl.zeros((feature.shape[0],), base.dtype.element_ty)
    for s in range(count, frames):
        tl.store(base + s * stride + feature, zeros, mask=feature < size)


@triton.jit
def load_row(base, c, mask_c):
    """A parameter of each channel in float32, zero for None."""
    row = tl.zeros((c.shape[0],), tl.float32)
    if base is not None:
        row = tl.load(base + c, mask=mask_c, other=0.0).to(tl.float32)
    return row


@triton.jit
def scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK: tl.constexpr, ROWS: tl.constexpr,
                    PADDED: tl.constexpr):  # fmt: skip
    """A direction's parameters: A for exponentials of base 2, the bias, and the weight of the step's factor."""
    A_tile = load_tile(A, n, c, 1, states, states, mask_c, ROWS, PADDED) * LOG2E
    weight_tile = tl.zeros((1, 1), tl.float32)
    if RANK:
        weight_tile = load_tile(weight, r, c, 1, ranks, ranks, mask_c, ROWS, PADDED)
    return A_tile, load_row(bias, c, mask_c), weight_tile


@triton.jit
def load_delta(delta, c, r, ranks, mask_c, RANK: tl.constexpr, MASKED: tl.constexpr):
    """What a frame's step is made of: its factor where there is a ``RANK``, or the step itself."""
    return load_map(delta, r, ranks, MASKED) if RANK else tl.load(delta + c, mask=mask_c, other=0.0)


@triton.jit
def raw_step(row, bias_row, weight_tile, RANK: tl.constexpr):
    """The step of one frame before its softplus; multiplied out of its factor where there is a ``RANK``."""
    raw = tl.sum(weight_tile * row[:, None], 0) if RANK else row.to(tl.float32)
    return raw + bias_row


@triton.jit
def step_size(raw, valid, SOFTPLUS: tl.constexpr):
    """The step of one frame, zero where the frame is not valid, which keeps the state as it is."""
    if SOFTPLUS:
        raw = softplus(raw)
    return tl.where(valid, raw, 0.0)


@triton.jit
def passed_on(chunk_states, initial, at, b, n, c, channels, states, mask_c, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """What a walk through a chunk begins with: what ``pass_states_kernel`` left, or for a single chunk ``initial``
    (batch, channel, state), or zero."""
    if chunk_states is not None:
        h = load_tile(chunk_states + at * states * channels, n, c, channels, 1, states, mask_c, ROWS, PADDED)
    elif initial is not None:
        h = load_tile(initial + b * channels * states, n, c, 1, states, states, mask_c, ROWS, PADDED)
    else:
        h = tl.zeros((n.shape[0], c.shape[0]), tl.float32)
    return h

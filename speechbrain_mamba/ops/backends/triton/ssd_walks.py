"""What the kernels of Mamba-2's scan share: blocks of frames that are worked on at once, in the order of the scan.

A program has one head and a chunk of time, which it walks block by block. Within a block everything is a product of
matrices; only the state, (head channel, state), passes from block to block. All products are of float32 numbers, by the
tensor cores: in one pass (TF32) where the inputs are in half precision, which TF32 holds exactly, and in three passes
for float32.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import LOG2E, softplus
from speechbrain_mamba.ops.backends.triton.walks import origin

SMALLEST = tl.constexpr(-160.0)
"""Exponents of base 2 below have a power of zero in float32."""


@triton.jit
def origin_of_direction(second, direction, start, count, REVERSE: tl.constexpr):
    """The frame that a walk begins with, and its direction: where there is a ``second`` direction of time, that of a
    program's own."""
    if second is not None:
        first, sign = origin(start, count, direction == 1)
    else:
        first, sign = origin(start, count, REVERSE)
    return first, sign


@triton.jit
def load_block(base, frame, feature, time_stride, valid, size):
    """The features of a block's frames, (frame, feature), in float32; zero where frames are not valid."""
    at = base + frame[:, None] * time_stride + feature[None, :]
    return tl.load(at, mask=valid[:, None] & (feature < size)[None, :], other=0.0).to(tl.float32)


@triton.jit
def store_block(base, values, frame, feature, time_stride, valid, size):
    """The counterpart of :func:`load_block`."""
    at = base + frame[:, None] * time_stride + feature[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=valid[:, None] & (feature < size)[None, :])


@triton.jit
def clear_blocks(base, time_stride, feature, size, count, frames, BLOCK_T: tl.constexpr):
    """Zeros for a chunk's frames past the length."""
    zeros, i = tl.zeros((BLOCK_T, feature.shape[0]), tl.float32), tl.arange(0, BLOCK_T)
    for s in range(count, frames, BLOCK_T):
        store_block(base, zeros, s + i, feature, time_stride, s + i < frames, size)


@triton.jit
def load_steps(delta, frame, time_stride, bias, valid, SOFTPLUS: tl.constexpr, LOW: tl.constexpr,
               HIGH: tl.constexpr):  # fmt: skip
    """The steps of a block, zero where frames are not valid, which keeps the state; and those before their limits."""
    step = tl.load(delta + frame * time_stride, mask=valid, other=0.0).to(tl.float32) + bias
    if SOFTPLUS:
        step = softplus(step)
    return tl.where(valid, tl.minimum(tl.maximum(step, LOW), HIGH), 0.0), step


@triton.jit
def load_head(base, head):
    """A parameter of a head in float32, zero for None."""
    value = 0.0
    if base is not None:
        value = tl.load(base + head).to(tl.float32)
    return value


@triton.jit
def exponents(step, rate):
    """Logarithms, of base 2, of a block's decays, in two parts: one that sums up without rounding, and the rest.

    So differences of sums are as good as the sums of the frames between, even where a fast decay precedes slow ones.
    """
    whole = tl.maximum(tl.minimum(step * rate * LOG2E, -SMALLEST), SMALLEST)
    coarse = tl.floor(whole * 256.0 + 0.5) * (1.0 / 256.0)
    return coarse, whole - coarse


@triton.jit
def decays_between(coarse, fine, BLOCK_T: tl.constexpr):
    """From the sums of exponents, the decays from frame j to frame i of a block, (i, j), zero where j is later."""
    i = tl.arange(0, BLOCK_T)
    exponent = (coarse[:, None] - coarse[None, :]) + (fine[:, None] - fine[None, :])
    return tl.where(i[:, None] >= i[None, :], tl.exp2(tl.where(i[:, None] >= i[None, :], exponent, 0.0)), 0.0)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """The product of two matrices."""
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def load_state(base, p, n, channels, states):
    """A head's state, (head channel, state), in float32."""
    mask = (p < channels)[:, None] & (n < states)[None, :]
    return tl.load(base + p[:, None] * states + n[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_state(base, state, p, n, channels, states):
    """The counterpart of :func:`load_state`."""
    mask = (p < channels)[:, None] & (n < states)[None, :]
    tl.store(base + p[:, None] * states + n[None, :], state, mask=mask)


@triton.jit
def load_skip(D, head, p, channels, SKIPS: tl.constexpr):
    """A head's skip connection, a number for each of its channels; zeros for None."""
    skip = tl.zeros((p.shape[0],), tl.float32)
    if D is not None:
        skip = tl.load(D + head * SKIPS + (p if SKIPS > 1 else 0 * p), mask=p < channels, other=0.0).to(tl.float32)
    return skip

"""The causal convolution's kernels: a program has a tile of channels and frames, and reads the frames around it.

Positions count frames in the order of the convolution, so that a reverse one runs through the same code; those below
zero are the initial state's.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import sigmoid


@triton.jit
def _length(lengths, b, time):
    """Valid frames of an example; lengths on a GPU are never checked, and must not reach other memory."""
    length = time.to(tl.int64)
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + b), 0), length)
    return length


@triton.jit
def _inputs(x, initial, b, position, length, c, channels, x_rows, x_time, REVERSE: tl.constexpr,
            WIDTH: tl.constexpr):  # fmt: skip
    """Inputs at positions, zero where there are none."""
    frame = length - 1 - position if REVERSE else position
    mask = ((position >= 0) & (position < length))[:, None] & (c < channels)[None, :]
    tile = tl.load(x + (b * x_rows + frame)[:, None] * x_time + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if initial is not None:
        earlier = (position < 0) & (position > -WIDTH)
        state = initial + (b * channels + c[None, :]) * (WIDTH - 1) + (position + WIDTH - 1)[:, None]
        tile += tl.load(state, mask=earlier[:, None] & (c < channels)[None, :], other=0.0).to(tl.float32)
    return tile


@triton.jit
def _tap(weight, k, c, channels, WIDTH: tl.constexpr):
    return tl.load(weight + c * WIDTH + k, mask=c < channels, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _bias(bias, c, channels):
    row = tl.zeros((c.shape[0],), tl.float32)
    if bias is not None:
        row = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    return row


@triton.jit
def _forward(x, weight, bias, initial, y, final, b, tile, length, time, c, channels, x_rows, x_time, y_rows, y_time,
             SILU: tl.constexpr, REVERSE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_T: tl.constexpr):  # fmt: skip
    position = tile.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    out = tl.zeros((BLOCK_T, c.shape[0]), tl.float32) + _bias(bias, c, channels)[None, :]
    for k in tl.static_range(WIDTH):
        earlier = position - (WIDTH - 1 - k)
        out += _tap(weight, k, c, channels, WIDTH) * _inputs(
            x, initial, b, earlier, length, c, channels, x_rows, x_time, REVERSE, WIDTH
        )
    if SILU:
        out *= sigmoid(out)
    out = tl.where((position < length)[:, None], out, 0.0)
    frame = tl.where(position < length, length - 1 - position, position) if REVERSE else position
    mask = (position < time)[:, None] & (c < channels)[None, :]
    tl.store(y + (b * y_rows + frame)[:, None] * y_time + c[None, :], out.to(y.dtype.element_ty), mask=mask)
    if final is not None:  # noqa: SIM102 - known at compilation, unlike the next
        if tile == 0:
            for k in tl.static_range(WIDTH - 1):
                last = length - (WIDTH - 1) + k + tl.zeros((1,), tl.int64)
                row = tl.sum(_inputs(x, initial, b, last, length, c, channels, x_rows, x_time, REVERSE, WIDTH), 0)
                to = final + (b * channels + c) * (WIDTH - 1) + k
                tl.store(to, row.to(final.dtype.element_ty), mask=c < channels)


@triton.jit(do_not_specialize=["time", "tiles", "x_rows", "y_rows"])
def conv_kernel(x, weight, bias, weight_b, bias_b, initial, lengths, y, y_b, final, time, channels, tiles,
                x_rows, x_time, y_rows, y_time, SILU: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr,
                WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Convolve x in one direction, or in both."""
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    c = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile, b = (program // blocks) % tiles, (program // blocks // tiles).to(tl.int64)
    length = _length(lengths, b, time)
    _forward(x, weight, bias, initial, y, final, b, tile, length, time, c, channels, x_rows, x_time, y_rows, y_time,
             SILU, REVERSE, WIDTH, BLOCK_T)  # fmt: skip
    if DIRECTIONS == 2:
        _forward(x, weight_b, bias_b, None, y_b, None, b, tile, length, time, c, channels, x_rows, x_time, y_rows,
                 y_time, SILU, True, WIDTH, BLOCK_T)  # fmt: skip


@triton.jit
def _before_activation(x, weight, bias, initial, dy, b, position, length, c, channels, x_rows, x_time, y_rows,
                       y_time, SILU: tl.constexpr, REVERSE: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """The gradient of the convolution before its activation, at positions; zero where there is none."""
    frame = length - 1 - position if REVERSE else position
    mask = ((position >= 0) & (position < length))[:, None] & (c < channels)[None, :]
    gradient = tl.load(dy + (b * y_rows + frame)[:, None] * y_time + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if SILU:
        out = tl.zeros((position.shape[0], c.shape[0]), tl.float32) + _bias(bias, c, channels)[None, :]
        for k in tl.static_range(WIDTH):
            out += _tap(weight, k, c, channels, WIDTH) * _inputs(
                x, initial, b, position - (WIDTH - 1 - k), length, c, channels, x_rows, x_time, REVERSE, WIDTH
            )
        s = sigmoid(out)
        gradient *= s * (1 + out * (1 - s))
    return gradient


@triton.jit
def _backward(x, weight, bias, initial, dy, dfinal, dinitial, dweight, dbias, b, position, length, c, channels,
              x_rows, x_time, y_rows, y_time, SILU: tl.constexpr, REVERSE: tl.constexpr,
              WIDTH: tl.constexpr):  # fmt: skip
    """The gradient of the input at positions, and those of weight (tap, channel) and bias with these positions' share
    added."""
    dx = tl.zeros((position.shape[0], c.shape[0]), tl.float32)
    own = tl.zeros((position.shape[0], c.shape[0]), tl.float32)
    for j in tl.static_range(WIDTH):
        gradient = _before_activation(x, weight, bias, initial, dy, b, position + j, length, c, channels, x_rows,
                                      x_time, y_rows, y_time, SILU, REVERSE, WIDTH)  # fmt: skip
        dx += _tap(weight, WIDTH - 1 - j, c, channels, WIDTH) * gradient
        if j == 0:
            own = gradient
    if dfinal is not None:
        k = position - (length - (WIDTH - 1))
        mask = ((k >= 0) & (k < WIDTH - 1))[:, None] & (c < channels)[None, :]
        state = dfinal + (b * channels + c[None, :]) * (WIDTH - 1) + k[:, None]
        dx += tl.load(state, mask=mask, other=0.0).to(tl.float32)
    tap = tl.arange(0, dweight.shape[0])
    for k in tl.static_range(WIDTH):
        taken = _inputs(x, initial, b, position - (WIDTH - 1 - k), length, c, channels, x_rows, x_time, REVERSE, WIDTH)
        dweight += tl.where(tap[:, None] == k, tl.sum(own * taken, 0)[None, :], 0.0)
    dbias += tl.sum(own, 0)
    if dinitial is not None:
        mask = ((position < 0) & (position > -WIDTH))[:, None] & (c < channels)[None, :]
        state = dinitial + (b * channels + c[None, :]) * (WIDTH - 1) + (position + WIDTH - 1)[:, None]
        tl.store(state, dx, mask=mask)
    return dx, dweight, dbias


@triton.jit
def _store_sums(sums, at, dweight, dbias, c, channels, WIDTH: tl.constexpr):
    """Store a direction's sums: [weight (channel, tap), bias (channel)]."""
    sums += at.to(tl.int64) * channels * (WIDTH + 1)
    tap = tl.arange(0, dweight.shape[0])
    mask = c < channels
    tl.store(sums + c[None, :] * WIDTH + tap[:, None], dweight, mask=(tap < WIDTH)[:, None] & mask[None, :])
    tl.store(sums + channels * WIDTH + c, dbias, mask=mask)


@triton.jit(do_not_specialize=["time", "tiles", "begin", "slots", "total", "x_rows", "y_rows", "dx_rows"])
def conv_backward_kernel(x, weight, bias, weight_b, bias_b, initial, lengths, dy, dy_b, dfinal, dx, sums, dinitial,
                         begin, time, channels, tiles, slots, total,
                         x_rows, x_time, y_rows, y_time, dx_rows, dx_time,
                         SILU: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, WIDTH: tl.constexpr,
                         BLOCK_W: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Gradients. Of ``slots`` programs for a block of channels, each goes through every ``slots``-th of all ``total``
    tiles, and stores what these contribute to the gradients of the parameters, (slot, direction, [weight, bias]).

    An example's tiles begin at position ``begin``, below zero where the initial state has a gradient.
    """
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    c = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    slot = program // blocks
    dweight = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    dbias = tl.zeros((BLOCK_C,), tl.float32)
    dweight_b, dbias_b = dweight, dbias
    for i in range(slot, total, slots):
        b = (i // tiles).to(tl.int64)
        length = _length(lengths, b, time)
        position = begin + (i % tiles).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
        d, dweight, dbias = _backward(x, weight, bias, initial, dy, dfinal, dinitial, dweight, dbias, b, position,
                                      length, c, channels, x_rows, x_time, y_rows, y_time, SILU, REVERSE,
                                      WIDTH)  # fmt: skip
        frame = tl.where(position < length, length - 1 - position, position) if REVERSE else position
        if DIRECTIONS == 2:
            # The same frames are other positions of the reverse direction.
            d_b, dweight_b, dbias_b = _backward(x, weight_b, bias_b, None, dy_b, None, None, dweight_b, dbias_b, b,
                                                length - 1 - position, length, c, channels, x_rows, x_time, y_rows,
                                                y_time, SILU, True, WIDTH)  # fmt: skip
            d += d_b
        if dx is not None:
            d = tl.where((position < length)[:, None], d, 0.0)
            mask = ((position >= 0) & (position < time))[:, None] & (c < channels)[None, :]
            to = dx + (b * dx_rows + frame)[:, None] * dx_time + c[None, :]
            tl.store(to, d.to(dx.dtype.element_ty), mask=mask)
    if sums is not None:
        _store_sums(sums, slot * DIRECTIONS, dweight, dbias, c, channels, WIDTH)
        if DIRECTIONS == 2:
            _store_sums(sums, slot * DIRECTIONS + 1, dweight_b, dbias_b, c, channels, WIDTH)

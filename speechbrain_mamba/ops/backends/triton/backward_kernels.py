"""The selective scan's backward kernels, which know nothing of the forward pass but its inputs.

:func:`chunk_sums_kernel` walks each chunk in the order of the scan: its last state from a state of zero, and what its
outputs contribute to the gradient of the state that comes in. The forward pass's ``pass_states_kernel`` turns these
into the state that comes into each chunk and the gradient of the one that leaves it. Then, for a slab of chunks at a
time, for which a bounded memory has room, :func:`borders_kernel` keeps the states at the borders of subchunks of a few
frames, and ``gradients_kernel`` goes through the subchunks from the last to the first.

Of the tensors of a slab, which begin with its first frame, ``first_row`` is that frame's number, counted through all
examples.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import load_map, sigmoid, store_tile, store_tile_by_channels
from speechbrain_mamba.ops.backends.triton.walks import (
    frame_of,
    load_delta,
    locate,
    origin,
    passed_on,
    raw_step,
    scan_parameters,
    step_size,
)


@triton.jit
def output_gradient(dy, z, at_dy, at_z, c, mask, HALVED: tl.constexpr):
    """The gradient of a scan's output before its gate."""
    gradient = tl.load(dy + at_dy + c, mask=mask, other=0.0).to(tl.float32)
    if HALVED:
        gradient *= 0.5
    if z is not None:
        gate = tl.load(z + at_z + c, mask=mask, other=0.0).to(tl.float32)
        gradient *= gate * sigmoid(gate)
    return gradient


@triton.jit
def place(program, channels, slab, examples, first_chunk, first_example, BLOCK_C: tl.constexpr):
    """Block of channels, chunk, example and direction of a program of a slab, and the chunk's number in it."""
    blocks = tl.cdiv(channels, BLOCK_C)
    local_k = (program // blocks) % slab
    rest = program // blocks // slab
    local_b, direction = rest % examples, rest // examples
    return (
        program % blocks,
        first_chunk + local_k,
        (first_example + local_b).to(tl.int64),
        direction,
        (direction * examples + local_b) * slab + local_k,
    )


@triton.jit(
    do_not_specialize=[
        "batch", "time", "chunk", "chunks", "slab", "examples", "first_chunk", "first_example", "delta_row", "u_rows",
        "d_rows", "B_rows", "z_rows", "y_rows",
    ]
)  # fmt: skip
def chunk_sums_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, C, C_b, bias, bias_b, weight, weight_b, z, lengths, dy,
                      passing, chunk_sums, batch, time, channels, states, ranks, chunk, chunks,
                      slab, examples, first_chunk, first_example, delta_row,
                      u_rows, u_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows, y_time,
                      SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr,
                      BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                      PADDED: tl.constexpr, MASKED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Of each chunk the last state from a state of zero, its contribution to the gradient of the state that comes in,
    (kind, direction, batch, chunk, state, channel), and the sum of its steps."""
    block, k, b, direction, _ = place(tl.program_id(0), channels, slab, examples, first_chunk, first_example, BLOCK_C)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    n, r = tl.arange(0, BLOCK_N), tl.arange(0, RANK if RANK else 1)
    mask_c = c < channels
    start, _, count = locate(lengths, b, k, chunk, time)
    reverse = REVERSE
    if DIRECTIONS == 2:
        reverse = direction == 1
        u, A = (u if direction == 0 else u_b), (A if direction == 0 else A_b)
        delta = delta if direction == 0 else delta_b
        B, C = (B if direction == 0 else B_b), (C if direction == 0 else C_b)
        if bias is not None:
            bias = bias if direction == 0 else bias_b
        if weight is not None:
            weight = weight if direction == 0 else weight_b
    A_tile, bias_row, weight_tile = scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED)
    first, sign = origin(start, count, reverse)
    u += (b * u_rows + first) * u_time
    delta += (b * d_rows + first - delta_row) * d_time
    B += (b * B_rows + first) * B_time
    C += (b * B_rows + first) * B_time
    dy += (b * y_rows + first) * y_time
    if z is not None:
        z += (b * z_rows + first) * z_time
    h = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    contribution = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    decay = contribution + 1.0  # from the chunk's beginning to the frame
    total = tl.zeros((BLOCK_C,), tl.float32)
    for s in range(0, count, UNROLL):
        for i in tl.static_range(UNROLL):
            at, valid = frame_of(s + i, count)
            at *= sign
            row = load_delta(delta + at * d_time, c, r, ranks, mask_c, RANK, MASKED)
            step = step_size(raw_step(row, bias_row, weight_tile, RANK), valid, SOFTPLUS)
            u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
            B_row, C_row = load_map(B + at * B_time, n, states, MASKED), load_map(C + at * B_time, n, states, MASKED)
            gradient = output_gradient(dy, z, at * y_time, at * z_time, c, valid & mask_c, DIRECTIONS == 2)
            factor = tl.exp2(step[None, :] * A_tile)
            h = factor * h + (step * u_row)[None, :] * B_row[:, None]
            decay *= factor
            contribution += decay * C_row[:, None] * gradient[None, :]
            total += step
    entry = (direction * batch + b) * chunks + k
    size = states * channels
    store_tile(passing + entry * size, h, n, c, channels, 1, states, mask_c, ROWS, PADDED)
    passing += DIRECTIONS * batch.to(tl.int64) * chunks * size
    store_tile(passing + entry * size, contribution, n, c, channels, 1, states, mask_c, ROWS, PADDED)
    tl.store(chunk_sums + entry * channels + c, total, mask=mask_c)


@triton.jit(
    do_not_specialize=[
        "batch", "time", "chunk", "chunks", "slab", "examples", "first_chunk", "first_example", "first_row",
        "delta_row", "u_rows", "d_rows", "B_rows",
    ]
)  # fmt: skip
def borders_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, bias, bias_b, weight, weight_b, lengths,
                   passing, borders, raw, raw_b, batch, time, channels, states, ranks, chunk, chunks,
                   slab, examples, first_chunk, first_example, first_row, delta_row,
                   u_rows, u_time, d_rows, d_time, B_rows, B_time, raw_time,
                   SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr,
                   BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                   PADDED: tl.constexpr, MASKED: tl.constexpr, SUBCHUNK: tl.constexpr):  # fmt: skip
    """The states at the borders of a slab's subchunks, (direction, example, chunk, subchunk, channel, state), and its
    steps before their softplus, each (frame, channel)."""
    block, k, b, direction, at_slab = place(
        tl.program_id(0), channels, slab, examples, first_chunk, first_example, BLOCK_C
    )
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    n, r = tl.arange(0, BLOCK_N), tl.arange(0, RANK if RANK else 1)
    mask_c = c < channels
    start, _, count = locate(lengths, b, k, chunk, time)
    reverse = REVERSE
    if DIRECTIONS == 2:
        reverse = direction == 1
        u, A = (u if direction == 0 else u_b), (A if direction == 0 else A_b)
        delta = delta if direction == 0 else delta_b
        B, raw = (B if direction == 0 else B_b), (raw if direction == 0 else raw_b)
        if bias is not None:
            bias = bias if direction == 0 else bias_b
        if weight is not None:
            weight = weight if direction == 0 else weight_b
    A_tile, bias_row, weight_tile = scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED)
    first, sign = origin(start, count, reverse)
    u += (b * u_rows + first) * u_time
    delta += (b * d_rows + first - delta_row) * d_time
    B += (b * B_rows + first) * B_time
    raw += (b * time + first - first_row) * raw_time
    entry = (direction * batch + b) * chunks + k
    h = passed_on(passing, None, entry, b, n, c, channels, states, mask_c, ROWS, PADDED)
    border = borders + at_slab.to(tl.int64) * (chunk // SUBCHUNK) * channels * BLOCK_N
    store_tile_by_channels(border, h, n, c, mask_c, ROWS)
    for s in range(0, count, SUBCHUNK):
        raws = ()
        for i in tl.static_range(SUBCHUNK):
            at, valid = frame_of(s + i, count)
            at *= sign
            row = load_delta(delta + at * d_time, c, r, ranks, mask_c, RANK, MASKED)
            raw_row = raw_step(row, bias_row, weight_tile, RANK)
            raws += (raw_row,)
            step = step_size(raw_row, valid, SOFTPLUS)
            u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
            B_row = load_map(B + at * B_time, n, states, MASKED)
            h = tl.exp2(step[None, :] * A_tile) * h + (step * u_row)[None, :] * B_row[:, None]
        # Stores come last, since no load moves above one.
        for i in tl.static_range(SUBCHUNK):
            at, valid = frame_of(s + i, count)
            tl.store(raw + at * sign * raw_time + c, raws[i], mask=valid & mask_c)
        border += channels * BLOCK_N
        store_tile_by_channels(border, h, n, c, mask_c & (s + SUBCHUNK < count), ROWS)

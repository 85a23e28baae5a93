"""The selective scan's forward kernels.

Time is cut into chunks that are scanned side by side: :func:`chunk_states_kernel` scans each from a state of zero,
``pass_states_kernel`` goes through the chunks' last states in the order of the scan, which gives each chunk the state
that it starts from, and :func:`outputs_kernel` scans again from there. A single chunk needs the last alone.

A thread owns a channel with all of its states and walks the frames of a chunk, so that neighboring threads read
neighboring channels. The two directions of a bidirectional scan are read in place, each walking its own way.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import load_map, sigmoid, store_tile
from speechbrain_mamba.ops.backends.triton.walks import (
    clear,
    frame_of,
    load_delta,
    load_row,
    locate,
    origin,
    passed_on,
    raw_step,
    scan_parameters,
    step_size,
)


@triton.jit
def _chunk_state(u, delta, A, B, bias, weight, b, start, count, n, c, r, channels, states, ranks,
                 u_rows, u_time, d_rows, d_time, B_rows, B_time,
                 SOFTPLUS: tl.constexpr, RANK: tl.constexpr, REVERSE: tl.constexpr, ROWS: tl.constexpr,
                 PADDED: tl.constexpr, MASKED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """The last state of a chunk whose first is zero, and the sum of its steps."""
    mask_c = c < channels
    A_tile, bias_row, weight_tile = scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED)
    first, sign = origin(start, count, REVERSE)
    u += (b * u_rows + first) * u_time
    delta += (b * d_rows + first) * d_time
    B += (b * B_rows + first) * B_time
    h = tl.zeros((n.shape[0], c.shape[0]), tl.float32)
    total = tl.zeros((c.shape[0],), tl.float32)
    for s in range(0, count, UNROLL):
        for i in tl.static_range(UNROLL):
            at, valid = frame_of(s + i, count)
            at *= sign
            row = load_delta(delta + at * d_time, c, r, ranks, mask_c, RANK, MASKED)
            step = step_size(raw_step(row, bias_row, weight_tile, RANK), valid, SOFTPLUS)
            u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
            B_row = load_map(B + at * B_time, n, states, MASKED)
            h = tl.exp2(step[None, :] * A_tile) * h + (step * u_row)[None, :] * B_row[:, None]
            total += step
    return h, total


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks", "u_rows", "d_rows", "B_rows"])
def chunk_states_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, bias, bias_b, weight, weight_b, lengths,
                        chunk_states, chunk_sums, batch, time, channels, states, ranks, chunk, chunks,
                        u_rows, u_time, d_rows, d_time, B_rows, B_time,
                        SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr,
                        BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                        PADDED: tl.constexpr, MASKED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Scan each chunk of each direction from zero: its last state (direction, batch, chunk, state, channel) and the sum
    of its steps (direction, batch, chunk, channel)."""
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    c = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = (program // blocks) % chunks
    rest = program // blocks // chunks
    b, direction = (rest % batch).to(tl.int64), rest // batch
    n, r = tl.arange(0, BLOCK_N), tl.arange(0, RANK if RANK else 1)
    start, _, count = locate(lengths, b, k, chunk, time)
    if DIRECTIONS == 2:
        if direction == 0:
            h, total = _chunk_state(u, delta, A, B, bias, weight, b, start, count, n, c, r, channels, states, ranks,
                                    u_rows, u_time, d_rows, d_time, B_rows, B_time,
                                    SOFTPLUS, RANK, False, ROWS, PADDED, MASKED, UNROLL)  # fmt: skip
        else:
            h, total = _chunk_state(u_b, delta_b, A_b, B_b, bias_b, weight_b, b, start, count, n, c, r, channels,
                                    states, ranks, u_rows, u_time, d_rows, d_time, B_rows, B_time,
                                    SOFTPLUS, RANK, True, ROWS, PADDED, MASKED, UNROLL)  # fmt: skip
    else:
        h, total = _chunk_state(u, delta, A, B, bias, weight, b, start, count, n, c, r, channels, states, ranks,
                                u_rows, u_time, d_rows, d_time, B_rows, B_time,
                                SOFTPLUS, RANK, REVERSE, ROWS, PADDED, MASKED, UNROLL)  # fmt: skip
    at = (direction * batch + b) * chunks + k
    mask_c = c < channels
    store_tile(chunk_states + at * states * channels, h, n, c, channels, 1, states, mask_c, ROWS, PADDED)
    tl.store(chunk_sums + at * channels + c, total, mask=mask_c)


@triton.jit
def _read(u, delta, B, C, z, y, at, c, n, r, states, ranks, mask_c, u_time, d_time, B_time, z_time, y_time,
          RANK: tl.constexpr, HALF: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """What a frame's output is made of."""
    row = load_delta(delta + at * d_time, c, r, ranks, mask_c, RANK, MASKED)
    u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0)
    B_row, C_row = load_map(B + at * B_time, n, states, MASKED), load_map(C + at * B_time, n, states, MASKED)
    other, gate = u_row, u_row
    if HALF == 2:
        other = tl.load(y + at * y_time + c, mask=mask_c, other=0.0)
    if HALF != 1 and z is not None:
        gate = tl.load(z + at * z_time + c, mask=mask_c, other=0.0)
    return row, u_row, B_row, C_row, other, gate


@triton.jit
def _outputs(u, delta, A, B, C, D, bias, weight, z, y, chunk_states, initial, last, at, b, k, chunks,
             start, count, n, c, r, channels, states, ranks, u_rows, u_time, d_rows, d_time, B_rows, B_time,
             z_rows, z_time, y_rows, y_time,
             SOFTPLUS: tl.constexpr, RANK: tl.constexpr, REVERSE: tl.constexpr, HALF: tl.constexpr,
             ROWS: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Outputs of a chunk in one direction. Of two ``HALF``s, 1 leaves its own in y, and 2 adds itself and finishes.

    A frame is read before the output of the one before it is stored: no load moves above a store that might change
    what it reads, and each would be waited for.
    """
    mask_c = c < channels
    A_tile, bias_row, weight_tile = scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED)
    D_row = load_row(D, c, mask_c)
    h = passed_on(chunk_states, initial, at, b, n, c, channels, states, mask_c, ROWS, PADDED)
    first, sign = origin(start, count, REVERSE)
    u += (b * u_rows + first) * u_time
    delta += (b * d_rows + first) * d_time
    B += (b * B_rows + first) * B_time
    C += (b * B_rows + first) * B_time
    y += (b * y_rows + first) * y_time
    if z is not None:
        z += (b * z_rows + first) * z_time
    row, u_row, B_row, C_row, other, gate = _read(u, delta, B, C, z, y, 0, c, n, r, states, ranks, mask_c, u_time,
                                                  d_time, B_time, z_time, y_time, RANK, HALF, MASKED)  # fmt: skip
    for s in range(0, count, UNROLL):
        for i in tl.static_range(UNROLL):
            now, valid = frame_of(s + i, count)
            later, _ = frame_of(s + i + 1, count)
            next_row, next_u, next_B, next_C, next_other, next_gate = _read(
                u, delta, B, C, z, y, later * sign, c, n, r, states, ranks, mask_c, u_time, d_time, B_time, z_time,
                y_time, RANK, HALF, MASKED
            )  # fmt: skip
            step = step_size(raw_step(row, bias_row, weight_tile, RANK), valid, SOFTPLUS)
            own = u_row.to(tl.float32)
            h = tl.exp2(step[None, :] * A_tile) * h + (step * own)[None, :] * B_row[:, None]
            out = tl.sum(h * C_row[:, None], 0) + D_row * own
            if HALF == 2:
                out = 0.5 * (out + other.to(tl.float32))
            if HALF != 1 and z is not None:
                opening = gate.to(tl.float32)
                out *= opening * sigmoid(opening)
            tl.store(y + now * sign * y_time + c, out.to(y.dtype.element_ty), mask=valid & mask_c)
            row, u_row, B_row, C_row, other, gate = next_row, next_u, next_B, next_C, next_other, next_gate
    if last is not None:  # noqa: SIM102 - known at compilation, unlike the next
        if k == (0 if REVERSE else chunks - 1):
            store_tile(last + b * channels * states, h, n, c, 1, states, states, mask_c, ROWS, PADDED)


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks", "u_rows", "d_rows", "B_rows", "z_rows", "y_rows"])
def outputs_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, C, C_b, D, D_b, bias, bias_b, weight, weight_b, z, lengths,
                   y, chunk_states, initial, last, batch, time, channels, states, ranks, chunk, chunks,
                   u_rows, u_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows, y_time,
                   SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr,
                   BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                   PADDED: tl.constexpr, MASKED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Scan each chunk from the state that comes into it; both directions one after the other, as they share y."""
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    c = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = (program // blocks) % chunks
    b = (program // blocks // chunks).to(tl.int64)
    n, r = tl.arange(0, BLOCK_N), tl.arange(0, RANK if RANK else 1)
    start, frames, count = locate(lengths, b, k, chunk, time)
    at = b * chunks + k
    if DIRECTIONS == 2:
        _outputs(u, delta, A, B, C, D, bias, weight, z, y, chunk_states, None, None, at, b, k, chunks, start, count,
                 n, c, r, channels, states, ranks, u_rows, u_time, d_rows, d_time, B_rows, B_time,
                 z_rows, z_time, y_rows, y_time, SOFTPLUS, RANK, False, 1, ROWS, PADDED, MASKED, UNROLL)  # fmt: skip
        tl.debug_barrier()
        at += batch * chunks
        _outputs(u_b, delta_b, A_b, B_b, C_b, D_b, bias_b, weight_b, z, y, chunk_states, None, None, at, b, k, chunks,
                 start, count, n, c, r, channels, states, ranks, u_rows, u_time, d_rows, d_time, B_rows, B_time,
                 z_rows, z_time, y_rows, y_time, SOFTPLUS, RANK, True, 2, ROWS, PADDED, MASKED, UNROLL)  # fmt: skip
    else:
        _outputs(u, delta, A, B, C, D, bias, weight, z, y, chunk_states, initial, last, at, b, k, chunks, start, count,
                 n, c, r, channels, states, ranks, u_rows, u_time, d_rows, d_time, B_rows, B_time,
                 z_rows, z_time, y_rows, y_time, SOFTPLUS, RANK, REVERSE, 0, ROWS, PADDED, MASKED, UNROLL)  # fmt: skip
    clear(y + (b * y_rows + start) * y_time, y_time, c, channels, count, frames)

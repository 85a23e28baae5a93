"""What comes before the walk back through the chunks of a selective scan.

:func:`chunk_sums_kernel` walks each chunk in the order of the scan: its last state from a state of zero, and what its
outputs contribute to the gradient of the state that comes in. The forward pass's ``pass_states_kernel`` turns these
into the state that comes into each chunk and the gradient of the one that leaves it, from which ``gradients_kernel``
goes through the chunks side by side.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import load_map, sigmoid, store_tile
from speechbrain_mamba.ops.backends.triton.walks import (
    frame_of,
    load_delta,
    locate,
    of_direction,
    origin,
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


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks", "u_rows", "d_rows", "B_rows", "z_rows", "y_rows"])
def chunk_sums_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, C, C_b, bias, bias_b, weight, weight_b, z, lengths, dy,
                      passing, chunk_sums, batch, time, channels, states, ranks, chunk, chunks,
                      u_rows, u_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows, y_time,
                      SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr,
                      BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                      PADDED: tl.constexpr, MASKED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Of each chunk the last state from a state of zero, its contribution to the gradient of the state that comes in,
    (kind, direction, batch, chunk, state, channel), and the sum of its steps."""
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    k = (program // blocks) % chunks
    rest = program // blocks // chunks
    b, direction = (rest % batch).to(tl.int64), rest // batch
    c = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    n, r = tl.arange(0, BLOCK_N), tl.arange(0, RANK if RANK else 1)
    mask_c = c < channels
    start, _, count = locate(lengths, b, k, chunk, time)
    reverse = direction == 1 if DIRECTIONS == 2 else REVERSE
    first, sign = origin(start, count, reverse)
    u = of_direction(u, u_b, direction) + (b * u_rows + first) * u_time
    delta = of_direction(delta, delta_b, direction) + (b * d_rows + first) * d_time
    B = of_direction(B, B_b, direction) + (b * B_rows + first) * B_time
    C = of_direction(C, C_b, direction) + (b * B_rows + first) * B_time
    dy += (b * y_rows + first) * y_time
    if z is not None:
        z += (b * z_rows + first) * z_time
    A_tile, bias_row, weight_tile = scan_parameters(
        of_direction(A, A_b, direction), of_direction(bias, bias_b, direction),
        of_direction(weight, weight_b, direction), n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED
    )  # fmt: skip
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

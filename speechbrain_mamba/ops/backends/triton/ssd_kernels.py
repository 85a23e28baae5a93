"""The forward kernels of Mamba-2's scan, and what the backward pass has in common with them.

Time is cut into chunks. :func:`ssd_states_kernel` finds what each chunk adds to the state, :func:`ssd_pass_kernel` goes
through these in the order of the scan, which gives each chunk the state that it starts from, and
:func:`ssd_outputs_kernel` computes the outputs from there. A single chunk needs the last alone.

The two directions of a bidirectional scan are read in place, each walking its own way; their arguments end in ``_b``,
and are None for a scan of one direction.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import LOG2E, sigmoid, softplus
from speechbrain_mamba.ops.backends.triton.ssd_walks import (
    clear_blocks,
    decays_between,
    exponents,
    load_block,
    load_head,
    load_skip,
    load_state,
    load_steps,
    origin_of_direction,
    product,
    store_block,
    store_state,
)
from speechbrain_mamba.ops.backends.triton.walks import locate, of_direction, origin


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks", "x_rows", "d_rows", "B_rows", "z_rows", "y_rows"])
def ssd_states_kernel(x, x_b, delta, delta_b, A, A_b, B, B_b, C, C_b, bias, bias_b, z, lengths, dy, passing, sums,
                      batch, time, heads, channels, states, per_group, chunk, chunks,
                      x_rows, x_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows, y_time,
                      SOFTPLUS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, REVERSE: tl.constexpr,
                      PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
                      BLOCK_N: tl.constexpr):  # fmt: skip
    """Of each chunk of each direction the last state from a state of zero, (direction, batch, chunk, head, head
    channel, state), and the sum of the logarithms of its decays, (direction, batch, chunk, head). With ``dy``, the
    gradient of the outputs, ``passing`` has a second part like the first: what the outputs contribute to the gradient
    of the state that comes in."""
    head = tl.program_id(0) % heads
    entry = (tl.program_id(0) // heads).to(tl.int64)  # direction, example and chunk
    k, direction = entry % chunks, entry // chunks // batch
    b = entry // chunks % batch
    i, p, n = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    start, _, count = locate(lengths, b, k, chunk, time)
    first, sign = origin_of_direction(x_b, direction, start, count, REVERSE)
    x, delta = of_direction(x, x_b, direction), of_direction(delta, delta_b, direction)
    A, B = of_direction(A, A_b, direction), of_direction(B, B_b, direction)
    if bias is not None:
        bias = of_direction(bias, bias_b, direction)
    x += (b * x_rows + first) * x_time + head * channels
    delta += (b * d_rows + first) * d_time + head
    B += (b * B_rows + first) * B_time + head // per_group * states
    rate, offset = load_head(A, head), load_head(bias, head)
    h = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    contribution = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    if dy is not None:
        C = of_direction(C, C_b, direction) + (b * B_rows + first) * B_time + head // per_group * states
        dy += (b * y_rows + first) * y_time + head * channels
        if z is not None:
            z += (b * z_rows + first) * z_time + head * channels
    total = 0.0
    for s in range(0, count, BLOCK_T):
        valid = s + i < count
        at = (s + i) * sign
        step, _before_limits = load_steps(delta, at, d_time, offset, valid, SOFTPLUS, LOW, HIGH)
        coarse, fine = exponents(step, rate)
        coarse_sums, fine_sums = tl.cumsum(coarse, 0), tl.cumsum(fine, 0)
        end_coarse, end_fine = tl.sum(coarse, 0), tl.sum(fine, 0)
        to_end = tl.exp2((end_coarse - coarse_sums) + (end_fine - fine_sums))
        x_block = load_block(x, at, p, x_time, valid, channels)
        B_block = load_block(B, at, n, B_time, valid, states) * (step * to_end)[:, None]
        end = end_coarse + end_fine
        h = tl.exp2(end) * h + product(tl.trans(x_block), B_block, PRECISION)
        if dy is not None:
            gradient = load_block(dy, at, p, y_time, valid, channels)
            if x_b is not None:
                gradient *= 0.5
            if z is not None:
                gate = load_block(z, at, p, z_time, valid, channels)
                gradient *= gate * sigmoid(gate)
            seen = gradient * tl.exp2(total + (coarse_sums + fine_sums))[:, None]
            contribution += product(tl.trans(seen), load_block(C, at, n, B_time, valid, states), PRECISION)
        total += end
    size = channels * states
    store_state(passing + (entry * heads + head) * size, h, p, n, channels, states)
    tl.store(sums + entry * heads + head, total)
    if dy is not None:
        kind = tl.num_programs(0).to(tl.int64) * size
        store_state(passing + kind + (entry * heads + head) * size, contribution, p, n, channels, states)


@triton.jit(do_not_specialize=["chunks", "entries"])
def ssd_pass_kernel(passing, sums, initial, dlast, dinitial, heads, size, chunks, entries, DIRECTIONS: tl.constexpr,
                    REVERSE: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Replace what each chunk adds by what comes into it.

    ``passing`` (kind, direction, batch, chunk, head, size) has states, which are passed on in the order of the scan,
    and for a backward pass also their gradients, which go the opposite way; a program each. ``initial`` and ``dlast``
    (batch, head, size) come into the first chunk, and ``dinitial`` is what leaves the last of the gradients; a scan of
    two directions has none of these. ``entries`` are those of (batch, head).
    """
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0)
    e = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    rest = program // blocks
    entry, scan = (rest % entries).to(tl.int64), rest // entries
    b, head, direction, kind = entry // heads, entry % heads, scan % DIRECTIONS, scan // DIRECTIONS
    mask = e < size
    h = tl.zeros((BLOCK,), tl.float32)
    if initial is not None:
        h += tl.load(initial + entry * size + e, mask=mask & (kind == 0), other=0.0)
    if dlast is not None:
        h += tl.load(dlast + entry * size + e, mask=mask & (kind == 1), other=0.0)
    descending = (direction + kind + (1 if REVERSE else 0)) % 2 == 1
    passing += ((scan * entries + b * heads) * chunks + head) * size + e
    sums += (direction * entries + b * heads) * chunks + head
    for s in range(0, chunks, UNROLL):
        added = ()
        totals = ()
        # All loads first: they would not move above a store that might change what they read.
        for i in tl.static_range(UNROLL):
            at = tl.where(descending, chunks - 1 - s - i, s + i).to(tl.int64) * heads
            there = s + i < chunks
            added += (tl.load(passing + at * size, mask=mask & there, other=0.0),)
            totals += (tl.load(sums + at, mask=there, other=0.0),)
        for i in tl.static_range(UNROLL):
            at = tl.where(descending, chunks - 1 - s - i, s + i).to(tl.int64) * heads
            tl.store(passing + at * size, h, mask=mask & (s + i < chunks))
            h = tl.exp2(totals[i]) * h + added[i]
    if dinitial is not None:
        tl.store(dinitial + entry * size + e, h, mask=mask & (kind == 1))


@triton.jit
def _outputs(x, delta, A, B, C, D, bias, z, y, passing, initial, last, b, entry, k, chunks, start, count, head, group,
             heads, channels, states, x_rows, x_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows, y_time,
             i, p, n, SOFTPLUS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, REVERSE: tl.constexpr,
             HALF: tl.constexpr, PRECISION: tl.constexpr, SKIPS: tl.constexpr, BLOCK_T: tl.constexpr):  # fmt: skip
    """Outputs of a chunk in one direction. Of two ``HALF``s, 1 leaves its own in y, and 2 adds itself and finishes."""
    first, sign = origin(start, count, REVERSE)
    x += (b * x_rows + first) * x_time + head * channels
    delta += (b * d_rows + first) * d_time + head
    B += (b * B_rows + first) * B_time + group * states
    C += (b * B_rows + first) * B_time + group * states
    rate, offset, skip = load_head(A, head), load_head(bias, head), load_skip(D, head, p, channels, SKIPS)
    own, size = b * heads + head, channels * states
    h = tl.zeros((p.shape[0], n.shape[0]), tl.float32)
    if passing is not None:
        h = load_state(passing + (entry * heads + head) * size, p, n, channels, states)
    elif initial is not None:
        h = load_state(initial + own * size, p, n, channels, states)
    if z is not None:
        z += (b * z_rows + first) * z_time + head * channels
    y += (b * y_rows + first) * y_time + head * channels
    for s in range(0, count, BLOCK_T):
        valid = s + i < count
        at = (s + i) * sign
        step, _before_limits = load_steps(delta, at, d_time, offset, valid, SOFTPLUS, LOW, HIGH)
        coarse, fine = exponents(step, rate)
        coarse_sums, fine_sums = tl.cumsum(coarse, 0), tl.cumsum(fine, 0)
        x_block = load_block(x, at, p, x_time, valid, channels)
        B_block, C_block = load_block(B, at, n, B_time, valid, states), load_block(C, at, n, B_time, valid, states)
        seen = product(C_block, tl.trans(h), PRECISION) * tl.exp2(coarse_sums + fine_sums)[:, None]
        scores = product(C_block, tl.trans(B_block), PRECISION)
        weights = scores * decays_between(coarse_sums, fine_sums, BLOCK_T) * step[None, :]
        values = seen + product(weights, x_block, PRECISION)
        if D is not None:
            values += skip[None, :] * x_block
        if HALF == 2:
            values = 0.5 * (values + load_block(y, at, p, y_time, valid, channels))
        if HALF != 1 and z is not None:
            gate = load_block(z, at, p, z_time, valid, channels)
            values *= gate * sigmoid(gate)
        store_block(y, values, at, p, y_time, valid, channels)
        end_coarse, end_fine = tl.sum(coarse, 0), tl.sum(fine, 0)
        to_end = tl.exp2((end_coarse - coarse_sums) + (end_fine - fine_sums))
        added = product(tl.trans(x_block), B_block * (step * to_end)[:, None], PRECISION)
        h = tl.exp2(end_coarse + end_fine) * h + added
    if last is not None:  # noqa: SIM102 - known at compilation, unlike the next
        if k == (0 if REVERSE else chunks - 1):
            store_state(last + own * size, h, p, n, channels, states)


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks", "x_rows", "d_rows", "B_rows", "z_rows", "y_rows"])
def ssd_outputs_kernel(x, x_b, delta, delta_b, A, A_b, B, B_b, C, C_b, D, D_b, bias, bias_b, z, lengths, y, passing,
                       initial, last, batch, time, heads, channels, states, per_group, chunk, chunks,
                       x_rows, x_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows, y_time,
                       SOFTPLUS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, REVERSE: tl.constexpr,
                       PRECISION: tl.constexpr, SKIPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
                       BLOCK_N: tl.constexpr):  # fmt: skip
    """Outputs of each chunk from the state that comes into it: from ``passing``, or of a single chunk ``initial`` or
    zero; both directions one after the other, as they share y. ``SKIPS`` are the numbers that a head has in D."""
    head = tl.program_id(0) % heads
    entry = (tl.program_id(0) // heads).to(tl.int64)
    k, b = entry % chunks, entry // chunks
    i, p, n = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    group = head // per_group
    start, frames, count = locate(lengths, b, k, chunk, time)
    if x_b is not None:
        _outputs(x, delta, A, B, C, D, bias, z, y, passing, None, None, b, entry, k, chunks, start, count, head, group,
                 heads, channels, states, x_rows, x_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows,
                 y_time, i, p, n, SOFTPLUS, LOW, HIGH, False, 1, PRECISION, SKIPS, BLOCK_T)  # fmt: skip
        tl.debug_barrier()
        _outputs(x_b, delta_b, A_b, B_b, C_b, D_b, bias_b, z, y, passing, None, None, b, entry + batch * chunks, k,
                 chunks, start, count, head, group, heads, channels, states, x_rows, x_time, d_rows, d_time, B_rows,
                 B_time, z_rows, z_time, y_rows, y_time, i, p, n, SOFTPLUS, LOW, HIGH, True, 2, PRECISION, SKIPS,
                 BLOCK_T)  # fmt: skip
    else:
        _outputs(x, delta, A, B, C, D, bias, z, y, passing, initial, last, b, entry, k, chunks, start, count, head,
                 group, heads, channels, states, x_rows, x_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows,
                 y_time, i, p, n, SOFTPLUS, LOW, HIGH, REVERSE, 0, PRECISION, SKIPS, BLOCK_T)  # fmt: skip
    clear_blocks(y + (b * y_rows + start) * y_time + head * channels, y_time, p, channels, count, frames, BLOCK_T)


@triton.jit
def ssd_step_kernel(state, x, delta, A, B, C, D, bias, z, y, after, heads, channels, states, per_group,
                    x_row, d_row, B_row, C_row, z_row, SOFTPLUS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
                    SKIPS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """One frame: a program for each example, head and ``BLOCK_P`` of its channels."""
    blocks = tl.cdiv(channels, BLOCK_P)
    entry = (tl.program_id(0) // blocks).to(tl.int64)  # example and head
    b, head = entry // heads, entry % heads
    p, n = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    mask_p = p < channels
    step = tl.load(delta + b * d_row + head).to(tl.float32) + load_head(bias, head)
    if SOFTPLUS:
        step = softplus(step)
    step = tl.minimum(tl.maximum(step, LOW), HIGH)
    x_row_of_head = tl.load(x + b * x_row + head * channels + p, mask=mask_p, other=0.0).to(tl.float32)
    group = head // per_group * states
    B_values = tl.load(B + b * B_row + group + n, mask=n < states, other=0.0).to(tl.float32)
    C_values = tl.load(C + b * C_row + group + n, mask=n < states, other=0.0).to(tl.float32)
    own = entry * channels * states
    h = load_state(state + own, p, n, channels, states)
    h = tl.exp2(step * load_head(A, head) * LOG2E) * h + (step * x_row_of_head)[:, None] * B_values[None, :]
    store_state(after + own, h, p, n, channels, states)
    values = tl.sum(h * C_values[None, :], 1) + load_skip(D, head, p, channels, SKIPS) * x_row_of_head
    if z is not None:
        gate = tl.load(z + b * z_row + head * channels + p, mask=mask_p, other=0.0).to(tl.float32)
        values *= gate * sigmoid(gate)
    tl.store(y + entry * channels + p, values.to(y.dtype.element_ty), mask=mask_p)

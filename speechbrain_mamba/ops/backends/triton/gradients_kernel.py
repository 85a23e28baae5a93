"""The walk back through the chunks of a selective scan: gradients of everything.

No sum is left to the order in which programs run: what several programs contribute to is stored by each, and added up
afterwards, so that equal inputs give equal gradients.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.backward_kernels import place
from speechbrain_mamba.ops.backends.triton.elementwise import LN2, LOG2E, load_map, load_tile, sigmoid
from speechbrain_mamba.ops.backends.triton.walks import clear, frame_of, load_row, locate, origin, step_size


@triton.jit
def _add(memory, values, mask, more):
    """Store sums, which add to those of an earlier slab."""
    before = tl.load(memory, mask=mask & (more > 0), other=0.0)
    tl.store(memory, before + values, mask=mask)


@triton.jit
def _read(u, B, C, dy, z, raw, dz, s, count, sign, n, c, states, mask_c, u_time, B_time, y_time, z_time, raw_time,
          dz_time, direction, DIRECTIONS: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """What the walk back through a frame needs. What the walk there has read too is read again, which takes fewer
    registers than it would to keep it."""
    at, _ = frame_of(s, count)
    at *= sign
    u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0)
    raw_row = tl.load(raw + at * raw_time + c, mask=mask_c, other=0.0)
    B_row, C_row = load_map(B + at * B_time, n, states, MASKED), load_map(C + at * B_time, n, states, MASKED)
    dy_row = tl.load(dy + at * y_time + c, mask=mask_c, other=0.0)
    z_row, other = dy_row, dy_row
    if z is not None:
        z_row = tl.load(z + at * z_time + c, mask=mask_c, other=0.0)
        if DIRECTIONS == 2:
            other = tl.load(dz + at * dz_time + c, mask=mask_c & (direction == 1), other=0.0)
    return u_row, raw_row, B_row, C_row, dy_row, z_row, other


@triton.jit(
    do_not_specialize=[
        "batch", "time", "chunk", "chunks", "slab", "examples", "first_chunk", "first_example", "first_row", "out_row",
        "rows", "slots", "more", "u_rows", "B_rows", "z_rows", "y_rows", "dz_rows",
    ]
)  # fmt: skip
def gradients_kernel(u, u_b, A, A_b, B, B_b, C, C_b, D, D_b, z, lengths, dy, borders, passing, raw, raw_b,
                     du, du_b, ddelta, ddelta_b, maps, dz, y, sums, dinitial,
                     batch, time, channels, states, chunk, chunks,
                     slab, examples, first_chunk, first_example, first_row, out_row, rows, slots, more,
                     u_rows, u_time, B_rows, B_time, z_rows, z_time, y_rows, y_time, raw_time, du_time, ddelta_time,
                     dz_rows, dz_time, o_time,
                     SOFTPLUS: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, BLOCK_N: tl.constexpr,
                     BLOCK_C: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr,
                     SUBCHUNK: tl.constexpr):  # fmt: skip
    """Gradients of a slab of chunks; of two directions one after the other, as they share the gate's.

    Those of B and C go to ``maps`` (block of channels, direction, frame, two states), to be summed over blocks. Those
    of A, D and the bias go to ``sums`` (direction, slot, [A (channel, state), D (channel), bias (channel)]), to be
    summed over the slots, one for each chunk of the largest slab. ``y`` is the output, which a gated scan computes on
    its way. Gradients of u and the steps, and y, begin with frame ``out_row`` of all examples'.
    """
    block, k, b, _, at_slab = place(tl.program_id(0), channels, slab, examples, first_chunk, first_example, BLOCK_C)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    mask_c = c < channels
    mask_tile = (n < states)[:, None] & mask_c[None, :]
    start, frames, count = locate(lengths, b, k, chunk, time)
    subchunks = tl.cdiv(count, SUBCHUNK)
    row, row_rows = b * time + start, (b * time).to(tl.int64)
    for direction in range(DIRECTIONS):
        reverse = REVERSE
        u_own, A_own, B_own, C_own, D_own, raw_own, du_own, ddelta_own = u, A, B, C, D, raw, du, ddelta
        if DIRECTIONS == 2:
            reverse = direction == 1
            u_own, A_own = (u if direction == 0 else u_b), (A if direction == 0 else A_b)
            B_own, C_own = (B if direction == 0 else B_b), (C if direction == 0 else C_b)
            raw_own, du_own = (raw if direction == 0 else raw_b), (du if direction == 0 else du_b)
            ddelta_own = ddelta if direction == 0 else ddelta_b
            if D is not None:
                D_own = D if direction == 0 else D_b
        first, sign = origin(start, count, reverse)
        u_own += (b * u_rows + first) * u_time
        B_own += (b * B_rows + first) * B_time
        C_own += (b * B_rows + first) * B_time
        dy_own = dy + (b * y_rows + first) * y_time
        raw_own += (row_rows + first - first_row) * raw_time
        du_walk = du_own + (row_rows + first - out_row) * du_time
        ddelta_walk = ddelta_own + (row_rows + first - out_row) * ddelta_time
        map_base = maps + ((block * DIRECTIONS + direction).to(tl.int64) * rows - first_row) * (2 * BLOCK_N)
        map_walk = map_base + (row_rows + first) * (2 * BLOCK_N)
        z_own, dz_walk, y_walk = z, dz, y
        if z is not None:
            z_own += (b * z_rows + first) * z_time
            dz_walk += (b * dz_rows + first) * dz_time
            if y is not None:
                y_walk += (row_rows + first - out_row) * o_time
        # In the order of memory, with a channel's states side by side, a thread gets four states of two channels: the
        # fewest exchanges between threads for sums over either.
        A_tile = tl.load(A_own + c[None, :] * states + n[:, None], mask=mask_tile, other=0.0).to(tl.float32) * LOG2E
        D_row = load_row(D_own, c, mask_c)
        leaving = ((DIRECTIONS + direction) * batch + b) * chunks + k  # the second kind: gradients
        # Row by row, as a tile loaded at once would bring the layout of this memory along.
        g = load_tile(passing + leaving * states * channels, n, c, channels, 1, states, mask_c, ROWS, True)
        border = (
            borders + (direction * examples * slab + at_slab).to(tl.int64) * (chunk // SUBCHUNK) * channels * BLOCK_N
        )
        border += c[None, :] * BLOCK_N + n[:, None]
        dA_sum = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        dD_sum = tl.zeros((BLOCK_C,), tl.float32)
        dbias_sum = tl.zeros((BLOCK_C,), tl.float32)
        for j in range(subchunks):
            s = (subchunks - 1 - j) * SUBCHUNK
            h = tl.load(border + (subchunks - 1 - j) * channels * BLOCK_N, mask=mask_c[None, :], other=0.0)
            kept = ()
            for i in tl.static_range(SUBCHUNK):
                at, valid = frame_of(s + i, count)
                at *= sign
                raw_row = tl.load(raw_own + at * raw_time + c, mask=mask_c, other=0.0)
                step = step_size(raw_row, valid, SOFTPLUS)
                u_row = tl.load(u_own + at * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
                B_row = load_map(B_own + at * B_time, n, states, MASKED)
                kept += ((h, step),)
                h = tl.exp2(step[None, :] * A_tile) * h + (step * u_row)[None, :] * B_row[:, None]
            ahead = _read(u_own, B_own, C_own, dy_own, z_own, raw_own, dz_walk, s + SUBCHUNK - 1, count, sign, n, c,
                          states, mask_c, u_time, B_time, y_time, z_time, raw_time, dz_time, direction, DIRECTIONS,
                          MASKED)  # fmt: skip
            for i in tl.static_range(SUBCHUNK - 1, -1, -1):
                at, valid = frame_of(s + i, count)
                at *= sign
                mask = valid & mask_c
                previous, step = kept[i]
                u_row, raw_row, B_row, C_row, dy_row, gate, other = ahead
                if i > 0:  # before anything is stored, which no load moves above
                    ahead = _read(u_own, B_own, C_own, dy_own, z_own, raw_own, dz_walk, s + i - 1, count, sign, n, c,
                                  states, mask_c, u_time, B_time, y_time, z_time, raw_time, dz_time, direction,
                                  DIRECTIONS, MASKED)  # fmt: skip
                u_row = u_row.to(tl.float32)
                gradient = tl.where(mask, dy_row, 0.0).to(tl.float32)  # past the valid frames it may be anything
                if z is not None:
                    gate = tl.where(mask, gate, 0.0).to(tl.float32)
                    opening = sigmoid(gate)
                    own = tl.sum(h * C_row[:, None], 0) + D_row * u_row
                    dgate = gradient * opening * (1 + gate * (1 - opening))
                    gradient *= gate * opening
                    if DIRECTIONS == 2:  # the first leaves its output in the memory for the gradient
                        last = direction == 1
                        own = tl.where(last, 0.5 * (own + other.to(tl.float32)), own)
                        dgate = tl.where(last, dgate, 1.0)
                        if y is not None:
                            out = own * gate * opening
                            tl.store(y_walk + at * o_time + c, out.to(y.dtype.element_ty), mask=mask & last)
                    tl.store(dz_walk + at * dz_time + c, (own * dgate).to(dz.dtype.element_ty), mask=mask)
                if DIRECTIONS == 2:
                    gradient *= 0.5
                map_row = map_walk + at * (2 * BLOCK_N) + n
                tl.store(map_row + BLOCK_N, tl.sum(h * gradient[None, :], 1), mask=valid)
                g += gradient[None, :] * C_row[:, None]
                tl.store(map_row, tl.sum(g * (step * u_row)[None, :], 1), mask=valid)
                dinput = tl.sum(g * B_row[:, None], 0)
                # Equal to step, which the compiler cannot know: it would keep the factors of all frames in registers.
                again = tl.where(raw_row != float("inf"), step, 0.0)
                g *= tl.exp2(again[None, :] * A_tile)
                h = previous
                dexponent = g * h
                dA_sum += dexponent * step[None, :]
                dstep = dinput * u_row + tl.sum(dexponent * A_tile, 0) * LN2
                if SOFTPLUS:
                    dstep *= sigmoid(raw_row)
                dstep = tl.where(valid, dstep, 0.0)
                dbias_sum += dstep
                dD_sum += gradient * u_row
                tl.store(ddelta_walk + at * ddelta_time + c, dstep.to(ddelta.dtype.element_ty), mask=mask)
                du_row = dinput * step + D_row * gradient
                tl.store(du_walk + at * du_time + c, du_row.to(du.dtype.element_ty), mask=mask)
        if sums is not None:
            slot = sums + (direction * slots + at_slab).to(tl.int64) * channels * (states + 2)
            _add(slot + c[None, :] * states + n[:, None], dA_sum, mask_tile, more)
            _add(slot + channels * states + c, dD_sum, mask_c, more)
            _add(slot + channels * (states + 1) + c, dbias_sum, mask_c, more)
        if dinitial is not None:  # noqa: SIM102 - known at compilation, unlike the next
            if k == (chunks - 1 if REVERSE else 0):
                tl.store(dinitial + b * channels * states + c[None, :] * states + n[:, None], g, mask=mask_tile)
        clear(du_own + (row - out_row) * du_time, du_time, c, channels, count, frames)
        clear(ddelta_own + (row - out_row) * ddelta_time, ddelta_time, c, channels, count, frames)
        clear(map_base + row * (2 * BLOCK_N), 2 * BLOCK_N, tl.arange(0, 2 * BLOCK_N), 2 * BLOCK_N, count, frames)
        if DIRECTIONS == 2:
            tl.debug_barrier()
    if z is not None:
        clear(dz + (b * dz_rows + start) * dz_time, dz_time, c, channels, count, frames)
        if y is not None:
            clear(y + (row - out_row) * o_time, o_time, c, channels, count, frames)

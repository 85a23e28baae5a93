"""The walk back through the chunks of a selective scan: gradients of everything.

A program has a block of channels and a chunk at a time. It walks the chunk in the order of the scan first, and keeps
the states at the borders of subchunks of a few frames, and the steps, in memory of its own, which the next chunk takes
over. Then it goes through the subchunks from the last to the first, and computes the states of one again.

No sum is left to the order in which programs run: what one program contributes to several times it adds up itself, and
what several programs contribute to is stored by each and added up afterwards, so that equal inputs give equal
gradients.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import (
    LN2,
    LOG2E,
    load_map,
    load_tile,
    sigmoid,
    softplus_slope,
)
from speechbrain_mamba.ops.backends.triton.walks import (
    clear,
    frame_of,
    load_delta,
    load_row,
    locate,
    of_direction,
    origin,
    raw_step,
    step_size,
)


@triton.jit
def _walk_there(u, delta, B, coming, bias, weight, borders, steps, A_tile, count, sign, n, c, channels, states, ranks,
                u_time, d_time, B_time, SOFTPLUS: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr,
                MASKED: tl.constexpr, SUBCHUNK: tl.constexpr):  # fmt: skip
    """Keep the states at the borders of subchunks, (border, channel, state), and the steps, (frame of the walk,
    channel)."""
    mask_c, r = c < channels, tl.arange(0, RANK if RANK else 1)
    weight_tile = tl.zeros((1, 1), tl.float32)
    if RANK:
        of_factor = (r < ranks)[:, None] & mask_c[None, :]
        weight_tile = tl.load(weight + c[None, :] * ranks + r[:, None], mask=of_factor, other=0.0)
    bias_row = load_row(bias, c, mask_c)
    # Row by row, as a tile loaded at once would bring the layout of this memory along.
    h = load_tile(coming, n, c, channels, 1, states, mask_c, ROWS, True)
    size: tl.constexpr = h.shape[0] * h.shape[1]
    lane = tl.arange(0, h.shape[1])
    borders += lane[None, :] * h.shape[0] + n[:, None]
    tl.store(borders, h)
    for s in range(0, count, SUBCHUNK):
        found = ()
        for i in tl.static_range(SUBCHUNK):
            now, valid = frame_of(s + i, count)
            at = now * sign
            row = load_delta(delta + at * d_time, c, r, ranks, mask_c, RANK, MASKED)
            step = step_size(raw_step(row, bias_row, weight_tile, RANK), valid, SOFTPLUS)
            found += (step,)
            u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
            B_row = load_map(B + at * B_time, n, states, MASKED)
            h = tl.exp2(step[None, :] * A_tile) * h + (step * u_row)[None, :] * B_row[:, None]
        # Stores come last, since no load moves above one.
        for i in tl.static_range(SUBCHUNK):
            tl.store(steps + (s + i) * h.shape[1] + lane, found[i])
        borders += size
        tl.store(borders, h)


@triton.jit
def _states_of_subchunk(u, B, border, steps, A_tile, s, count, sign, n, c, states, mask_c, u_time, B_time,
                        MASKED: tl.constexpr, SUBCHUNK: tl.constexpr):  # fmt: skip
    """The state before each frame of a subchunk, and the one after the last."""
    lane = tl.arange(0, c.shape[0])
    h = tl.load(border + lane[None, :] * n.shape[0] + n[:, None])
    kept = ()
    for i in tl.static_range(SUBCHUNK):
        now, _ = frame_of(s + i, count)
        at = now * sign
        step = tl.load(steps + (s + i) * c.shape[0] + lane)
        u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
        B_row = load_map(B + at * B_time, n, states, MASKED)
        kept += (h,)
        h = tl.exp2(step[None, :] * A_tile) * h + (step * u_row)[None, :] * B_row[:, None]
    return kept, h


@triton.jit
def _read(u, B, C, dy, z, steps, dz, s, count, sign, n, c, states, mask_c, u_time, B_time, y_time, z_time, dz_time,
          direction, DIRECTIONS: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """What the walk back through a frame needs. What the walk there has read too is read again, which takes fewer
    registers than it would to keep it."""
    now, _ = frame_of(s, count)
    at = now * sign
    u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0)
    step = tl.load(steps + s * c.shape[0] + tl.arange(0, c.shape[0]))
    B_row, C_row = load_map(B + at * B_time, n, states, MASKED), load_map(C + at * B_time, n, states, MASKED)
    dy_row = tl.load(dy + at * y_time + c, mask=mask_c, other=0.0)
    z_row, other = dy_row, dy_row
    if z is not None:
        z_row = tl.load(z + at * z_time + c, mask=mask_c, other=0.0)
        if DIRECTIONS == 2:
            other = tl.load(dz + at * dz_time + c, mask=mask_c & (direction == 1), other=0.0)
    return u_row, step, B_row, C_row, dy_row, z_row, other


@triton.jit
def _walk_back(u, B, C, dy, z, leaving, D, borders, steps, du, ddelta, maps, dz, A_tile, count, sign, direction, more,
               n, c, channels, states, u_time, B_time, y_time, z_time, dz_time,
               SOFTPLUS: tl.constexpr, DIRECTIONS: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr,
               OUTPUT: tl.constexpr, SUBCHUNK: tl.constexpr):  # fmt: skip
    """Store the gradients that each frame has; returns those of the state before the first and of A, D and bias.

    The gradients of B and C add to those of the blocks of channels before, if there are ``more``.
    """
    mask_c = c < channels
    D_row = load_row(D, c, mask_c)
    g = load_tile(leaving, n, c, channels, 1, states, mask_c, ROWS, True)
    size: tl.constexpr = g.shape[0] * g.shape[1]
    dA = tl.zeros(g.shape, tl.float32)
    dD, dbias = tl.zeros((g.shape[1],), tl.float32), tl.zeros((g.shape[1],), tl.float32)
    subchunks = tl.cdiv(count, SUBCHUNK)
    for j in range(subchunks):
        last_border = subchunks - 1 - j
        s = last_border * SUBCHUNK
        kept, h = _states_of_subchunk(u, B, borders + last_border * size, steps, A_tile, s, count, sign, n, c, states,
                                      mask_c, u_time, B_time, MASKED, SUBCHUNK)  # fmt: skip
        ahead = _read(u, B, C, dy, z, steps, dz, s + SUBCHUNK - 1, count, sign, n, c, states, mask_c, u_time, B_time,
                      y_time, z_time, dz_time, direction, DIRECTIONS, MASKED)  # fmt: skip
        for i in tl.static_range(SUBCHUNK - 1, -1, -1):
            now, valid = frame_of(s + i, count)
            at = now * sign
            mask = valid & mask_c
            u_row, step, B_row, C_row, dy_row, gate, other = ahead
            map_row = maps + at * (2 * g.shape[0]) + n
            # All loads come before anything is stored, which no load moves above.
            dB, dC = tl.load(map_row, mask=more, other=0.0), tl.load(map_row + g.shape[0], mask=more, other=0.0)
            if i > 0:
                ahead = _read(u, B, C, dy, z, steps, dz, s + i - 1, count, sign, n, c, states, mask_c, u_time, B_time,
                              y_time, z_time, dz_time, direction, DIRECTIONS, MASKED)  # fmt: skip
            u_row = u_row.to(tl.float32)
            gradient = tl.where(mask, dy_row, 0.0).to(tl.float32)  # past the valid frames it may be anything
            if z is not None:
                gate = tl.where(mask, gate, 0.0).to(tl.float32)
                opening = sigmoid(gate)
                own = tl.sum(h * C_row[:, None], 0) + D_row * u_row
                dgate = gradient * opening * (1 + gate * (1 - opening))
                gradient *= gate * opening
                if DIRECTIONS == 2:  # the first leaves its output in the memory for the gradient
                    second = direction == 1
                    own = tl.where(second, 0.5 * (own + other.to(tl.float32)), own)
                    dgate = tl.where(second, dgate, 1.0)
                    if OUTPUT:
                        out = own * gate * opening
                        tl.store(dy + at * y_time + c, out.to(dy.dtype.element_ty), mask=mask & second)
                tl.store(dz + at * dz_time + c, (own * dgate).to(dz.dtype.element_ty), mask=mask)
            if DIRECTIONS == 2:
                gradient *= 0.5
            tl.store(map_row + g.shape[0], dC + tl.sum(h * gradient[None, :], 1), mask=valid)
            g += gradient[None, :] * C_row[:, None]
            tl.store(map_row, dB + tl.sum(g * (step * u_row)[None, :], 1), mask=valid)
            dinput = tl.sum(g * B_row[:, None], 0)
            g *= tl.exp2(step[None, :] * A_tile)
            h = kept[i]
            dexponent = g * h
            dA += dexponent * step[None, :]
            dstep = dinput * u_row + tl.sum(dexponent * A_tile, 0) * LN2
            if SOFTPLUS:
                dstep *= softplus_slope(step)
            dstep = tl.where(valid, dstep, 0.0)
            dbias += dstep
            dD += gradient * u_row
            tl.store(ddelta + at * channels + c, dstep.to(ddelta.dtype.element_ty), mask=mask)
            tl.store(du + at * channels + c, (dinput * step + D_row * gradient).to(du.dtype.element_ty), mask=mask)
    return g, dA, dD, dbias


@triton.jit(
    do_not_specialize=[
        "batch", "time", "chunk", "chunks", "groups", "size", "u_rows", "d_rows", "B_rows", "z_rows", "y_rows",
        "dz_rows",
    ]
)  # fmt: skip
def gradients_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, C, C_b, D, D_b, bias, bias_b, weight, weight_b, z, lengths,
                     dy, passing, sums, scratch, du, du_b, ddelta, ddelta_b, maps, dz, dinitial,
                     batch, time, channels, states, ranks, chunk, chunks, groups, size,
                     u_rows, u_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows, y_time, dz_rows, dz_time,
                     SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr,
                     BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr,
                     OUTPUT: tl.constexpr, SUBCHUNK: tl.constexpr):  # fmt: skip
    """Gradients. A program takes chunk after chunk, of each a group of ``size`` blocks of channels; of a block the two
    directions one after the other, as they share the gate's.

    ``du`` and ``ddelta`` (batch, time, channel) may lie where ``u`` and ``delta`` are, each of which is read before.
    With an ``OUTPUT``, that of a gated scan in both directions takes the place of ``dy``. Gradients of B and C go to
    ``maps`` (group, direction, frame, two states), to be summed over the groups. Those of A take the place of the
    gradients of states in ``passing``, and those of D and the bias that of the steps' sums in ``sums`` (kind,
    direction, batch, chunk, channel), to be summed over batch and chunks.
    """
    n = tl.arange(0, BLOCK_N)
    borders = scratch + tl.program_id(0).to(tl.int64) * BLOCK_C * ((chunk // SUBCHUNK + 1) * BLOCK_N + chunk)
    steps = borders + BLOCK_C * (chunk // SUBCHUNK + 1) * BLOCK_N
    kind = DIRECTIONS * batch * chunks  # entries of passing and sums
    for unit in range(tl.program_id(0), batch * chunks * groups, tl.num_programs(0)):
        group, k, b = unit % groups, (unit // groups) % chunks, (unit // groups // chunks).to(tl.int64)
        start, frames, count = locate(lengths, b, k, chunk, time)
        own_size = tl.minimum(size, tl.cdiv(channels, BLOCK_C) - group * size)
        for part in range(own_size * DIRECTIONS):
            direction = part % DIRECTIONS
            c = (group * size + part // DIRECTIONS) * BLOCK_C + tl.arange(0, BLOCK_C)
            mask_c = c < channels
            mask_tile = (n < states)[:, None] & mask_c[None, :]
            reverse = direction == 1 if DIRECTIONS == 2 else REVERSE
            first, sign = origin(start, count, reverse)
            row = b * time + start
            du_own = of_direction(du, du_b, direction) + row * channels
            ddelta_own = of_direction(ddelta, ddelta_b, direction) + row * channels
            map_own = maps + ((group * DIRECTIONS + direction).to(tl.int64) * batch * time + row) * (2 * BLOCK_N)
            # First, so that nothing of it occupies registers in the walks, which read no frames past the length.
            clear(du_own, channels, c, channels, count, frames)
            clear(ddelta_own, channels, c, channels, count, frames)
            clear(map_own, 2 * BLOCK_N, tl.arange(0, 2 * BLOCK_N), 2 * BLOCK_N, count, frames)
            if z is not None:
                clear(dz + (b * dz_rows + start) * dz_time, dz_time, c, channels, count, frames)
                if OUTPUT:
                    clear(dy + (b * y_rows + start) * y_time, y_time, c, channels, count, frames)
            at = first - start
            u_walk = of_direction(u, u_b, direction) + (b * u_rows + first) * u_time
            B_walk = of_direction(B, B_b, direction) + (b * B_rows + first) * B_time
            # In the order of memory, with a channel's states side by side, a thread gets four states of two channels:
            # the fewest exchanges between threads for sums over either.
            A_own = of_direction(A, A_b, direction) + c[None, :] * states + n[:, None]
            A_tile = tl.load(A_own, mask=mask_tile, other=0.0).to(tl.float32) * LOG2E
            entry = (direction * batch + unit // groups // chunks) * chunks + k
            coming = passing + entry.to(tl.int64) * states * channels
            leaving = coming + kind.to(tl.int64) * states * channels
            _walk_there(
                u_walk, of_direction(delta, delta_b, direction) + (b * d_rows + first) * d_time, B_walk, coming,
                of_direction(bias, bias_b, direction), of_direction(weight, weight_b, direction), borders, steps,
                A_tile, count, sign, n, c, channels, states, ranks, u_time, d_time, B_time, SOFTPLUS, RANK, ROWS,
                MASKED, SUBCHUNK
            )  # fmt: skip
            tl.debug_barrier()
            z_walk, dz_walk = z, dz
            if z is not None:
                z_walk += (b * z_rows + first) * z_time
                dz_walk += (b * dz_rows + first) * dz_time
            g, dA, dD, dbias = _walk_back(
                u_walk, B_walk, of_direction(C, C_b, direction) + (b * B_rows + first) * B_time,
                dy + (b * y_rows + first) * y_time, z_walk, leaving, of_direction(D, D_b, direction), borders, steps,
                du_own + at * channels, ddelta_own + at * channels, map_own + at * (2 * BLOCK_N), dz_walk, A_tile,
                count, sign, direction, part >= DIRECTIONS, n, c, channels, states, u_time, B_time, y_time, z_time,
                dz_time, SOFTPLUS, DIRECTIONS, ROWS, MASKED, OUTPUT, SUBCHUNK
            )  # fmt: skip
            if sums is not None:
                tl.store(leaving + n[:, None] * channels + c[None, :], dA, mask=mask_tile)
                tl.store(sums + entry.to(tl.int64) * channels + c, dD, mask=mask_c)
                tl.store(sums + (kind + entry).to(tl.int64) * channels + c, dbias, mask=mask_c)
            if dinitial is not None:  # noqa: SIM102 - known at compilation, unlike the next
                if k == (chunks - 1 if REVERSE else 0):
                    tl.store(dinitial + b * channels * states + c[None, :] * states + n[:, None], g, mask=mask_tile)
            tl.debug_barrier()

"""The walk back through the chunks of a selective scan: gradients of everything.

A program has a block of channels and a chunk at a time. It walks the chunk in the order of the scan first, and keeps
the steps, the inputs times these, and the states at the borders of subchunks of a few frames, in memory of its own,
which the next chunk takes over. Then it goes through the subchunks from the last to the first, and computes the states
of one again.

The walks, whose threads share out states and channels, do only what each state needs. What is needed once for a frame
and channel is computed for a segment of frames at once, each of them in one thread: before the walk there the steps,
before the walk back through a segment the gradients before the gate, and after it what becomes of its sums.

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
    load_row,
    locate,
    of_direction,
    origin,
    step_size,
)


@triton.jit
def _steps_of_segment(u, delta, bias, weight, steps, inputs, s, count, sign, c, channels, ranks, u_time, d_time,
                      SOFTPLUS: tl.constexpr, RANK: tl.constexpr, SEGMENT: tl.constexpr):  # fmt: skip
    """Keep the steps and the inputs times these, (frame of the walk, channel); zeros past the valid frames."""
    mask_c = c < channels
    own = s + tl.arange(0, SEGMENT)
    now, valid = frame_of(own, count)
    at = now * sign
    raw = tl.zeros((SEGMENT, c.shape[0]), tl.float32) + load_row(bias, c, mask_c)[None, :]
    if RANK:
        for r in tl.static_range(RANK):
            factor = tl.load(delta + at * d_time + r, mask=r < ranks, other=0.0).to(tl.float32)
            raw += factor[:, None] * tl.load(weight + c * ranks + r, mask=mask_c & (r < ranks), other=0.0)[None, :]
    else:
        raw += tl.load(delta + at[:, None] * d_time + c[None, :], mask=mask_c[None, :], other=0.0).to(tl.float32)
    step = step_size(raw, valid[:, None], SOFTPLUS)
    taken = tl.load(u + at[:, None] * u_time + c[None, :], mask=mask_c[None, :], other=0.0).to(tl.float32)
    to = own[:, None] * c.shape[0] + tl.arange(0, c.shape[0])[None, :]
    tl.store(steps + to, step)
    tl.store(inputs + to, step * taken)


@triton.jit
def _walk_there(u, delta, B, coming, bias, weight, borders, steps, inputs, A_tile, count, sign, n, c, channels, states,
                ranks, u_time, d_time, B_time, SOFTPLUS: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr,
                MASKED: tl.constexpr, SEGMENT: tl.constexpr, SUBCHUNK: tl.constexpr):  # fmt: skip
    """Keep the states before each subchunk, (subchunk, channel, state), the steps and the inputs times these."""
    # Row by row, as a tile loaded at once would bring the layout of this memory along.
    h = load_tile(coming, n, c, channels, 1, states, c < channels, ROWS, True)
    lane = tl.arange(0, c.shape[0])
    borders += lane[None, :] * n.shape[0] + n[:, None]
    for s in range(0, count, SEGMENT):
        _steps_of_segment(u, delta, bias, weight, steps, inputs, s, count, sign, c, channels, ranks, u_time, d_time,
                          SOFTPLUS, RANK, SEGMENT)  # fmt: skip
        tl.debug_barrier()
        for i in range(s, tl.minimum(s + SEGMENT, count), SUBCHUNK):
            found = ()
            # All loads come before the store, which no load moves above.
            for j in tl.static_range(SUBCHUNK):
                now, _ = frame_of(i + j, count)
                own = (i + j) * c.shape[0] + lane
                found += ((tl.load(steps + own), tl.load(inputs + own),
                           load_map(B + now * sign * B_time, n, states, MASKED)),)  # fmt: skip
            tl.store(borders, h)
            borders += n.shape[0] * c.shape[0]
            for j in tl.static_range(SUBCHUNK):
                step, taken, B_row = found[j]
                h = tl.exp2(step[None, :] * A_tile) * h + taken[None, :] * B_row[:, None]


@triton.jit
def _store_column(to, column, n, lane):
    """Store what each state has, in the layout of a tile (state, channel): threads need not exchange it before."""
    tile = tl.broadcast_to(column[:, None], (n.shape[0], lane.shape[0]))
    tl.store(to + n[:, None] + 0 * lane[None, :], tile, mask=(lane == 0)[None, :] & (n >= 0)[:, None])


@triton.jit
def _read(B, C, steps, inputs, rows, s, inside, i: tl.constexpr, count, sign, n, lane, states, B_time,
          MASKED: tl.constexpr):  # fmt: skip
    """What the walk back through a frame needs. What the walk there has read too is read again, which takes fewer
    registers than it would to keep it."""
    now, _ = frame_of(s + i, count)
    own, at = (s + i) * lane.shape[0] + lane, now * sign * B_time
    gradient = tl.load(rows + (inside + i) * lane.shape[0] + lane)
    B_row, C_row = load_map(B + at, n, states, MASKED), load_map(C + at, n, states, MASKED)
    return tl.load(steps + own), tl.load(inputs + own), gradient, B_row, C_row


@triton.jit
def _walk_back(B, C, border, steps, inputs, rows, dmaps, A_tile, g, dA, s, inside, count, sign, n, c, states, B_time,
               GATED: tl.constexpr, MASKED: tl.constexpr, SEGMENT: tl.constexpr, SUBCHUNK: tl.constexpr,
               KEEP: tl.constexpr):  # fmt: skip
    """Walk back through the subchunk at frame ``s`` of the walk, which is frame ``inside`` of its segment.

    Of each frame the output before D and gate takes the place of its gradient in ``rows`` (kind, frame of the segment,
    channel); the gradients of the input times its step and of the step's exponents follow. Those of B and C go to
    ``dmaps`` (frame of the segment, two states). Decays are computed again, unless they are to be kept (``KEEP``),
    which takes as many registers as the states. Returns the gradients of the state before the first frame, and of A.
    """
    size: tl.constexpr = SEGMENT * c.shape[0]
    lane = tl.arange(0, c.shape[0])
    h = tl.load(border + lane[None, :] * n.shape[0] + n[:, None])
    found = ()
    for i in tl.static_range(SUBCHUNK):
        now, _ = frame_of(s + i, count)
        own = (s + i) * c.shape[0] + lane
        found += ((tl.load(steps + own), tl.load(inputs + own),
                   load_map(B + now * sign * B_time, n, states, MASKED)),)  # fmt: skip
    kept = ()
    for i in tl.static_range(SUBCHUNK):
        step, taken, B_row = found[i]
        decay = tl.exp2(step[None, :] * A_tile)
        kept += ((decay, h),)
        h = decay * h + taken[None, :] * B_row[:, None]
    ahead = _read(B, C, steps, inputs, rows, s, inside, SUBCHUNK - 1, count, sign, n, lane, states, B_time, MASKED)
    for i in tl.static_range(SUBCHUNK - 1, -1, -1):
        step, taken, gradient, B_row, C_row = ahead
        # Loads come before anything of the frame is stored, which no load moves above.
        if i > 0:
            ahead = _read(B, C, steps, inputs, rows, s, inside, i - 1, count, sign, n, lane, states, B_time, MASKED)
        own, to = rows + (inside + i) * c.shape[0] + lane, dmaps + (inside + i) * (2 * n.shape[0])
        if GATED:
            tl.store(own, tl.sum(h * C_row[:, None], 0))
        _store_column(to + n.shape[0], tl.sum(h * gradient[None, :], 1), n, lane)
        g += gradient[None, :] * C_row[:, None]
        _store_column(to, tl.sum(g * taken[None, :], 1), n, lane)
        tl.store(own + size, tl.sum(g * B_row[:, None], 0))
        decay, h = kept[i]
        if not KEEP:
            decay = tl.exp2(step[None, :] * A_tile)
        g *= decay
        dexponent = g * h
        dA += dexponent * step[None, :]
        tl.store(own + 2 * size, tl.sum(dexponent * A_tile, 0))
    return g, dA


@triton.jit
def _gradients_of_segment(dy, z, rows, s, count, sign, c, channels, y_time, z_time, DIRECTIONS: tl.constexpr,
                          SEGMENT: tl.constexpr):  # fmt: skip
    """Keep the gradients of a segment's outputs before the gate, (frame, channel); zeros past the valid frames."""
    now, valid = frame_of(s + tl.arange(0, SEGMENT), count)
    at = now[:, None] * sign
    mask = valid[:, None] & (c < channels)[None, :]  # past the valid frames it may be anything
    gradient = tl.load(dy + at * y_time + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if z is not None:
        gate = tl.load(z + at * z_time + c[None, :], mask=mask, other=0.0).to(tl.float32)
        gradient *= gate * sigmoid(gate)
    if DIRECTIONS == 2:
        gradient *= 0.5
    to = tl.arange(0, SEGMENT)[:, None] * c.shape[0] + tl.arange(0, c.shape[0])[None, :]
    tl.store(rows + to, gradient)


@triton.jit
def _finish_segment(u, dy, z, D, steps, rows, dmaps, totals, du, ddelta, maps, dz, s, count, sign, direction, more, n,
                    c, channels, u_time, y_time, z_time, dz_time, SOFTPLUS: tl.constexpr, DIRECTIONS: tl.constexpr,
                    OUTPUT: tl.constexpr, SEGMENT: tl.constexpr):  # fmt: skip
    """Store the gradients of a segment's frames, and add to those of D and bias, (kind, frame, channel).

    The gradients of B and C add to those of the blocks of channels before, if there are ``more``.
    """
    size: tl.constexpr = SEGMENT * c.shape[0]
    inside, lane = tl.arange(0, SEGMENT), tl.arange(0, c.shape[0])
    now, valid = frame_of(s + inside, count)
    at, features = now[:, None] * sign, c[None, :]
    mask = valid[:, None] & (c < channels)[None, :]
    own = inside[:, None] * c.shape[0] + lane[None, :]
    step = tl.load(steps + s * c.shape[0] + own)
    dinput = tl.load(rows + size + own, mask=mask, other=0.0)
    dexponent = tl.load(rows + 2 * size + own, mask=mask, other=0.0)
    taken = tl.load(u + at * u_time + features, mask=mask, other=0.0).to(tl.float32)
    gradient = tl.load(dy + at * y_time + features, mask=mask, other=0.0).to(tl.float32)
    D_row = load_row(D, c, c < channels)[None, :]
    if z is not None:
        gate = tl.load(z + at * z_time + features, mask=mask, other=0.0).to(tl.float32)
        output = tl.load(rows + own, mask=mask, other=0.0) + D_row * taken
        to_dz = dz + at * dz_time + features
        opening = sigmoid(gate)
        dgate = gradient * opening * (1 + gate * (1 - opening))
        gradient *= gate * opening
        if DIRECTIONS == 2:  # the first leaves its output in the memory for the gradient
            second = direction == 1
            other = tl.load(to_dz, mask=mask & second, other=0.0).to(tl.float32)
            output = tl.where(second, 0.5 * (output + other), output)
            dgate = tl.where(second, dgate, 1.0)
            # Others may still read what is stored now.
            tl.debug_barrier()
            if OUTPUT:
                tl.store(dy + at * y_time + features, (output * gate * opening).to(dy.dtype.element_ty),
                         mask=mask & second)  # fmt: skip
        tl.store(to_dz, (output * dgate).to(dz.dtype.element_ty), mask=mask)
    if DIRECTIONS == 2:
        gradient *= 0.5
    dstep = dinput * taken + dexponent * LN2
    if SOFTPLUS:
        dstep *= softplus_slope(step)
    dstep = tl.where(mask, dstep, 0.0)
    if totals is not None:
        tl.store(totals + own, tl.load(totals + own) + gradient * taken)
        tl.store(totals + size + own, tl.load(totals + size + own) + dstep)
    tl.debug_barrier()
    tl.store(ddelta + at * channels + features, dstep.to(ddelta.dtype.element_ty), mask=mask)
    tl.store(du + at * channels + features, (dinput * step + D_row * gradient).to(du.dtype.element_ty), mask=mask)
    column = tl.arange(0, 2 * n.shape[0])[None, :]
    there, to = valid[:, None] & (column >= 0), maps + at * (2 * n.shape[0]) + column
    shares = tl.load(dmaps + inside[:, None] * (2 * n.shape[0]) + column, mask=there, other=0.0)
    tl.store(to, shares + tl.load(to, mask=there & more, other=0.0), mask=there)


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
                     OUTPUT: tl.constexpr, SEGMENT: tl.constexpr, SUBCHUNK: tl.constexpr,
                     KEEP: tl.constexpr):  # fmt: skip
    """Gradients. A program takes chunk after chunk, of each a group of ``size`` blocks of channels; of a block the two
    directions one after the other, as they share the gate's.

    ``du`` and ``ddelta`` (batch, time, channel) may lie where ``u`` and ``delta`` are, each of which is read before.
    With an ``OUTPUT``, that of a gated scan in both directions takes the place of ``dy``. Gradients of B and C go to
    ``maps`` (group, direction, frame, two states), to be summed over the groups. Those of A take the place of the
    gradients of states in ``passing``, and those of D and the bias that of the steps' sums in ``sums`` (kind,
    direction, batch, chunk, channel), to be summed over batch and chunks.
    """
    n = tl.arange(0, BLOCK_N)
    # A program's memory, as ``plan.scratch_of`` counts it.
    longest = tl.cdiv(chunk, SEGMENT) * SEGMENT
    own_scratch = BLOCK_C * (longest // SUBCHUNK * BLOCK_N + 2 * longest + 5 * SEGMENT) + 2 * SEGMENT * BLOCK_N
    borders = scratch + tl.program_id(0).to(tl.int64) * own_scratch
    steps = borders + longest // SUBCHUNK * BLOCK_N * BLOCK_C
    inputs = steps + longest * BLOCK_C
    rows = inputs + longest * BLOCK_C
    totals = rows + 3 * SEGMENT * BLOCK_C
    dmaps = totals + 2 * SEGMENT * BLOCK_C
    in_segment = tl.arange(0, SEGMENT)[:, None] * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
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
            C_walk = of_direction(C, C_b, direction) + (b * B_rows + first) * B_time
            dy_walk = dy + (b * y_rows + first) * y_time
            z_walk, dz_walk = z, dz
            if z is not None:
                z_walk += (b * z_rows + first) * z_time
                dz_walk += (b * dz_rows + first) * dz_time
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
                inputs, A_tile, count, sign, n, c, channels, states, ranks, u_time, d_time, B_time, SOFTPLUS, RANK,
                ROWS, MASKED, SEGMENT, SUBCHUNK
            )  # fmt: skip
            own_totals = totals
            if sums is None:
                own_totals = None
            else:
                tl.store(totals + in_segment, tl.zeros((SEGMENT, BLOCK_C), tl.float32))
                tl.store(totals + SEGMENT * BLOCK_C + in_segment, tl.zeros((SEGMENT, BLOCK_C), tl.float32))
            g = load_tile(leaving, n, c, channels, 1, states, mask_c, ROWS, True)
            dA = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
            segments = tl.cdiv(count, SEGMENT)
            for i in range(segments):
                s = (segments - 1 - i) * SEGMENT
                _gradients_of_segment(dy_walk, z_walk, rows, s, count, sign, c, channels, y_time, z_time, DIRECTIONS,
                                      SEGMENT)  # fmt: skip
                tl.debug_barrier()
                subchunks = tl.cdiv(tl.minimum(count - s, SEGMENT), SUBCHUNK)
                for j in range(subchunks):
                    inside = (subchunks - 1 - j) * SUBCHUNK
                    border = borders + (s + inside) // SUBCHUNK * (BLOCK_N * BLOCK_C)
                    g, dA = _walk_back(B_walk, C_walk, border, steps, inputs, rows, dmaps, A_tile, g, dA, s + inside,
                                       inside, count, sign, n, c, states, B_time, z is not None, MASKED, SEGMENT,
                                       SUBCHUNK, KEEP)  # fmt: skip
                tl.debug_barrier()
                _finish_segment(
                    u_walk, dy_walk, z_walk, of_direction(D, D_b, direction), steps, rows, dmaps, own_totals,
                    du_own + at * channels, ddelta_own + at * channels, map_own + at * (2 * BLOCK_N), dz_walk, s, count,
                    sign, direction, part >= DIRECTIONS, n, c, channels, u_time, y_time, z_time, dz_time, SOFTPLUS,
                    DIRECTIONS, OUTPUT, SEGMENT
                )  # fmt: skip
                tl.debug_barrier()
            if sums is not None:
                tl.store(leaving + n[:, None] * channels + c[None, :], dA, mask=mask_tile)
                dD = tl.sum(tl.load(totals + in_segment), 0)
                dbias = tl.sum(tl.load(totals + SEGMENT * BLOCK_C + in_segment), 0)
                tl.store(sums + entry.to(tl.int64) * channels + c, dD, mask=mask_c)
                tl.store(sums + (kind + entry).to(tl.int64) * channels + c, dbias, mask=mask_c)
            if dinitial is not None:  # noqa: SIM102 - known at compilation, unlike the next
                if k == (chunks - 1 if REVERSE else 0):
                    tl.store(dinitial + b * channels * states + c[None, :] * states + n[:, None], g, mask=mask_tile)
            tl.debug_barrier()

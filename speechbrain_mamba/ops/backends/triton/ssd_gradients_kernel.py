"""The walk back through the chunks of Mamba-2's scan: gradients of everything.

A program has a chunk and some heads of a group at a time. For each head it walks the chunk in the order of the scan
first, and keeps the states before its blocks in memory of its own, which the next head takes over; then it goes through
the blocks from the last to the first.

No sum is left to the order in which programs run: what a program contributes to the gradients of B and C for several
heads it adds up itself, and what several programs contribute to is stored by each and added up by
:func:`ssd_finish_kernel`, so that equal inputs give equal gradients.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import sigmoid, softplus_slope
from speechbrain_mamba.ops.backends.triton.layer_kernels import sum_slots
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
)
from speechbrain_mamba.ops.backends.triton.walks import locate, of_direction


@triton.jit
def _keep_states(x, delta, B, coming, borders, rate, offset, count, sign, i, p, n, channels, states, x_time, d_time,
                 B_time, SOFTPLUS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, PRECISION: tl.constexpr,
                 BLOCK_T: tl.constexpr):  # fmt: skip
    """Keep the state before each block, (block, head channel, state)."""
    h = load_state(coming, p, n, channels, states)
    size: tl.constexpr = p.shape[0] * n.shape[0]
    borders += p[:, None] * n.shape[0] + n[None, :]
    tl.store(borders, h)
    for s in range(0, count - BLOCK_T, BLOCK_T):  # without the last, whose end nobody needs
        valid = s + i < count
        at = (s + i) * sign
        step, _before_limits = load_steps(delta, at, d_time, offset, valid, SOFTPLUS, LOW, HIGH)
        coarse, fine = exponents(step, rate)
        end_coarse, end_fine = tl.sum(coarse, 0), tl.sum(fine, 0)
        to_end = tl.exp2((end_coarse - tl.cumsum(coarse, 0)) + (end_fine - tl.cumsum(fine, 0)))
        x_block = load_block(x, at, p, x_time, valid, channels)
        B_block = load_block(B, at, n, B_time, valid, states) * (step * to_end)[:, None]
        h = tl.exp2(end_coarse + end_fine) * h + product(tl.trans(x_block), B_block, PRECISION)
        borders += size
        tl.store(borders, h)


@triton.jit
def _add_to(base, values, frame, n, stride, valid, states, more):
    """Add to what is there if there is ``more``."""
    at = base + frame[:, None] * stride + n[None, :]
    mask = valid[:, None] & (n < states)[None, :]
    tl.store(at, values + tl.load(at, mask=mask & more, other=0.0), mask=mask)


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks", "parts", "size", "x_rows", "d_rows", "B_rows",
                               "z_rows", "y_rows"])  # fmt: skip
def ssd_gradients_kernel(x, x_b, delta, delta_b, A, A_b, B, B_b, C, C_b, D, D_b, bias, bias_b, z, lengths, dy, passing,
                         scratch, dx, dx_b, ddelta, ddelta_b, maps, dz, dz_b, sums,
                         batch, time, heads, channels, states, per_group, chunk, chunks, parts, size,
                         x_rows, x_time, d_rows, d_time, B_rows, B_time, z_rows, z_time, y_rows, y_time,
                         SOFTPLUS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, REVERSE: tl.constexpr,
                         PRECISION: tl.constexpr, SKIPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
                         BLOCK_N: tl.constexpr):  # fmt: skip
    """Gradients. A program takes one unit after another: a chunk of a direction, a group, and of its heads one of
    ``parts`` of ``size``.

    ``passing`` (kind, direction, batch, chunk, head, head channel, state) has the state that comes into each chunk, and
    the gradient of the one that leaves it. ``dx``, ``dz`` and ``ddelta`` are contiguous; of ``dz`` each direction has
    its share. Gradients of B and C go to ``maps`` (part, direction, batch, time, group, [B, C], state), to be summed
    over the parts, and those of A, the bias and D to ``sums`` (direction, batch, chunk, [A (head), bias (head), D
    (head, ``SKIPS``)]), over batch and chunks.
    """
    i, p, n = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    groups = heads // per_group
    own_scratch = scratch + tl.program_id(0).to(tl.int64) * tl.cdiv(chunk, BLOCK_T) * (BLOCK_P * BLOCK_N)
    map_time, x_own_time = groups * 2 * states, heads * channels
    before = i[:, None] < i[None, :]  # of frames j and t, whether j is earlier
    directions = 1 if x_b is None else 2
    for unit in range(tl.program_id(0), directions * batch * chunks * groups * parts, tl.num_programs(0)):
        part, group = unit % parts, (unit // parts) % groups
        entry = (unit // parts // groups).to(tl.int64)  # direction, example and chunk
        k, direction = entry % chunks, entry // chunks // batch
        b = entry // chunks % batch
        start, frames, count = locate(lengths, b, k, chunk, time)
        first, sign = origin_of_direction(x_b, direction, start, count, REVERSE)
        row = b * time + start
        B_own = of_direction(B, B_b, direction) + (b * B_rows + first) * B_time + group * states
        C_own = of_direction(C, C_b, direction) + (b * B_rows + first) * B_time + group * states
        share = part.to(tl.int64) * directions + direction
        maps_own = maps + (share * batch * time + row) * map_time + group * 2 * states
        clear_blocks(maps_own, map_time, n, states, count, frames, BLOCK_T)
        clear_blocks(maps_own + states, map_time, n, states, count, frames, BLOCK_T)
        for number in range(tl.minimum(size, per_group - part * size)):
            head = group * per_group + part * size + number
            own_bias, own_D = bias, D
            if bias is not None:
                own_bias = of_direction(bias, bias_b, direction)
            if D is not None:
                own_D = of_direction(D, D_b, direction)
            rate, offset = load_head(of_direction(A, A_b, direction), head), load_head(own_bias, head)
            skip = load_skip(own_D, head, p, channels, SKIPS)
            x_own = of_direction(x, x_b, direction) + (b * x_rows + first) * x_time + head * channels
            delta_own = of_direction(delta, delta_b, direction) + (b * d_rows + first) * d_time + head
            dy_own = dy + (b * y_rows + first) * y_time + head * channels
            dx_own = of_direction(dx, dx_b, direction) + row * x_own_time + head * channels
            ddelta_own = of_direction(ddelta, ddelta_b, direction) + row * heads + head
            clear_blocks(dx_own, x_own_time, p, channels, count, frames, BLOCK_T)
            clear_blocks(ddelta_own, heads, tl.arange(0, 1), 1, count, frames, BLOCK_T)
            z_own, dz_own = z, dz
            if z is not None:
                z_own += (b * z_rows + first) * z_time + head * channels
                dz_own = of_direction(dz, dz_b, direction) + row * x_own_time + head * channels
                clear_blocks(dz_own, x_own_time, p, channels, count, frames, BLOCK_T)
            coming = passing + (entry * heads + head) * channels * states
            leaving = coming + (directions * batch * chunks).to(tl.int64) * heads * channels * states
            _keep_states(x_own, delta_own, B_own, coming, own_scratch, rate, offset, count, sign, i, p, n, channels,
                         states, x_time, d_time, B_time, SOFTPLUS, LOW, HIGH, PRECISION, BLOCK_T)  # fmt: skip
            tl.debug_barrier()
            g = load_state(leaving, p, n, channels, states)
            dA, dbias, dD = 0.0, 0.0, tl.zeros((BLOCK_P,), tl.float32)
            blocks = tl.cdiv(count, BLOCK_T)
            for j in range(blocks):
                block = blocks - 1 - j
                s = block * BLOCK_T
                valid = s + i < count
                at = (s + i) * sign
                to = at + (first - start).to(tl.int32)  # among the frames of the chunk
                step, unlimited = load_steps(delta_own, at, d_time, offset, valid, SOFTPLUS, LOW, HIGH)
                coarse, fine = exponents(step, rate)
                coarse_sums, fine_sums = tl.cumsum(coarse, 0), tl.cumsum(fine, 0)
                end_coarse, end_fine = tl.sum(coarse, 0), tl.sum(fine, 0)
                from_start = tl.exp2(coarse_sums + fine_sums)
                to_end = tl.exp2((end_coarse - coarse_sums) + (end_fine - fine_sums))
                through = tl.exp2(end_coarse + end_fine)
                decays = decays_between(coarse_sums, fine_sums, BLOCK_T)
                h = tl.load(own_scratch + block * (BLOCK_P * BLOCK_N) + p[:, None] * BLOCK_N + n[None, :])
                x_block = load_block(x_own, at, p, x_time, valid, channels)
                B_block = load_block(B_own, at, n, B_time, valid, states)
                C_block = load_block(C_own, at, n, B_time, valid, states)
                gradient = load_block(dy_own, at, p, y_time, valid, channels)
                if x_b is not None:
                    gradient *= 0.5
                u = x_block * step[:, None]
                weights = product(C_block, tl.trans(B_block), PRECISION) * decays
                seen = product(C_block, tl.trans(h), PRECISION) * from_start[:, None]
                if z is not None:
                    gate = load_block(z_own, at, p, z_time, valid, channels)
                    opening = sigmoid(gate)
                    values = seen + product(weights, u, PRECISION) + skip[None, :] * x_block
                    dgate = gradient * values * opening * (1 + gate * (1 - opening))
                    store_block(dz_own, dgate, to, p, x_own_time, valid, channels)
                    gradient *= gate * opening
                dweights = product(gradient, tl.trans(u), PRECISION)
                # What passes over a frame: from earlier frames to itself and later ones, ...
                over = product(dweights * weights, before.to(tl.float32), PRECISION)
                drate = tl.sum(tl.where(i[:, None] >= i[None, :], over, 0.0), 0)
                # ... from the state before the block to these, and ...
                drate += tl.cumsum(tl.sum(gradient * seen, 1), 0, reverse=True)
                dscores = dweights * decays
                dC = product(dscores, B_block, PRECISION)
                dC += product(gradient * from_start[:, None], h, PRECISION)
                _add_to(maps_own + states, dC, to, n, map_time, valid, states, number > 0)
                from_end = product(B_block, tl.trans(g), PRECISION) * to_end[:, None]
                dB = product(tl.trans(dscores), C_block, PRECISION)
                dB += product(u * to_end[:, None], g, PRECISION)
                _add_to(maps_own, dB, to, n, map_time, valid, states, number > 0)
                # ... from earlier frames to the state after the block, and from state to state.
                onward = tl.sum(u * from_end, 1)
                drate += tl.sum(tl.where(before, onward[:, None], 0.0), 0)
                drate += through * tl.sum(tl.sum(h * g, 1), 0)
                du = product(tl.trans(weights), gradient, PRECISION) + from_end
                dstep = tl.sum(du * x_block, 1) + drate * rate
                dA += tl.sum(tl.where(valid, drate * step, 0.0), 0)
                dstep = tl.where((unlimited >= LOW) & (unlimited <= HIGH) & valid, dstep, 0.0)
                if SOFTPLUS:
                    dstep *= softplus_slope(unlimited)
                dbias += tl.sum(dstep, 0)
                dD += tl.sum(gradient * x_block, 0)
                dx_block = du * step[:, None] + skip[None, :] * gradient
                store_block(dx_own, dx_block, to, p, x_own_time, valid, channels)
                tl.store(ddelta_own + to * heads, dstep.to(ddelta.dtype.element_ty), mask=valid)
                g = through * g + product(tl.trans(gradient * from_start[:, None]), C_block, PRECISION)
            own_sums = sums + entry * heads * (2 + SKIPS)
            tl.store(own_sums + head, dA)
            tl.store(own_sums + heads + head, dbias)
            if SKIPS == 1:
                tl.store(own_sums + 2 * heads + head, tl.sum(dD, 0))
            if SKIPS > 1:
                tl.store(own_sums + 2 * heads + head * SKIPS + p, dD, mask=p < channels)
            tl.debug_barrier()


@triton.jit
def _finish_maps(maps, dB, dC, elements, states, parts, BLOCK: tl.constexpr):
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask, at = e < elements, e // states * (2 * states) + e % states
    B_total, C_total = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for part in range(parts):
        B_total += tl.load(maps + part * 2 * elements + at, mask=mask, other=0.0)
        C_total += tl.load(maps + part * 2 * elements + at + states, mask=mask, other=0.0)
    tl.store(dB + e, B_total.to(dB.dtype.element_ty), mask=mask)
    tl.store(dC + e, C_total.to(dC.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "parts", "slots"])
def ssd_finish_kernel(maps, sums, dB, dC, out, rows, groups, states, parts, slots, size, BLOCK: tl.constexpr,
                      BLOCK_S: tl.constexpr, BLOCK_E: tl.constexpr):  # fmt: skip
    """Sum ``maps`` (part, row, group, [B, C], state) over the parts into dB and dC (row, group, state), and ``sums``
    (direction, slot, ``size``) over the slots into ``out`` (direction, ``size``), in a fixed order. The rows of two
    directions follow each other."""
    elements = rows.to(tl.int64) * groups * states
    programs = tl.cdiv(elements, BLOCK)
    if tl.program_id(0) < programs:
        _finish_maps(maps, dB, dC, elements, states, parts, BLOCK)
    else:
        blocks = tl.cdiv(size, BLOCK_E)
        program = tl.program_id(0) - programs
        direction, e = program // blocks, (program % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
        total = sum_slots(sums + direction.to(tl.int64) * slots * size, e, size, slots, e < size, BLOCK_S)
        tl.store(out + direction * size + e, total, mask=e < size)

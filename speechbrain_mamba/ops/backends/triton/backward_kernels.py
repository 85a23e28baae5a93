"""The selective scan's backward kernels.

Nothing but the inputs and the states that come into the chunks is known from the forward pass.
:func:`chunk_gradients_kernel` walks each chunk in the order of the scan and sums up what its outputs contribute to the
gradient of the state that came in. The forward pass's ``pass_states_kernel``, in the opposite order, turns this into
the gradient of the state that leaves each chunk. Then, for as many chunks at a time as a bounded memory has room for,
:func:`chunk_gradients_kernel` keeps the states at the borders of subchunks of a few frames, and
:func:`gradients_kernel` goes through the subchunks from the last to the first: it computes the states of one again,
which stay in registers, and walks back.

No sum is left to the order in which programs run: what several programs contribute to is stored by each, and added up
afterwards, so that equal inputs give equal gradients.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import LN2, load_map, load_tile, sigmoid, store_tile
from speechbrain_mamba.ops.backends.triton.forward_kernels import (
    clear,
    frame_of,
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
def _chunk_gradient(u, delta, A, B, C, bias, weight, z, dy, chunk_states, initial, borders, chunk_gradients,
                    chunk_sums, at, slab_at, b, start, count, chunk, n, c, r, channels, states, ranks,
                    u_batch, u_time, d_batch, d_time, B_batch, B_time, z_batch, z_time, y_batch, y_time,
                    SOFTPLUS: tl.constexpr, RANK: tl.constexpr, REVERSE: tl.constexpr, HALVED: tl.constexpr,
                    ROWS: tl.constexpr, PADDED: tl.constexpr, SUBCHUNK: tl.constexpr,
                    UNROLL: tl.constexpr):  # fmt: skip
    """One direction of :func:`chunk_gradients_kernel`."""
    mask_c = c < channels
    A_tile, bias_row, weight_tile = scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED)
    first, sign = origin(start, count, REVERSE)
    u += b * u_batch + first * u_time
    delta += b * d_batch + first * d_time
    B += b * B_batch + first * B_time
    C += b * B_batch + first * B_time
    dy += b * y_batch + first * y_time
    if z is not None:
        z += b * z_batch + first * z_time
    h = passed_on(chunk_states, initial, at, b, n, c, channels, states, mask_c, ROWS, PADDED)
    if borders is not None:
        borders += slab_at * (chunk // SUBCHUNK) * states * channels
    contribution = tl.zeros((n.shape[0], c.shape[0]), tl.float32)
    decay = contribution + 1.0  # from the chunk's beginning to the frame
    total = tl.zeros((c.shape[0],), tl.float32)
    for s in range(0, count, SUBCHUNK):
        if borders is not None:
            border = borders + (s // SUBCHUNK) * states * channels
            store_tile(border, h, n, c, channels, 1, states, mask_c, ROWS, PADDED)
        for f in range(s, s + SUBCHUNK, UNROLL):
            for i in tl.static_range(UNROLL):
                frame, valid = frame_of(f + i, count, sign)
                raw = raw_step(delta, frame * d_time, bias_row, weight_tile, c, r, ranks, mask_c, RANK, PADDED)
                step = step_size(raw, valid, SOFTPLUS)
                u_row = tl.load(u + frame * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
                B_row = load_map(B + frame * B_time, n, states, PADDED)
                factor = tl.exp2(step[None, :] * A_tile)
                h = factor * h + (step * u_row)[None, :] * B_row[:, None]
                if chunk_gradients is not None:
                    C_row = load_map(C + frame * B_time, n, states, PADDED)
                    mask = valid & mask_c
                    gradient = output_gradient(dy, z, frame * y_time, frame * z_time, c, mask, HALVED)
                    decay *= factor
                    contribution += decay * C_row[:, None] * gradient[None, :]
                    total += step
    if chunk_gradients is not None:
        chunk_gradients += at * states * channels
        store_tile(chunk_gradients, contribution, n, c, channels, 1, states, mask_c, ROWS, PADDED)
        tl.store(chunk_sums + at * channels + c, total, mask=mask_c)


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks", "first_chunk", "slab"])
def chunk_gradients_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, C, C_b, bias, bias_b, weight, weight_b, z, lengths,
                           dy, chunk_states, initial, borders, chunk_gradients, chunk_sums,
                           batch, time, channels, states, ranks, chunk, chunks,
                           first_chunk, slab, u_batch, u_time, d_batch, d_time, B_batch, B_time, z_batch, z_time,
                           y_batch, y_time,
                           SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr,
                           REVERSE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                           PADDED: tl.constexpr, SUBCHUNK: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """What each chunk contributes to the gradient of the state that comes into it, and the sum of its steps; or the
    states at the borders of subchunks, (direction, batch, chunk, subchunk, state, channel). Of ``slab`` chunks."""
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    c = (program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = first_chunk + (program // blocks) % slab
    rest = program // blocks // slab
    b, direction = (rest % batch).to(tl.int64), rest // batch
    n, r = tl.arange(0, BLOCK_N), tl.arange(0, RANK if RANK else 1)
    start, _, count = locate(lengths, b, k, chunk, time)
    at = (direction * batch + b) * chunks + k
    slab_at = (direction * batch + b) * slab + k - first_chunk
    if DIRECTIONS == 2:
        if direction == 0:
            _chunk_gradient(u, delta, A, B, C, bias, weight, z, dy, chunk_states, None, borders, chunk_gradients,
                            chunk_sums, at, slab_at, b, start, count, chunk, n, c, r, channels, states, ranks,
                            u_batch, u_time, d_batch, d_time, B_batch, B_time, z_batch, z_time, y_batch, y_time,
                            SOFTPLUS, RANK, False, True, ROWS, PADDED, SUBCHUNK, UNROLL)  # fmt: skip
        else:
            _chunk_gradient(u_b, delta_b, A_b, B_b, C_b, bias_b, weight_b, z, dy, chunk_states, None, borders,
                            chunk_gradients, chunk_sums, at, slab_at, b, start, count, chunk, n, c, r, channels,
                            states, ranks, u_batch, u_time, d_batch, d_time, B_batch, B_time, z_batch, z_time,
                            y_batch, y_time, SOFTPLUS, RANK, True, True, ROWS, PADDED, SUBCHUNK, UNROLL)  # fmt: skip
    else:
        _chunk_gradient(u, delta, A, B, C, bias, weight, z, dy, chunk_states, initial, borders, chunk_gradients,
                        chunk_sums, at, slab_at, b, start, count, chunk, n, c, r, channels, states, ranks,
                        u_batch, u_time, d_batch, d_time, B_batch, B_time, z_batch, z_time, y_batch, y_time,
                        SOFTPLUS, RANK, REVERSE, False, ROWS, PADDED, SUBCHUNK, UNROLL)  # fmt: skip


@triton.jit
def _gate_gradient(dy, z, dz, y, at_dy, at_z, at_dz, at_y, own, c, mask, HALF: tl.constexpr):
    """The gradient of the gate, and the gated output where it is wanted, from the outputs before the gate.

    Of two ``HALF``s, 1 leaves its own output in the memory for the gradient, and 2 adds itself and finishes.
    """
    if HALF == 2:
        own = 0.5 * (own + tl.load(dz + at_dz + c, mask=mask, other=0.0).to(tl.float32))
    if HALF == 1:
        tl.store(dz + at_dz + c, own.to(dz.dtype.element_ty), mask=mask)
    else:
        gate = tl.load(z + at_z + c, mask=mask, other=0.0).to(tl.float32)
        s = sigmoid(gate)
        gradient = tl.load(dy + at_dy + c, mask=mask, other=0.0).to(tl.float32)
        gradient *= own * s * (1 + gate * (1 - s))
        tl.store(dz + at_dz + c, gradient.to(dz.dtype.element_ty), mask=mask)
        if y is not None:
            tl.store(y + at_y + c, (own * gate * s).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["direction", "batch", "time", "chunk", "chunks", "first_chunk", "slab"])
def gradients_kernel(u, delta, A, B, C, D, bias, weight, z, lengths, dy, borders, leaving, dlast, du, ddelta, dmaps,
                     dz, y, dA, dD, dbias, dinitial, direction, batch, time, channels, states, ranks, chunk, chunks,
                     first_chunk, slab, u_batch, u_time, d_batch, d_time, B_batch, B_time, z_batch, z_time, y_batch,
                     y_time,
                     du_batch, du_time, dz_batch, dz_time, o_batch, o_time,
                     SOFTPLUS: tl.constexpr, RANK: tl.constexpr, REVERSE: tl.constexpr, HALF: tl.constexpr,
                     BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                     PADDED: tl.constexpr, SUBCHUNK: tl.constexpr):  # fmt: skip
    """Gradients of everything in one direction; of two, the first runs before the second, which completes that of z.

    Those of B and C go to ``dmaps`` (block of channels, direction, batch, time, two states), those of A, D and the
    bias to a place for each (direction, batch, chunk); each is to be summed.
    """
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    block = program % blocks
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    k = first_chunk + (program // blocks) % slab
    b = (program // blocks // slab).to(tl.int64)
    n, r = tl.arange(0, BLOCK_N), tl.arange(0, RANK if RANK else 1)
    start, frames, count = locate(lengths, b, k, chunk, time)
    at = (direction * batch + b) * chunks + k
    maps_time = 2 * states
    dmaps += ((block * (2 if HALF else 1) + direction) * batch + b) * time.to(tl.int64) * maps_time
    mask_c, mask_n = c < channels, n < states
    A_tile, bias_row, weight_tile = scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED)
    D_row = tl.zeros((c.shape[0],), tl.float32)
    if D is not None:
        D_row = tl.load(D + c, mask=mask_c, other=0.0).to(tl.float32)
    first, sign = origin(start, count, REVERSE)
    u += b * u_batch + first * u_time
    delta += b * d_batch + first * d_time
    B += b * B_batch + first * B_time
    C += b * B_batch + first * B_time
    dy += b * y_batch + first * y_time
    du += b * du_batch
    ddelta += b * du_batch
    du_walk, ddelta_walk = du + first * du_time, ddelta + first * du_time
    maps = dmaps + first * maps_time
    if z is not None:
        z += b * z_batch + first * z_time
        dz += b * dz_batch
        dz_walk = dz + first * dz_time
    if y is not None:
        y += b * o_batch
        y_walk = y + first * o_time
    else:
        y_walk = None
    borders += ((direction * batch + b) * slab + k - first_chunk) * (chunk // SUBCHUNK) * states * channels
    g = passed_on(leaving, dlast, at, b, n, c, channels, states, mask_c, ROWS, PADDED)
    dA_sum = tl.zeros((n.shape[0], c.shape[0]), tl.float32)
    dD_sum = tl.zeros((c.shape[0],), tl.float32)
    dbias_sum = tl.zeros((c.shape[0],), tl.float32)
    subchunks = tl.cdiv(count, SUBCHUNK)
    for j in range(subchunks):
        subchunk = subchunks - 1 - j
        h = load_tile(borders + subchunk * states * channels, n, c, channels, 1, states, mask_c, ROWS, PADDED)
        kept = ()
        for i in tl.static_range(SUBCHUNK):
            frame, valid = frame_of(subchunk * SUBCHUNK + i, count, sign)
            raw = raw_step(delta, frame * d_time, bias_row, weight_tile, c, r, ranks, mask_c, RANK, PADDED)
            step = step_size(raw, valid, SOFTPLUS)
            u_row = tl.load(u + frame * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
            B_row = load_map(B + frame * B_time, n, states, PADDED)
            kept += ((h, raw, step, u_row, B_row),)
            h = tl.exp2(step[None, :] * A_tile) * h + (step * u_row)[None, :] * B_row[:, None]
        for i in tl.static_range(SUBCHUNK - 1, -1, -1):
            frame, valid = frame_of(subchunk * SUBCHUNK + i, count, sign)
            mask = valid & mask_c
            previous, raw, step, u_row, B_row = kept[i]
            C_row = load_map(C + frame * B_time, n, states, PADDED)
            gradient = output_gradient(dy, z, frame * y_time, frame * z_time, c, mask, HALF > 0)
            if z is not None:
                own = tl.sum(h * C_row[:, None], 0) + D_row * u_row
                _gate_gradient(dy, z, dz_walk, y_walk, frame * y_time, frame * z_time, frame * dz_time, frame * o_time,
                               own, c, mask, HALF)  # fmt: skip
            tl.store(maps + frame * maps_time + states + n, tl.sum(h * gradient[None, :], 1), mask=valid & mask_n)
            g += gradient[None, :] * C_row[:, None]
            tl.store(maps + frame * maps_time + n, tl.sum(g * (step * u_row)[None, :], 1), mask=valid & mask_n)
            dinput = tl.sum(g * B_row[:, None], 0)
            g *= tl.exp2(step[None, :] * A_tile)
            h = previous
            dexponent = g * h
            dA_sum += dexponent * step[None, :]
            dstep = dinput * u_row + tl.sum(dexponent * A_tile, 0) * LN2
            if SOFTPLUS:
                dstep *= sigmoid(raw)
            dstep = tl.where(valid, dstep, 0.0)
            dbias_sum += dstep
            dD_sum += gradient * u_row
            tl.store(ddelta_walk + frame * du_time + c, dstep.to(ddelta.dtype.element_ty), mask=mask)
            du_row = dinput * step + D_row * gradient
            tl.store(du_walk + frame * du_time + c, du_row.to(du.dtype.element_ty), mask=mask)
    store_tile(dA + at * states * channels, dA_sum, n, c, channels, 1, states, mask_c, ROWS, PADDED)
    tl.store(dD + at * channels + c, dD_sum, mask=mask_c)
    tl.store(dbias + at * channels + c, dbias_sum, mask=mask_c)
    if dinitial is not None:  # noqa: SIM102 - known at compilation, unlike the next
        if k == (chunks - 1 if REVERSE else 0):
            store_tile(dinitial + b * channels * states, g, n, c, 1, states, states, mask_c, ROWS, PADDED)
    clear(du + start * du_time, du_time, c, channels, count, frames)
    clear(ddelta + start * du_time, du_time, c, channels, count, frames)
    clear(dmaps + start * maps_time, maps_time, n, states, count, frames)
    clear(dmaps + states + start * maps_time, maps_time, n, states, count, frames)
    if z is not None and HALF != 1:
        clear(dz + start * dz_time, dz_time, c, channels, count, frames)
        if y is not None:
            clear(y + start * o_time, o_time, c, channels, count, frames)

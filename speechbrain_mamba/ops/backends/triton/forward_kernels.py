"""The selective scan's forward kernels.

Time is cut into chunks that are scanned side by side: :func:`chunk_states_kernel` scans each from a state of zero,
:func:`pass_states_kernel` goes through the chunks' last states in the order of the scan, which gives each chunk the
state that it starts from, and :func:`outputs_kernel` scans again from there. A single chunk needs the last alone.

A thread owns a channel with all of its states and walks the frames of a chunk, so that neighboring threads read
neighboring channels. The two directions of a bidirectional scan are read in place, each walking its own way.
"""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import LOG2E, load_map, load_tile, sigmoid, softplus, store_tile


@triton.jit
def locate(lengths, b, k, chunk, time):
    """First frame of a chunk, its number of frames, and how many of these are valid."""
    start = k.to(tl.int64) * chunk
    end = tl.minimum(start + chunk, time)
    valid_end = end
    if lengths is not None:
        valid_end = tl.minimum(end, tl.load(lengths + b))
    return start, (end - start).to(tl.int32), tl.maximum(valid_end - start, 0).to(tl.int32)


@triton.jit
def origin(start, count, REVERSE: tl.constexpr):
    """The frame that a walk begins with, and its direction."""
    if REVERSE:
        return start + count - 1, -1
    return start, 1


@triton.jit
def clear(base, stride, feature, size, count, frames):
    """Zeros for a chunk's frames past the length."""
    zeros = tl.zeros((feature.shape[0],), base.dtype.element_ty)
    for s in range(count, frames):
        tl.store(base + s * stride + feature, zeros, mask=feature < size)


@triton.jit
def scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK: tl.constexpr, ROWS: tl.constexpr,
                    PADDED: tl.constexpr):  # fmt: skip
    """A direction's parameters: A for exponentials of base 2, the bias, and the weight of the step's factor."""
    A_tile = load_tile(A, n, c, 1, states, states, mask_c, ROWS, PADDED) * LOG2E
    bias_row = tl.zeros((c.shape[0],), tl.float32)
    if bias is not None:
        bias_row = tl.load(bias + c, mask=mask_c, other=0.0).to(tl.float32)
    weight_tile = tl.zeros((1, 1), tl.float32)
    if RANK:
        weight_tile = load_tile(weight, r, c, 1, ranks, ranks, mask_c, ROWS, PADDED)
    return A_tile, bias_row, weight_tile


@triton.jit
def frame_of(s, count, sign):
    """The frame of a step, or past the valid ones the last of these, which is read to no effect; and whether it is
    valid."""
    return tl.minimum(s, count - 1) * sign, s < count


@triton.jit
def raw_step(delta, offset, bias_row, weight_tile, c, r, ranks, mask_c, RANK: tl.constexpr, PADDED: tl.constexpr):
    """The step of one frame before its softplus; multiplied out of its factor where there is a ``RANK``."""
    if RANK:
        factor = load_map(delta + offset, r, ranks, PADDED)
        raw = tl.sum(weight_tile * factor[:, None], 0)
    else:
        raw = tl.load(delta + offset + c, mask=mask_c, other=0.0).to(tl.float32)
    return raw + bias_row


@triton.jit
def step_size(raw, valid, SOFTPLUS: tl.constexpr):
    """The step of one frame, zero where the frame is not valid, which keeps the state as it is."""
    if SOFTPLUS:
        raw = softplus(raw)
    return tl.where(valid, raw, 0.0)


@triton.jit
def _chunk_state(u, delta, A, B, bias, weight, b, start, count, n, c, r, channels, states, ranks,
                 u_batch, u_time, d_batch, d_time, B_batch, B_time,
                 SOFTPLUS: tl.constexpr, RANK: tl.constexpr, REVERSE: tl.constexpr, ROWS: tl.constexpr,
                 PADDED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """The last state of a chunk whose first is zero, and the sum of its steps."""
    mask_c = c < channels
    A_tile, bias_row, weight_tile = scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED)
    first, sign = origin(start, count, REVERSE)
    u += b * u_batch + first * u_time
    delta += b * d_batch + first * d_time
    B += b * B_batch + first * B_time
    h = tl.zeros((n.shape[0], c.shape[0]), tl.float32)
    total = tl.zeros((c.shape[0],), tl.float32)
    for s in range(0, count, UNROLL):
        for i in tl.static_range(UNROLL):
            at, valid = frame_of(s + i, count, sign)
            raw = raw_step(delta, at * d_time, bias_row, weight_tile, c, r, ranks, mask_c, RANK, PADDED)
            step = step_size(raw, valid, SOFTPLUS)
            u_row = tl.load(u + at * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
            B_row = load_map(B + at * B_time, n, states, PADDED)
            h = tl.exp2(step[None, :] * A_tile) * h + (step * u_row)[None, :] * B_row[:, None]
            total += step
    return h, total


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks"])
def chunk_states_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, bias, bias_b, weight, weight_b, lengths,
                        chunk_states, chunk_sums, batch, time, channels, states, ranks, chunk, chunks,
                        u_batch, u_time, d_batch, d_time, B_batch, B_time,
                        SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr,
                        REVERSE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                        PADDED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
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
                                    u_batch, u_time, d_batch, d_time, B_batch, B_time,
                                    SOFTPLUS, RANK, False, ROWS, PADDED, UNROLL)  # fmt: skip
        else:
            h, total = _chunk_state(u_b, delta_b, A_b, B_b, bias_b, weight_b, b, start, count, n, c, r, channels,
                                    states, ranks, u_batch, u_time, d_batch, d_time, B_batch, B_time,
                                    SOFTPLUS, RANK, True, ROWS, PADDED, UNROLL)  # fmt: skip
    else:
        h, total = _chunk_state(u, delta, A, B, bias, weight, b, start, count, n, c, r, channels, states, ranks,
                                u_batch, u_time, d_batch, d_time, B_batch, B_time,
                                SOFTPLUS, RANK, REVERSE, ROWS, PADDED, UNROLL)  # fmt: skip
    at = (direction * batch + b) * chunks + k
    mask_c = c < channels
    store_tile(chunk_states + at * states * channels, h, n, c, channels, 1, states, mask_c, ROWS, PADDED)
    tl.store(chunk_sums + at * channels + c, total, mask=mask_c)


@triton.jit(do_not_specialize=["batch", "chunks"])
def pass_states_kernel(A, A_b, initial, chunk_states, chunk_sums, batch, channels, states, chunks,
                       DESCENDING: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Replace what each chunk contributes by what comes into it, in the order of a scan; ``DESCENDING`` says that of
    the first direction, the second goes the other way. ``initial`` (batch, channel, state) comes into the first chunk.
    """
    size = states * channels
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0)
    e = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    rest = program // blocks
    b, direction = (rest % batch).to(tl.int64), rest // batch
    mask = e < size
    n, c = e // channels, e % channels
    if A_b is not None:
        A = A if direction == 0 else A_b
    decay = tl.load(A + c * states + n, mask=mask, other=0.0).to(tl.float32) * LOG2E
    h = tl.zeros((BLOCK,), tl.float32)
    if initial is not None:
        h = tl.load(initial + b * size + c * states + n, mask=mask, other=0.0)
    descending = (direction == 0) == DESCENDING
    chunk_states += (direction * batch + b) * chunks * size
    chunk_sums += (direction * batch + b) * chunks * channels
    for s in range(0, chunks, UNROLL):
        contributions = ()
        totals = ()
        # All loads first: they would not move above a store that might change what they read.
        for i in tl.static_range(UNROLL):
            k = tl.where(descending, chunks - 1 - s - i, s + i).to(tl.int64)
            there = mask & (s + i < chunks)
            contributions += (tl.load(chunk_states + k * size + e, mask=there, other=0.0),)
            totals += (tl.load(chunk_sums + k * channels + c, mask=there, other=0.0),)
        for i in tl.static_range(UNROLL):
            k = tl.where(descending, chunks - 1 - s - i, s + i).to(tl.int64)
            tl.store(chunk_states + k * size + e, h, mask=mask & (s + i < chunks))
            h = tl.exp2(decay * totals[i]) * h + contributions[i]


@triton.jit
def passed_on(chunk_states, initial, at, b, n, c, channels, states, mask_c, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """What a walk through a chunk begins with: what :func:`pass_states_kernel` left, or for a single chunk
    ``initial`` (batch, channel, state), or zero."""
    if chunk_states is not None:
        h = load_tile(chunk_states + at * states * channels, n, c, channels, 1, states, mask_c, ROWS, PADDED)
    elif initial is not None:
        h = load_tile(initial + b * channels * states, n, c, 1, states, states, mask_c, ROWS, PADDED)
    else:
        h = tl.zeros((n.shape[0], c.shape[0]), tl.float32)
    return h


@triton.jit
def _outputs(u, delta, A, B, C, D, bias, weight, z, y, chunk_states, initial, last, at, b, k, chunks,
             start, count, n, c, r, channels, states, ranks, u_batch, u_time, d_batch, d_time, B_batch, B_time,
             z_batch, z_time, y_batch, y_time,
             SOFTPLUS: tl.constexpr, RANK: tl.constexpr, REVERSE: tl.constexpr, HALF: tl.constexpr,
             ROWS: tl.constexpr, PADDED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Outputs of a chunk in one direction. Of two ``HALF``s, 1 leaves its own in y, and 2 adds itself and finishes."""
    mask_c = c < channels
    A_tile, bias_row, weight_tile = scan_parameters(A, bias, weight, n, c, r, states, ranks, mask_c, RANK, ROWS, PADDED)
    D_row = tl.zeros((c.shape[0],), tl.float32)
    if D is not None:
        D_row = tl.load(D + c, mask=mask_c, other=0.0).to(tl.float32)
    h = passed_on(chunk_states, initial, at, b, n, c, channels, states, mask_c, ROWS, PADDED)
    first, sign = origin(start, count, REVERSE)
    u += b * u_batch + first * u_time
    delta += b * d_batch + first * d_time
    B += b * B_batch + first * B_time
    C += b * B_batch + first * B_time
    y += b * y_batch + first * y_time
    if z is not None:
        z += b * z_batch + first * z_time
    for s in range(0, count, UNROLL):
        for i in tl.static_range(UNROLL):
            at_frame, valid = frame_of(s + i, count, sign)
            raw = raw_step(delta, at_frame * d_time, bias_row, weight_tile, c, r, ranks, mask_c, RANK, PADDED)
            step = step_size(raw, valid, SOFTPLUS)
            u_row = tl.load(u + at_frame * u_time + c, mask=mask_c, other=0.0).to(tl.float32)
            B_row = load_map(B + at_frame * B_time, n, states, PADDED)
            C_row = load_map(C + at_frame * B_time, n, states, PADDED)
            h = tl.exp2(step[None, :] * A_tile) * h + (step * u_row)[None, :] * B_row[:, None]
            out = tl.sum(h * C_row[:, None], 0) + D_row * u_row
            if HALF == 2:
                out = 0.5 * (out + tl.load(y + at_frame * y_time + c, mask=mask_c, other=0.0).to(tl.float32))
            if HALF != 1 and z is not None:
                gate = tl.load(z + at_frame * z_time + c, mask=mask_c, other=0.0).to(tl.float32)
                out *= gate * sigmoid(gate)
            tl.store(y + at_frame * y_time + c, out.to(y.dtype.element_ty), mask=valid & mask_c)
    if last is not None:  # noqa: SIM102 - known at compilation, unlike the next
        if k == (0 if REVERSE else chunks - 1):
            store_tile(last + b * channels * states, h, n, c, 1, states, states, mask_c, ROWS, PADDED)


@triton.jit(do_not_specialize=["batch", "time", "chunk", "chunks"])
def outputs_kernel(u, u_b, delta, delta_b, A, A_b, B, B_b, C, C_b, D, D_b, bias, bias_b, weight, weight_b, z, lengths,
                   y, chunk_states, initial, last, batch, time, channels, states, ranks, chunk, chunks,
                   u_batch, u_time, d_batch, d_time, B_batch, B_time, z_batch, z_time, y_batch, y_time,
                   SOFTPLUS: tl.constexpr, RANK: tl.constexpr, DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr,
                   BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
                   PADDED: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
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
                 n, c, r, channels, states, ranks, u_batch, u_time, d_batch, d_time, B_batch, B_time,
                 z_batch, z_time, y_batch, y_time, SOFTPLUS, RANK, False, 1, ROWS, PADDED, UNROLL)  # fmt: skip
        tl.debug_barrier()
        at += batch * chunks
        _outputs(u_b, delta_b, A_b, B_b, C_b, D_b, bias_b, weight_b, z, y, chunk_states, None, None, at, b, k, chunks,
                 start, count, n, c, r, channels, states, ranks, u_batch, u_time, d_batch, d_time, B_batch, B_time,
                 z_batch, z_time, y_batch, y_time, SOFTPLUS, RANK, True, 2, ROWS, PADDED, UNROLL)  # fmt: skip
    else:
        _outputs(u, delta, A, B, C, D, bias, weight, z, y, chunk_states, initial, last, at, b, k, chunks, start, count,
                 n, c, r, channels, states, ranks, u_batch, u_time, d_batch, d_time, B_batch, B_time,
                 z_batch, z_time, y_batch, y_time, SOFTPLUS, RANK, REVERSE, 0, ROWS, PADDED, UNROLL)  # fmt: skip
    clear(y + b * y_batch + start * y_time, y_time, c, channels, count, frames)

"""The pass over the states of chunks, between the kernels that walk through the chunks side by side."""

import triton
import triton.language as tl

from speechbrain_mamba.ops.backends.triton.elementwise import LOG2E


@triton.jit(do_not_specialize=["batch", "chunks"])
def pass_states_kernel(A, A_b, initial, dlast, passing, chunk_sums, batch, channels, states, chunks,
                       DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
                       UNROLL: tl.constexpr):  # fmt: skip
    """Replace what each chunk contributes by what comes into it.

    ``passing`` (kind, direction, batch, chunk, state, channel) has states, which are passed on in the order of the
    scan, and for a backward pass also their gradients, which go the opposite way; a program each. ``initial`` and
    ``dlast`` (batch, channel, state) come into the first chunk.
    """
    size = states * channels
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0)
    e = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    rest = program // blocks
    b, scan = (rest % batch).to(tl.int64), rest // batch
    direction, kind = scan % DIRECTIONS, scan // DIRECTIONS
    mask = e < size
    n, c = e // channels, e % channels
    if A_b is not None:
        A = A if direction == 0 else A_b
    decay = tl.load(A + c * states + n, mask=mask, other=0.0).to(tl.float32) * LOG2E
    h = tl.zeros((BLOCK,), tl.float32)
    if initial is not None:
        h += tl.load(initial + b * size + c * states + n, mask=mask & (kind == 0), other=0.0)
    if dlast is not None:
        h += tl.load(dlast + b * size + c * states + n, mask=mask & (kind == 1), other=0.0)
    descending = (direction + kind + (1 if REVERSE else 0)) % 2 == 1
    passing += (scan * batch + b) * chunks * size
    chunk_sums += (direction * batch + b) * chunks * channels
    for s in range(0, chunks, UNROLL):
        contributions = ()
        totals = ()
        # All loads first: they would not move above a store that might change what they read.
        for i in tl.static_range(UNROLL):
            k = tl.where(descending, chunks - 1 - s - i, s + i).to(tl.int64)
            there = mask & (s + i < chunks)
            contributions += (tl.load(passing + k * size + e, mask=there, other=0.0),)
            totals += (tl.load(chunk_sums + k * channels + c, mask=there, other=0.0),)
        for i in tl.static_range(UNROLL):
            k = tl.where(descending, chunks - 1 - s - i, s + i).to(tl.int64)
            tl.store(passing + k * size + e, h, mask=mask & (s + i < chunks))
            h = tl.exp2(decay * totals[i]) * h + contributions[i]

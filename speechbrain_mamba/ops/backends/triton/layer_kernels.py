"""Kernels around the matrix products of a layer: what would take many small operations goes in one launch."""

import triton
import triton.language as tl


@triton.jit
def pack_kernel(x_proj, x_proj_b, dt_proj, dt_proj_b, out_proj, packed, channels, ranks, states, features, d_model,
                BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Weights in the dtype of the matrix products, with zeros for the rows and columns that are only padding:
    (direction, feature, channel), (direction, channel, rank), and that of the output projection."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    size = features * channels
    half, row, c = e // size, (e % size) // channels, e % channels
    in_B, in_C = row - BLOCK_R, row - (BLOCK_R + BLOCK_N)
    source = tl.where(row < BLOCK_R, row, tl.where(in_B < BLOCK_N, ranks + in_B, ranks + states + in_C))
    real = (row < ranks) | ((in_B >= 0) & (in_B < states)) | ((in_C >= 0) & (in_C < states))
    real &= e < 2 * size
    value = tl.load(x_proj + source * channels + c, mask=real & (half == 0), other=0.0).to(tl.float32)
    value += tl.load(x_proj_b + source * channels + c, mask=real & (half == 1), other=0.0).to(tl.float32)
    e_dt = e - 2 * size
    size_dt = channels * BLOCK_R
    half, row, r = e_dt // size_dt, (e_dt % size_dt) // BLOCK_R, e_dt % BLOCK_R
    real = (e_dt >= 0) & (e_dt < 2 * size_dt) & (r < ranks)
    value += tl.load(dt_proj + row * ranks + r, mask=real & (half == 0), other=0.0).to(tl.float32)
    value += tl.load(dt_proj_b + row * ranks + r, mask=real & (half == 1), other=0.0).to(tl.float32)
    e_out = e_dt - 2 * size_dt
    real = (e_out >= 0) & (e_out < d_model * channels)
    value += tl.load(out_proj + e_out, mask=real, other=0.0).to(tl.float32)
    total = 2 * size + 2 * size_dt + d_model * channels
    tl.store(packed + e, value.to(packed.dtype.element_ty), mask=e < total)


@triton.jit
def sum_slots(partial, at, stride, slots, mask, BLOCK_S: tl.constexpr):
    """Sums over slots that lie ``stride`` elements apart, of the elements ``at`` of the first, in a fixed order."""
    s = tl.arange(0, BLOCK_S)
    total = tl.zeros((BLOCK_S, at.shape[0]), tl.float32)
    for i in range(0, slots, BLOCK_S):
        there = (i + s < slots)[:, None] & mask[None, :]
        total += tl.load(partial + at[None, :] + (i + s).to(tl.int64)[:, None] * stride, mask=there, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _finish_maps(maps, projected, out, factor, program, groups, rows, features, DIRECTIONS: tl.constexpr,
                 COLUMN: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    direction = (program % DIRECTIONS).to(tl.int64)
    row = (program // DIRECTIONS).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = (row < rows)[:, None]
    column, row = tl.arange(0, COLUMNS), direction * rows + row
    at = row[:, None] * COLUMNS + column[None, :]
    total = tl.zeros((BLOCK, COLUMNS), tl.float32)
    for i in range(groups):
        total += tl.load(maps + i * DIRECTIONS * rows.to(tl.int64) * COLUMNS + at, mask=mask, other=0.0)
    to = row[:, None] * features + COLUMN + column[None, :]
    tl.store(out + to, total.to(out.dtype.element_ty), mask=mask)
    if factor is not None:
        r = tl.arange(0, COLUMN)
        values = tl.load(projected + row[:, None] * features + r[None, :], mask=mask, other=0.0)
        tl.store(factor + row[:, None] * COLUMN + r[None, :], values.to(factor.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["groups", "rows", "slots"])
def finish_kernel(maps, projected, out, factor, tiles, vectors, out_tiles, out_vectors, groups, rows, features,
                  slots, channels, states, DIRECTIONS: tl.constexpr, COLUMN: tl.constexpr, COLUMNS: tl.constexpr,
                  BLOCK: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_E: tl.constexpr):  # fmt: skip
    """Sum what programs of the walk back contributed, in a fixed order.

    The gradients of B and C, ``maps`` (group, direction, row, ``COLUMNS``), go into the columns of ``out`` (direction,
    row, features) behind the first ``COLUMN``. The steps' factor, which has those in ``projected``, is converted to its
    dtype. The gradients of A, ``tiles`` (direction, slot, state, channel), go to (direction, channel, state), and those
    of D and the bias, ``vectors`` (kind, direction, slot, channel), to (kind, direction, channel).
    """
    program = tl.program_id(0)
    programs = tl.cdiv(rows, BLOCK) * DIRECTIONS
    size = states * channels
    programs_of_tiles = tl.cdiv(DIRECTIONS * size, BLOCK_E)
    if program < programs:
        _finish_maps(maps, projected, out, factor, program, groups, rows, features, DIRECTIONS, COLUMN, COLUMNS, BLOCK)
    elif tiles is not None:
        program -= programs
        if program < programs_of_tiles:
            e = program * BLOCK_E + tl.arange(0, BLOCK_E)
            mask, direction, inner = e < DIRECTIONS * size, e // size, e % size
            total = sum_slots(tiles, direction.to(tl.int64) * slots * size + inner, size, slots, mask, BLOCK_S)
            to = out_tiles + direction * size + (inner % channels) * states + inner // channels
            tl.store(to, total, mask=mask)
        else:
            e = (program - programs_of_tiles) * BLOCK_E + tl.arange(0, BLOCK_E)
            mask, at = e < 2 * DIRECTIONS * channels, (e // channels).to(tl.int64) * slots * channels + e % channels
            tl.store(out_vectors + e, sum_slots(vectors, at, channels, slots, mask, BLOCK_S), mask=mask)


@triton.jit(do_not_specialize=["slots"])
def sums_kernel(partial, out, slots, size, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr):
    """Sum (slot, ``size``) over the slots, in a fixed order."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + e, sum_slots(partial, e, size, slots, e < size, BLOCK_S), mask=e < size)


@triton.jit(do_not_specialize=["time", "x_rows"])
def mask_kernel(x, lengths, out, time, features, x_rows, x_time, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr):
    """Copy frames, with zeros past the lengths."""
    tiles = tl.cdiv(time, BLOCK_T)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    frame = (tl.program_id(0) % tiles) * BLOCK_T + tl.arange(0, BLOCK_T)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = (frame < time)[:, None] & (f < features)[None, :]
    valid = mask & (frame < tl.load(lengths + b))[:, None]
    values = tl.load(x + (b * x_rows + frame)[:, None] * x_time + f[None, :], mask=valid, other=0.0)
    tl.store(out + (b * time + frame)[:, None] * features + f[None, :], values, mask=mask)

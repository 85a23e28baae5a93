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


@triton.jit(do_not_specialize=["rows", "first_row", "out_row", "projected_rows", "out_rows", "factor_rows"])
def finish_maps_kernel(maps, projected, out, factor, blocks, rows, features, first_row, out_row,
                       projected_rows, out_rows, factor_rows,
                       COLUMN: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Sum a slab's gradients of B and C over blocks of channels, into the columns of ``out`` (direction, row, features)
    behind the first ``COLUMN``; and convert the steps' factor, which has those in ``projected``, to its dtype."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    direction = tl.program_id(1).to(tl.int64)
    mask = (row < rows)[:, None]
    column = tl.arange(0, COLUMNS)
    at = ((direction * rows + row) * COLUMNS)[:, None] + column[None, :]
    total = tl.zeros((BLOCK, COLUMNS), tl.float32)
    for i in range(blocks):
        total += tl.load(maps + i * tl.num_programs(1).to(tl.int64) * rows * COLUMNS + at, mask=mask, other=0.0)
    to = ((direction * out_rows + out_row + row) * features)[:, None] + COLUMN + column[None, :]
    tl.store(out + to, total.to(out.dtype.element_ty), mask=mask)
    if factor is not None:
        r = tl.arange(0, COLUMN)
        given = (direction * projected_rows + first_row + row)[:, None] * features + r[None, :]
        values = tl.load(projected + given, mask=mask, other=0.0)
        to = (direction * factor_rows + row)[:, None] * COLUMN + r[None, :]
        tl.store(factor + to, values.to(factor.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["slots", "slots_b"])
def sums_kernel(partial, out, slots, size, partial_b, out_b, slots_b, size_b, inner,
                BLOCK_S: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Sum two sets of partial sums over their slots, in a fixed order.

    The first lies as (group, slot, ``inner``), the second as (slot, ``size_b``); ``out`` (group, inner) has ``size``
    elements.
    """
    program = tl.program_id(0)
    programs = tl.cdiv(size, BLOCK)
    s = tl.arange(0, BLOCK_S)
    total = tl.zeros((BLOCK_S, BLOCK), tl.float32)
    if program < programs:
        e = program * BLOCK + tl.arange(0, BLOCK)
        given = (e // inner).to(tl.int64) * slots * inner + e % inner
        for i in range(0, slots, BLOCK_S):
            mask = (i + s < slots)[:, None] & (e < size)[None, :]
            total += tl.load(partial + given[None, :] + (i + s).to(tl.int64)[:, None] * inner, mask=mask, other=0.0)
        tl.store(out + e, tl.sum(total, 0), mask=e < size)
    elif partial_b is not None:
        e = (program - programs) * BLOCK + tl.arange(0, BLOCK)
        for i in range(0, slots_b, BLOCK_S):
            mask = (i + s < slots_b)[:, None] & (e < size_b)[None, :]
            total += tl.load(partial_b + e[None, :] + (i + s).to(tl.int64)[:, None] * size_b, mask=mask, other=0.0)
        tl.store(out_b + e, tl.sum(total, 0), mask=e < size_b)


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

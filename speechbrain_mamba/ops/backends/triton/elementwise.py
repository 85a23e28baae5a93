"""Functions that several kernels share."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)); the exponential overflows to infinity and the quotient to its limit 0."""
    return tl.fdiv(1.0, 1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def softplus(x):
    """log(1 + exp(x)), to 3e-7 of its value over its whole range.

    With e = exp(-\\|x\\|) it is max(x, 0) + log(1 + e). The logarithm is e times a polynomial, fitted to log(1 + e) / e
    at the Chebyshev nodes of [0, 1]: a dozen multiply-adds, where the library's logarithm takes as many instructions
    as a whole step of the scan.
    """
    e = tl.exp2(-tl.abs(x) * LOG2E)
    p = -0.0031760570127516985 * e + 0.019542526453733444
    p = p * e - 0.056373611092567444
    p = p * e + 0.10543623566627502
    p = p * e - 0.1526966691017151
    p = p * e + 0.1966327428817749
    p = p * e - 0.24951615929603577
    p = p * e + 0.33329710364341736
    p = p * e - 0.49999892711639404
    p = p * e + 1.0
    return tl.maximum(x, 0.0) + e * p


@triton.jit
def softplus_slope(y):
    """The derivative of the softplus where its value is ``y``, 1 - exp(-y), to 4e-7 of its value.

    Small ones come from the series of (1 - exp(-y)) / y, as a difference would lose their digits.
    """
    p = y * (1.0 / 5040.0) - 1.0 / 720.0
    p = p * y + 1.0 / 120.0
    p = p * y - 1.0 / 24.0
    p = p * y + 1.0 / 6.0
    p = p * y - 0.5
    p = p * y + 1.0
    return tl.where(y < 0.5, y * p, 1.0 - tl.exp2(-y * LOG2E))


@triton.jit
def load_map(base, i, size, PADDED: tl.constexpr):
    """What a frame has for all channels; only where there may be fewer than ``i``, zeros cost an instruction each."""
    row = tl.load(base + i, mask=i < size, other=0.0) if PADDED else tl.load(base + i)
    return row.to(tl.float32)


@triton.jit
def load_tile(base, n, c, stride_n, stride_c, size_n, mask_c, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """A (state, channel) tile in float32.

    By ``ROWS`` it is put together from rows, which leaves all states of a channel to one thread: a tile loaded at once
    would be spread over threads so as to be loaded in wide words.
    """
    if ROWS:
        tile = tl.zeros((n.shape[0], c.shape[0]), tl.float32)
        for i in tl.static_range(n.shape[0]):
            row = tl.load(
                base + i * stride_n + c * stride_c, mask=mask_c & (i < size_n) if PADDED else mask_c, other=0.0
            )
            tile = tl.where(n[:, None] == i, row.to(tl.float32)[None, :], tile)
        return tile
    mask = (n < size_n)[:, None] & mask_c[None, :]
    return tl.load(base + n[:, None] * stride_n + c[None, :] * stride_c, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_tile(base, tile, n, c, stride_n, stride_c, size_n, mask_c, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """Store a (state, channel) tile, the counterpart of :func:`load_tile`."""
    if ROWS:
        for i in tl.static_range(n.shape[0]):
            mask = mask_c & (i < size_n) if PADDED else mask_c
            tl.store(base + i * stride_n + c * stride_c, _row_of(tile, n, i), mask=mask)
    else:
        mask = (n < size_n)[:, None] & mask_c[None, :]
        tl.store(base + n[:, None] * stride_n + c[None, :] * stride_c, tile, mask=mask)


@triton.jit
def store_tile_by_channels(base, tile, n, c, mask_c, ROWS: tl.constexpr):
    """Store a (state, channel) tile with a channel's states side by side, padded to those of the tile.

    A thread that has all states of a channel stores four at once.
    """
    size: tl.constexpr = tile.shape[0]
    if ROWS and size >= 4:
        for i in tl.static_range(0, size, 4):
            quad = tl.join(
                tl.join(_row_of(tile, n, i), _row_of(tile, n, i + 2)),
                tl.join(_row_of(tile, n, i + 1), _row_of(tile, n, i + 3)),
            )
            four = tl.arange(0, 4)
            to = base + c[:, None] * size + i + four[None, :]
            tl.store(to, tl.reshape(quad, (c.shape[0], 4)), mask=mask_c[:, None])
    else:
        tl.store(base + c[None, :] * size + n[:, None], tile, mask=mask_c[None, :])


@triton.jit
def _row_of(tile, n, i: tl.constexpr):
    """A row of a tile, summed as integers, as the compiler leaves out additions of an integer zero only."""
    return tl.sum(tl.where(n[:, None] == i, tile.to(tl.int32, bitcast=True), 0), 0).to(tl.float32, bitcast=True)

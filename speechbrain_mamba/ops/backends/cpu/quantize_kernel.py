"""Rows to 8-bit integers, and products of integers to floats, on the native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import DTYPES, pointer, readable
from speechbrain_mamba.ops.backends.cpu.native import library


def quantize_rows(x: Tensor, norm: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Each row (rows, features) in units of its scale, plus 128, as unsigned integers; and the scales (rows,). ``norm``
    is that of :func:`speechbrain_mamba.ops.backends.reference.quantize_rows`, contiguous."""
    x = readable(x)
    q, scales = x.new_empty(x.shape, dtype=torch.uint8), x.new_empty(len(x), dtype=torch.float32)
    fields = (*x.shape, torch.get_num_threads(), x.data_ptr(), DTYPES[x.dtype], x.stride(0), pointer(norm))
    library().call("quantize_rows", *fields, q.data_ptr(), scales.data_ptr())
    return q, scales


def rescale_rows(products: Tensor, scales: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """Write ``products`` (rows, features) times the rows' scales, plus a bias (features,), to ``y``, contiguous."""
    fields = (*products.shape, torch.get_num_threads(), products.data_ptr(), DTYPES[products.dtype])
    library().call("rescale_rows", *fields, scales.data_ptr(), pointer(bias), y.data_ptr(), DTYPES[y.dtype])

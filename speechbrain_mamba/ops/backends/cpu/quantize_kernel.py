"""Rows to 8-bit integers, on the native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import DTYPES, approximate, norm_fields, readable
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.rowwise import Norm


def quantize_rows(x: Tensor, norm: Norm | None = None, room: int = 0) -> tuple[Tensor, Tensor]:
    """Each row (rows, features) in units of its scale, plus 128, as unsigned integers; and the scales (rows,). ``norm``
    and ``room`` are those of :func:`speechbrain_mamba.ops.backends.reference.quantize_rows`."""
    x = readable(x)
    q = x.new_empty(max(len(x), room), x.shape[1], dtype=torch.uint8)
    scales = x.new_empty(len(x), dtype=torch.float32)
    normalization, _held = norm_fields(norm, approximate(x))
    fields = (*x.shape, torch.get_num_threads(), x.data_ptr(), DTYPES[x.dtype], x.stride(0), *normalization)
    library().call("quantize_rows", *fields, q.data_ptr(), scales.data_ptr())
    return q, scales

"""Normalization of rows on the native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import DTYPES, norm_fields, readable
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.rowwise import Norm


def normalize_rows(x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """Rows (rows, features) after a normalization, in a type of their own."""
    x = readable(x)
    y = x.new_empty(x.shape, dtype=dtype)
    normalization, _held = norm_fields(norm)
    fields = (*x.shape, torch.get_num_threads(), x.data_ptr(), DTYPES[x.dtype], x.stride(0), *normalization)
    library().call("normalize_rows", *fields, y.data_ptr(), DTYPES[dtype])
    return y

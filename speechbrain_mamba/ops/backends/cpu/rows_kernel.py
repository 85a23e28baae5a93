"""What stands around the products of rows, on the native kernels: normalization, scales, bias and activation."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import (
    DTYPES,
    activation_code,
    approximate,
    norm_fields,
    pointer,
    readable,
)
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.rowwise import Norm


def normalize_rows(x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    """Rows (rows, features) after a normalization, in a type of their own."""
    x = readable(x)
    y = x.new_empty(x.shape, dtype=dtype)
    normalization, _held = norm_fields(norm, approximate(y))
    fields = (*x.shape, torch.get_num_threads(), x.data_ptr(), DTYPES[x.dtype], x.stride(0), *normalization)
    library().call("normalize_rows", *fields, y.data_ptr(), DTYPES[dtype])
    return y


def finish_rows(
    products: Tensor, scales: Tensor | None, bias: Tensor | None, y: Tensor, activation: str | None = None
) -> None:
    """Write ``products`` (rows, features), contiguous, times the rows' scales, plus a bias (features,), to ``y``,
    contiguous, after an activation. ``scales`` and ``bias`` are contiguous float32."""
    fields = (*products.shape, torch.get_num_threads(), products.data_ptr(), DTYPES[products.dtype])
    output = y.data_ptr(), DTYPES[y.dtype], activation_code(activation, approximate(y))
    library().call("finish_rows", *fields, pointer(scales), pointer(bias), *output)

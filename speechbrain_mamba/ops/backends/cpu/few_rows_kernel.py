"""A linear layer of a few examples on the native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import ACTIVATIONS, DTYPES, pointer, readable
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.int8 import PackedWeight

INTEGERS = 3
"""DTYPE_INT8 in csrc/api.h."""


def linear_fields(weight: Tensor | PackedWeight, bias: Tensor | None) -> tuple[int, ...]:
    """Fields of the C struct ``linear_weights``; the weight (outputs, inputs) and the bias, float32, are contiguous and
    have to stay where they are."""
    if isinstance(weight, PackedWeight):
        integers, scales, sums = weight.integers, weight.scales, weight.sums
        return *weight.shape, INTEGERS, integers.data_ptr(), scales.data_ptr(), sums.data_ptr(), pointer(bias)
    return *weight.shape, DTYPES[weight.dtype], weight.data_ptr(), 0, 0, pointer(bias)


def few_rows_linear(
    x: Tensor, weight: Tensor | PackedWeight, bias: Tensor | None, activation: str | None, residual: Tensor | None
) -> Tensor:
    """Output (batch, outputs), float32 like all but the weight."""
    x, weight = readable(x), weight if isinstance(weight, PackedWeight) else weight.contiguous()
    bias, residual = (None if tensor is None else tensor.contiguous() for tensor in (bias, residual))
    y = x.new_empty(x.shape[0], weight.shape[0])
    library().call(
        "few_rows", x.shape[0], ACTIVATIONS[activation], torch.get_num_threads(), x.stride(0),
        *linear_fields(weight, bias), x.data_ptr(), pointer(residual), y.data_ptr(),
    )  # fmt: skip
    return y

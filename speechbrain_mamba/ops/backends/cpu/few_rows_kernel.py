"""A linear layer of a few examples on the native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import pointer, readable
from speechbrain_mamba.ops.backends.cpu.native import library

ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2}
"""``enum activation`` in csrc/api.h."""


def few_rows_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None
) -> Tensor:
    """Output (batch, outputs), all in float32."""
    x, weight = readable(x), weight.contiguous()
    residual = None if residual is None else residual.contiguous()
    outputs, inputs = weight.shape
    y = x.new_empty(x.shape[0], outputs)
    library().call(
        "few_rows", x.shape[0], inputs, outputs, ACTIVATIONS[activation], torch.get_num_threads(), x.stride(0),
        x.data_ptr(), weight.data_ptr(), pointer(bias), pointer(residual), y.data_ptr(),
    )  # fmt: skip
    return y

"""One step of a Mamba layer between its projections in and out, on the native kernels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.backends.cpu.fields import DTYPES, parameter, readable, sequence
from speechbrain_mamba.ops.backends.cpu.native import library
from speechbrain_mamba.ops.directions import Direction

ALIGN = 16
"""PACK_ALIGN in csrc/api.h: channels and states are padded to multiples of it."""


def pack_step(direction: Direction) -> Tensor:
    """The parameters of a layer in the order in which a step reads them, float32: see ``layer_step_args`` in
    csrc/api.h."""
    conv_weight, conv_bias, x_proj, dt_proj, delta_bias, A, D = direction
    channels, state = A.shape
    bias = torch.zeros_like(D) if conv_bias is None else conv_bias
    missing, missing_states = -channels % ALIGN, -state % ALIGN
    rows = torch.cat([t.float() for t in (conv_weight.T, bias[None], D[None], delta_bias[None], x_proj)])
    steps = F.pad(dt_proj.float(), (0, 0, 0, missing)).unflatten(0, (-1, ALIGN)).transpose(1, 2)
    rates = F.pad(A.float() * math.log2(math.e), (0, missing_states, 0, missing))
    return torch.cat([F.pad(rows, (0, missing)).flatten(), steps.flatten(), rates.flatten()])


def packed_step(
    xz: Tensor, conv_state: Tensor, ssm_state: Tensor, packed: Tensor, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Output (batch, channels), and the states after it."""
    batch, channels, state = ssm_state.shape
    xz, conv, ssm = readable(xz), conv_state.contiguous(), parameter(ssm_state)
    y, conv_after, ssm_after = xz.new_empty(batch, channels), torch.empty_like(conv), torch.empty_like(ssm)
    library().call(
        "layer_step", batch, channels, state, conv.shape[2] + 1, rank, torch.get_num_threads(), *sequence(xz),
        *sequence(y), packed.data_ptr(), conv.data_ptr(), conv_after.data_ptr(), DTYPES[conv.dtype], ssm.data_ptr(),
        ssm_after.data_ptr(),
    )  # fmt: skip
    return y, conv_after, ssm_after

"""Native CPU kernels behind the operations: plain C, several instruction sets, torch's own threads."""

from __future__ import annotations

import math

from torch import Tensor

from speechbrain_mamba.ops.backends import chunked
from speechbrain_mamba.ops.backends.chunked import ssd_update as ssd_update
from speechbrain_mamba.ops.backends.cpu.block_kernel import pack_block as pack_block
from speechbrain_mamba.ops.backends.cpu.block_kernel import packed_block_step as packed_block_step
from speechbrain_mamba.ops.backends.cpu.conv_kernel import conv_backward, conv_forward
from speechbrain_mamba.ops.backends.cpu.few_rows_kernel import few_rows_linear as few_rows_linear
from speechbrain_mamba.ops.backends.cpu.fields import DTYPES
from speechbrain_mamba.ops.backends.cpu.layer_kernel import (
    inner_forward,
    layer_backward,
    layer_forward,
    layer_kept,
)
from speechbrain_mamba.ops.backends.cpu.native import PATH, library
from speechbrain_mamba.ops.backends.cpu.quantize_kernel import quantize_rows as quantize_rows
from speechbrain_mamba.ops.backends.cpu.rows_kernel import finish_rows as finish_rows
from speechbrain_mamba.ops.backends.cpu.rows_kernel import normalize_rows as normalize_rows
from speechbrain_mamba.ops.backends.cpu.scan_kernel import scan_backward, scan_forward, scan_kept, scan_step
from speechbrain_mamba.ops.backends.cpu.ssd_kernel import ssd_forward
from speechbrain_mamba.ops.backends.cpu.step_kernel import pack_step as pack_step
from speechbrain_mamba.ops.backends.cpu.step_kernel import packed_step as packed_step
from speechbrain_mamba.ops.kernel_backend import KernelBackend, Kernels
from speechbrain_mamba.ops.registry import Call
from speechbrain_mamba.ops.torch_ops import asks_for_gradient

_kernels = Kernels(
    scan_forward, scan_backward, scan_kept, conv_forward, conv_backward, layer_forward, layer_backward, layer_kept,
    scan_step, inner_forward, ssd_forward,
)  # fmt: skip
_backend = KernelBackend("cpu", ("CPU",), _kernels)
selective_scan = _backend.selective_scan
selective_state_update = _backend.selective_state_update
bidirectional_selective_scan = _backend.bidirectional_selective_scan
causal_conv1d = _backend.causal_conv1d
causal_conv1d_update = _backend.causal_conv1d_update
bidirectional_causal_conv1d = _backend.bidirectional_causal_conv1d
bidirectional_mamba_inner = _backend.bidirectional_mamba_inner
mamba_inner = _backend.mamba_inner


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    chunk_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan of Mamba-2; see :func:`speechbrain_mamba.ops.ssd`. With gradients, by matrix products in chunks."""
    asks = asks_for_gradient(x, delta, A, B, C, D, z, delta_bias, initial_state)
    return (chunked if asks else _backend).ssd(
        x, delta, A, B, C, D, z, delta_bias, delta_softplus, dt_limit, lengths=lengths, reverse=reverse,
        initial_state=initial_state, return_last_state=return_last_state, chunk_size=chunk_size,
    )  # fmt: skip


def unavailable() -> str | None:
    """Why this backend cannot be used here, None if it can."""
    if not PATH.exists():
        return "the native library was not built; install the package again where there is a C compiler (gcc or clang)."
    try:
        library()
    except (OSError, ValueError) as error:
        return f"the native library cannot be used: {error}"
    return None


def unsupported(call: Call) -> str | None:
    """Why this backend cannot serve a call, None if it can."""
    return call.wrong_tensor("cpu", DTYPES)

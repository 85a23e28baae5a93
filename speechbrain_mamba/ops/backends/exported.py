"""The reference as operations of a program that ``torch.export`` traces.

Traced through, its loops over time would be unrolled for one number of frames. So a program holds whole operations,
which run the reference; :mod:`speechbrain_mamba.ops.onnx_translations` says what they are in ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from speechbrain_mamba.ops.backends import reference
from speechbrain_mamba.ops.directions import Direction, Filters, ScanInputs
from speechbrain_mamba.ops.kernel_backend import (
    ConvShared,
    KernelBackend,
    Kernels,
    LayerShared,
    ScanShared,
    SsdInputs,
    SsdShared,
)
from speechbrain_mamba.ops.layer import run_layer


def _scan(
    directions: Sequence[ScanInputs], shared: ScanShared, softplus: bool, reverse: bool, last_state: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    z, initial, lengths = shared
    if len(directions) == 2:
        y = reference.bidirectional_selective_scan(directions[0], directions[1], z, softplus, lengths)
        return y, y.new_empty(0), y.new_empty(0)
    u, delta, A, B, C, D, bias = directions[0]
    scanned: Any = reference.selective_scan(
        u, delta, A, B, C, D, z, bias, softplus, lengths=lengths, reverse=reverse, initial_state=initial,
        return_last_state=True,
    )  # fmt: skip
    return scanned[0], _own(scanned[1], initial, last_state), scanned[0].new_empty(0)


def _own(state: Tensor, initial: Tensor | None, asked: bool) -> Tensor:
    """The last state, empty if nobody asks; an operation may not return its input."""
    if not asked:
        return state.new_empty(0)
    return state.clone() if state is initial else state


def _conv(
    directions: Sequence[Filters], shared: ConvShared, silu: bool, reverse: bool, final_state: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, initial, lengths = shared
    activation, nothing = "silu" if silu else None, x.new_empty(0)
    if len(directions) == 2:
        forward, backward = directions
        return *reference.bidirectional_causal_conv1d(x, forward, backward, activation, lengths), nothing
    convolved: Any = reference.causal_conv1d(
        x, *directions[0], activation, lengths=lengths, reverse=reverse, initial_state=initial, return_final_state=True
    )
    return convolved[0], nothing, convolved[1] if final_state else nothing


def _layer(directions: Sequence[Direction], shared: LayerShared, keep: bool) -> tuple[Tensor, Tensor]:
    xz, weight, bias, lengths = shared
    y = run_layer(reference, xz, directions[0], directions[1], weight, bias, lengths)  # type: ignore[arg-type]
    return y, y.new_empty(0)


def _ssd(
    directions: Sequence[SsdInputs],
    shared: SsdShared,
    softplus: bool,
    reverse: bool,
    low: float,
    high: float,
    last_state: bool,
) -> tuple[Tensor, Tensor]:
    z, initial, lengths = shared
    x, delta, A, B, C, D, bias = directions[0]
    scanned: Any = reference.ssd(
        x, delta, A, B, C, D, z, bias, softplus, (low, high), lengths=lengths, reverse=reverse, initial_state=initial,
        return_last_state=True,
    )  # fmt: skip
    return scanned[0], _own(scanned[1], initial, last_state)


def _ssd_step(*arguments: Any) -> tuple[Tensor, Tensor]:
    state, x, delta, A, B, C, D, z, bias, softplus, low, high = arguments
    return reference.ssd_update(state, x, delta, A, B, C, D, z, bias, softplus, (low, high))


def _refuse(*arguments: Any) -> NoReturn:
    raise NotImplementedError("A program that was exported with the backend 'reference' is for inference only.")


_backend = KernelBackend(
    "reference",
    ("CompositeExplicitAutograd",),
    Kernels(
        scan_forward=_scan, scan_backward=_refuse, scan_kept=_refuse, conv_forward=_conv, conv_backward=_refuse,
        layer_forward=_layer, layer_backward=_refuse, layer_kept=_refuse, scan_step=reference.selective_state_update,
        ssd_forward=_ssd, ssd_backward=_refuse, ssd_step=_ssd_step,
    ),
)  # fmt: skip
selective_scan = _backend.selective_scan
selective_state_update = _backend.selective_state_update
bidirectional_selective_scan = _backend.bidirectional_selective_scan
causal_conv1d = _backend.causal_conv1d
causal_conv1d_update = _backend.causal_conv1d_update
bidirectional_causal_conv1d = _backend.bidirectional_causal_conv1d
bidirectional_mamba_inner = _backend.bidirectional_mamba_inner
ssd = _backend.ssd
ssd_update = _backend.ssd_update

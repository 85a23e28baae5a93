"""A backend made of kernels: Mamba's operations as torch operations, registered once for all such backends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechbrain_mamba.ops.directions import Direction, Filters, ScanInputs, SsdInputs
from speechbrain_mamba.ops.int8 import PackedWeight
from speechbrain_mamba.ops.torch_ops import Layout, Operations, asks_for_gradient


class ScanShared(NamedTuple):
    """Tensors of a scan that belong to no direction, or their gradients."""

    z: Tensor | None = None
    initial_state: Tensor | None = None
    lengths: Tensor | None = None


class ConvShared(NamedTuple):
    """Tensors of a convolution that belong to no direction, or their gradients."""

    x: Tensor
    initial_state: Tensor | None = None
    lengths: Tensor | None = None


class SsdShared(NamedTuple):
    """Tensors of a scan of Mamba-2 beside its inputs, or their gradients."""

    z: Tensor | None = None
    """(batch, time, heads, head channels)"""
    initial_state: Tensor | None = None
    """(batch, heads, head channels, state)"""
    lengths: Tensor | None = None
    """(batch,)"""


class LayerShared(NamedTuple):
    """Tensors of a bidirectional layer that belong to no direction, or their gradients."""

    xz: Tensor
    out_proj_weight: Tensor
    out_proj_bias: Tensor | None = None
    lengths: Tensor | None = None


ScanGradients = tuple[Sequence[ScanInputs], ScanShared]
ConvGradients = tuple[Sequence[Filters], ConvShared]
LayerGradients = tuple[Sequence[Direction], LayerShared]
SsdGradients = tuple[Sequence[SsdInputs], SsdShared]


@dataclass(frozen=True)
class Kernels:
    """The functions that a backend brings. Each takes the tensors of one or two directions, and the shared ones.

    Outputs that are not asked for are empty tensors. With ``selective`` backward functions also take ``needs``, of
    which tensors a gradient is needed, as two parts like these; others may be None.
    """

    scan_forward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(directions, shared, softplus, reverse, last_state, keep) -> y, last state, kept"""
    scan_backward: Callable[..., ScanGradients]
    """(directions, shared, kept, dy, dlast_state, softplus, reverse) -> gradients"""
    scan_kept: Callable[[Sequence[ScanInputs]], tuple[int, ...]]
    """(directions) -> shape of the states that a scan keeps for its backward pass"""
    conv_forward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(directions, shared, silu, reverse, final_state) -> y, y of the second direction, final state"""
    conv_backward: Callable[..., ConvGradients]
    """(directions, shared, dy, dy_b, dfinal_state, silu, reverse) -> gradients"""
    layer_forward: Callable[..., tuple[Tensor, Tensor]]
    """(directions, shared, keep) -> output, kept"""
    layer_backward: Callable[..., LayerGradients]
    """(directions, shared, kept, doutput) -> gradients"""
    layer_kept: Callable[[Sequence[Direction], LayerShared], tuple[int, ...]]
    """(directions, shared) -> shape of the states that a layer keeps for its backward pass"""
    scan_step: Callable[..., tuple[Tensor, Tensor]] | None = None
    """(state, u, delta, A, B, C, D, z, delta_bias, softplus) -> y, state; without it a step is a scan of one frame"""
    inner_forward: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
    """(direction, x, z, conv state, scan state, lengths, reverse) -> y, states after it; without it a direction of a
    layer is a convolution, two products and a scan"""
    ssd_forward: Callable[..., tuple[Tensor, Tensor]] | None = None
    """(directions, shared, softplus, reverse, low, high, last_state) -> y, last state. Without it, a backend's ``ssd``
    is that of another; without ``ssd_backward``, where a gradient is asked for, and of two directions."""
    ssd_backward: Callable[..., SsdGradients] | None = None
    """(directions, shared, dy, dlast_state, softplus, reverse, low, high) -> gradients"""
    ssd_step: Callable[..., tuple[Tensor, Tensor]] | None = None
    """(state, x, delta, A, B, C, D, z, delta_bias, softplus, low, high) -> y, state"""
    selective: bool = False
    """Whether the backward functions take ``needs``."""

    def backward(self, op: str) -> Callable:
        """The backward function of an operation, which takes ``needs``."""
        function = getattr(self, f"{op}_backward")
        return function if self.selective else lambda *arguments, needs: function(*arguments)


def scan_outputs(
    directions: Sequence[ScanInputs], last_state: bool, kept: tuple[int, ...] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the outputs of a scan: y, last state and kept states, empty where they are not asked for."""
    u, A = directions[0].u, directions[0].A
    state = (u.shape[0], u.shape[2], A.shape[1]) if last_state else (0,)
    return (
        u.new_empty(u.shape),
        u.new_empty(state, dtype=torch.float32),
        u.new_empty((0,) if kept is None else kept, dtype=torch.float32),
    )


def ssd_outputs(directions: Sequence[SsdInputs], last_state: bool) -> tuple[Tensor, Tensor]:
    """Memory for the outputs of a scan of Mamba-2: y and the last state, empty where it is not asked for."""
    x, states = directions[0].x, directions[0].B.shape[3]
    shape = (x.shape[0], *x.shape[2:], states) if last_state else (0,)
    return x.new_empty(x.shape), x.new_empty(shape, dtype=torch.float32)


def conv_outputs(
    directions: Sequence[Filters], shared: ConvShared, silu: bool, reverse: bool, final_state: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the outputs of one or two directions and the final state, empty where there is none."""
    x, initial, _ = shared
    state = (x.shape[0], x.shape[2], directions[0].weight.shape[1] - 1) if final_state else (0,)
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape if len(directions) == 2 else (0,)),
        x.new_empty(state, dtype=x.dtype if initial is None else initial.dtype),
    )


_SCAN, _CONV = Layout(ScanInputs, ScanShared), Layout(Filters, ConvShared)
_LAYER, _SSD = Layout(Direction, LayerShared), Layout(SsdInputs, SsdShared)


class KernelBackend:
    """The functions of a backend module, on torch operations made of its kernels.

    Arguments
    ---------
    name : str
        The backend's name.
    devices : tuple of str
        Torch's dispatch keys of the devices that its kernels take.
    kernels : Kernels
        Its kernels.
    """

    def __init__(self, name: str, devices: tuple[str, ...], kernels: Kernels):
        operations = Operations(name, devices)
        self._kernels = kernels
        self._call, self._step = operations.call, None

        def fake_scan(
            directions: list[ScanInputs],
            shared: ScanShared,
            softplus: bool,
            reverse: bool,
            last_state: bool,
            keep: bool,
        ) -> tuple[Tensor, ...]:
            return scan_outputs(directions, last_state, kernels.scan_kept(directions) if keep else None)

        def fake_layer(directions: list[Direction], shared: LayerShared, keep: bool) -> tuple[Tensor, Tensor]:
            xz, weight, _, _ = shared
            kept = kernels.layer_kept(directions, shared) if keep else (0,)
            return xz.new_empty(*xz.shape[:2], weight.shape[0]), xz.new_empty(kept, dtype=torch.float32)

        operations.register_differentiable(
            "scan", _SCAN, 2, kernels.scan_forward, fake_scan, kernels.backward("scan"),
            flags=("softplus", "reverse"), options=("last_state", "keep"),
        )  # fmt: skip
        operations.register_differentiable(
            "conv", _CONV, 3, kernels.conv_forward, conv_outputs, kernels.backward("conv"),
            flags=("silu", "reverse"), options=("final_state",),
        )  # fmt: skip
        operations.register_differentiable(
            "layer", _LAYER, 1, kernels.layer_forward, fake_layer, kernels.backward("layer"), options=("keep",)
        )
        if kernels.scan_step is not None:
            given = "Tensor state, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z"
            schema = f"({given}, Tensor? delta_bias, bool softplus) -> (Tensor, Tensor)"
            operations.register("scan_step", schema, kernels.scan_step, _fake_step)
            operations.forbid_gradient("scan_step")
            self._step = operations.operators["scan_step"]
        if kernels.inner_forward is not None:
            parameters = "Tensor conv_weight, Tensor? conv_bias, Tensor x_proj_weight, Tensor dt_proj_weight"
            parameters += ", Tensor delta_bias, Tensor A, Tensor D"
            given = "Tensor x, Tensor? z, Tensor? conv_state, Tensor? scan_state, Tensor? lengths, bool reverse"
            schema, count = f"({parameters}, {given}) -> (Tensor, Tensor, Tensor)", len(Direction._fields)

            def inner(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
                assert kernels.inner_forward is not None
                return kernels.inner_forward(Direction(*arguments[:count]), *arguments[count:])

            operations.register("inner", schema, inner, _fake_inner)
            operations.forbid_gradient("inner")
        if kernels.ssd_forward is not None and kernels.ssd_backward is None:

            def ssd_alone(function: Callable) -> Callable:
                return lambda *arguments: function(*_SSD.unflatten(arguments), *arguments[_SSD.size :])

            flags = "bool softplus, bool reverse, float low, float high, bool last_state"
            schema = f"({_SSD.schema}, {flags}) -> (Tensor, Tensor)"
            operations.register("ssd", schema, ssd_alone(kernels.ssd_forward), ssd_alone(_fake_ssd))
            operations.forbid_gradient("ssd")
        elif kernels.ssd_forward is not None:
            operations.register_differentiable(
                "ssd", _SSD, 2, kernels.ssd_forward, _fake_ssd, kernels.backward("ssd"),
                flags=("softplus", "reverse", "float low", "float high"), options=("last_state",),
            )  # fmt: skip
        if kernels.ssd_step is not None:
            given = "Tensor state, Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z"
            schema = f"({given}, Tensor? delta_bias, bool softplus, float low, float high) -> (Tensor, Tensor)"
            operations.register("ssd_step", schema, kernels.ssd_step, _fake_step)
            operations.forbid_gradient("ssd_step")
            self._ssd_step = operations.operators["ssd_step"]

    def selective_scan(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        *,
        lengths: Tensor | None = None,
        reverse: bool = False,
        initial_state: Tensor | None = None,
        return_last_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The selective scan; see :func:`speechbrain_mamba.ops.selective_scan`."""
        tensors = _SCAN.flatten([(u, delta, A, B, C, D, delta_bias)], (z, initial_state, lengths))
        keep = asks_for_gradient(*tensors)
        y, last_state, _ = self._call("scan", *tensors, delta_softplus, reverse, return_last_state, keep)
        return (y, last_state) if return_last_state else y

    def bidirectional_selective_scan(
        self, forward: ScanInputs, reverse: ScanInputs, z: Tensor | None, delta_softplus: bool, lengths: Tensor | None
    ) -> Tensor:
        """Both directions at once; see :func:`speechbrain_mamba.ops.bidirectional_selective_scan`."""
        tensors = _SCAN.flatten([forward, reverse], (z, None, lengths))
        return self._call("scan", *tensors, delta_softplus, False, False, asks_for_gradient(*tensors))[0]

    def selective_state_update(
        self,
        state: Tensor,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One step of the recurrence; see :func:`speechbrain_mamba.ops.selective_state_update`."""
        if self._step is not None and not asks_for_gradient(state, u, delta, A, B, C, D, z, delta_bias):
            return self._step(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        u, delta, B, C = (t[:, None] for t in (u, delta, B, C))  # a sequence of one frame
        y, last_state = self.selective_scan(
            u, delta, A, B, C, D, None if z is None else z[:, None], delta_bias, delta_softplus,
            initial_state=state, return_last_state=True,
        )  # fmt: skip
        return y[:, 0], last_state

    def ssd(
        self,
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
        """The scan of Mamba-2; see :func:`speechbrain_mamba.ops.ssd`. The kernels choose the chunks themselves."""
        tensors = _SSD.flatten([(x, delta, A, B, C, D, delta_bias)], (z, initial_state, lengths))
        low, high = float(dt_limit[0]), float(dt_limit[1])
        y, last_state = self._call("ssd", *tensors, delta_softplus, reverse, low, high, return_last_state)
        return (y, last_state) if return_last_state else y

    def bidirectional_ssd(
        self,
        forward: SsdInputs,
        reverse: SsdInputs,
        z: Tensor | None,
        delta_softplus: bool,
        dt_limit: tuple[float, float],
        lengths: Tensor | None,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Both directions at once; see :func:`speechbrain_mamba.ops.bidirectional_ssd`."""
        tensors = _SSD.flatten([forward, reverse], (z, None, lengths))
        low, high = float(dt_limit[0]), float(dt_limit[1])
        return self._call("ssd", *tensors, delta_softplus, False, low, high, False)[0]

    def ssd_update(
        self,
        state: Tensor,
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
    ) -> tuple[Tensor, Tensor]:
        """One step of the scan of Mamba-2; see :func:`speechbrain_mamba.ops.ssd_update`."""
        low, high = float(dt_limit[0]), float(dt_limit[1])
        if not asks_for_gradient(state, x, delta, A, B, C, D, z, delta_bias):
            return self._ssd_step(state, x, delta, A, B, C, D, z, delta_bias, delta_softplus, low, high)
        x, delta, B, C = (t[:, None] for t in (x, delta, B, C))  # a sequence of one frame
        y, last_state = self.ssd(
            x, delta, A, B, C, D, None if z is None else z[:, None], delta_bias, delta_softplus, dt_limit,
            initial_state=state, return_last_state=True,
        )  # fmt: skip
        return y[:, 0], last_state

    def causal_conv1d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        *,
        lengths: Tensor | None = None,
        reverse: bool = False,
        initial_state: Tensor | None = None,
        return_final_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The depthwise causal convolution; see :func:`speechbrain_mamba.ops.causal_conv1d`."""
        tensors = (weight, bias, None, None, x, initial_state, lengths)
        y, _, final_state = self._call("conv", *tensors, activation is not None, reverse, return_final_state)
        return (y, final_state) if return_final_state else y

    def bidirectional_causal_conv1d(
        self, x: Tensor, forward: Filters, reverse: Filters, activation: str | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Both directions at once; see :func:`speechbrain_mamba.ops.bidirectional_causal_conv1d`."""
        tensors = (*forward, *reverse, x, None, lengths)
        y, y_reverse, _ = self._call("conv", *tensors, activation is not None, False, False)
        return y, y_reverse

    def causal_conv1d_update(
        self, x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step of the convolution; see :func:`speechbrain_mamba.ops.causal_conv1d_update`."""
        y, final_state = self.causal_conv1d(
            x[:, None], weight, bias, activation, initial_state=state, return_final_state=True
        )
        return y[:, 0], final_state

    def mamba_inner(
        self,
        x: Tensor,
        direction: Direction,
        z: Tensor | None,
        lengths: Tensor | None,
        reverse: bool,
        state: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One direction of a layer; see :func:`speechbrain_mamba.ops.mamba_inner`. Without a gradient."""
        if isinstance(direction.x_proj_weight, PackedWeight):
            y, conv, ssm = self._packed(self._kernels.inner_forward, direction, x, z, *state, lengths, reverse)
        else:
            y, conv, ssm = self._call("inner", *direction, x, z, *state, lengths, reverse)
        return y, (conv, ssm)

    def bidirectional_mamba_inner(
        self,
        xz: Tensor,
        forward: Direction,
        reverse: Direction,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        lengths: Tensor | None,
    ) -> Tensor:
        """A bidirectional layer; see :func:`speechbrain_mamba.ops.bidirectional_mamba_inner`."""
        weights = (forward.x_proj_weight, reverse.x_proj_weight, out_proj_weight)
        if any(isinstance(weight, PackedWeight) for weight in weights):
            shared = LayerShared(xz, out_proj_weight, out_proj_bias, lengths)
            return self._packed(self._kernels.layer_forward, [forward, reverse], shared, False)[0]
        tensors = _LAYER.flatten([forward, reverse], (xz, out_proj_weight, out_proj_bias, lengths))
        return self._call("layer", *tensors, asks_for_gradient(*tensors))[0]

    @staticmethod
    @torch.compiler.disable
    def _packed(kernel: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """Call a kernel with weights that are no tensors, so that it is no operation of torch, and has no gradient."""
        return kernel(*arguments)


def _fake_ssd(
    directions: list[SsdInputs],
    shared: SsdShared,
    softplus: bool,
    reverse: bool,
    low: float,
    high: float,
    last_state: bool,
) -> tuple[Tensor, Tensor]:
    return ssd_outputs(directions, last_state)


def _fake_inner(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    conv_weight, A = arguments[0], arguments[5]
    x, _, conv_state, *_ = arguments[7:]
    batch, _, channels = x.shape
    conv = x.new_empty(
        (batch, channels, conv_weight.shape[1] - 1), dtype=x.dtype if conv_state is None else conv_state.dtype
    )
    return x.new_empty(x.shape), conv, x.new_empty((batch, channels, A.shape[1]), dtype=torch.float32)


def _fake_step(state: Tensor, u: Tensor, *others: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), state.new_empty(state.shape, dtype=torch.float32)

"""The backward pass of a bidirectional layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.backward_launch import ScanBackward
from speechbrain_mamba.ops.backends.triton.conv_launch import run_conv_backward, sum_filters
from speechbrain_mamba.ops.backends.triton.launch import launch
from speechbrain_mamba.ops.backends.triton.layer_kernels import mask_kernel
from speechbrain_mamba.ops.backends.triton.layer_products import product
from speechbrain_mamba.ops.backends.triton.strides import frames, layout, pair
from speechbrain_mamba.ops.directions import Direction
from speechbrain_mamba.ops.kernel_backend import LayerGradients, LayerShared

if TYPE_CHECKING:
    from speechbrain_mamba.ops.backends.triton.layer_launch import Layer


def mask_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Frames (batch, time, features) with zeros past the lengths."""
    (x,) = frames([x])
    if lengths is None:
        return x
    batch, time, features = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    programs = (-(-time // 16) * batch, -(-features // 128))
    launch(mask_kernel, programs, x, lengths, out, time, features, *layout(x), BLOCK_T=16, BLOCK_F=128, num_warps=4)
    return out


class LayerBackward:
    """The backward pass of a layer.

    Memory is used twice: the output takes the place of its gradient, gradients of the convolution's outputs that of
    these outputs, and the convolution, once it is needed again, that of the steps' gradients. While the walk back runs,
    a layer so takes three times the memory of its input, features, and what the plan allows.
    """

    def __init__(
        self,
        layer: Layer,
        shared: LayerShared,
        doutput: Tensor,
        needs: tuple[Sequence[Direction], LayerShared],
    ):
        self.layer, self.packed = layer, layer.packed
        directions, self.need = needs
        self.needed = {name for d in directions for name, need in zip(d._fields, d) if need}
        """The parameters of a direction that need a gradient."""
        self.xz, self.bias, self.lengths, self.doutput = shared.xz, shared.out_proj_bias, shared.lengths, doutput

    def run(self) -> LayerGradients:
        """Compute the gradients."""
        layer, packed, xz = self.layer, self.packed, self.xz
        dxz = torch.empty(xz.shape, dtype=xz.dtype, device=xz.device)
        dx, dz = dxz.chunk(2, dim=-1)
        # The memory of x's gradient, which comes last, is lent to that of the scan's output.
        dy = dx if self.need.xz else xz.new_empty(dx.shape)
        torch.mm(self.doutput.reshape(layer.rows, -1), layer.out, out=dy.view(layer.rows, packed.channels))
        dus, dsteps = layer.us, pair(xz, layer.rows, packed.channels) if layer.steps is None else layer.steps
        backward = ScanBackward(layer.scan, dy, None, bool(self.needed & {"A", "D", "delta_bias"}))
        backward.run(dus, dsteps, dz, bool(self.need.out_proj_weight))
        dprojected, factor, scans = self._finish(backward)
        del backward
        dx_proj, ddt_proj = self._weights(dsteps, dprojected, factor)
        del dsteps
        dout, dout_bias = self._output(dy)
        del dy
        # the part that comes through the projection
        dus.baddbmm_(dprojected[..., : packed.used], layer.to_features[:, : packed.used])
        partial = run_conv_backward(
            [d.filters for d in layer.directions], layer.convolution, list(dus.view(2, *dx.shape)), None, True, False,
            dx if self.need.xz else None, None, bool(self.needed & {"conv_weight", "conv_bias"}),
        )  # fmt: skip
        filters: Sequence = [(None, None)] * 2
        if partial is not None:
            filters = sum_filters(partial, [d.filters for d in layer.directions])
        gradients = []
        for i, ((dA, dD, dbias), (dweight, dconv_bias)) in enumerate(zip(scans, filters)):
            x_proj = None if dx_proj is None else packed.unpadded(dx_proj[i])
            dt_proj = None if ddt_proj is None else ddt_proj[i, :, : packed.ranks]
            gradients.append(Direction(dweight, dconv_bias, x_proj, dt_proj, dbias, dA, dD))  # type: ignore[arg-type]
        return gradients, LayerShared(dxz if self.need.xz else None, dout, dout_bias)  # type: ignore[arg-type]

    def _finish(self, backward: ScanBackward) -> tuple[Tensor, Tensor | None, Sequence]:
        """Features (direction, frame, features) whose B and C are the gradients, the steps' factor in the dtype of the
        products if it is needed, and the gradients of A, D and the bias of each direction."""
        layer, packed = self.layer, self.packed
        dprojected = self.xz.new_empty((2, layer.rows, packed.features))
        factor, factors = layer.factor, None
        if factor is None and "dt_proj_weight" in self.needed:
            factor = self.xz.new_empty((2, layer.rows, packed.block_r))
            factors = (layer.projected, factor)
        scans = backward.finish(dprojected, packed.block_r, factors)
        return dprojected, factor, scans or [(None, None, None)] * 2

    def _weights(
        self, dsteps: Tensor, dprojected: Tensor, factor: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the projections of both directions to features and of factors; and in ``dprojected`` those
        of the factors."""
        layer, packed, dx_proj, ddt_proj = self.layer, self.packed, None, None
        torch.bmm(dsteps, layer.of_factors, out=dprojected[..., : packed.block_r])
        if factor is not None and "dt_proj_weight" in self.needed:
            ddt_proj = product(dsteps.transpose(1, 2), factor)
        if "x_proj_weight" in self.needed:
            us = dsteps
            layer.convolve(us)  # their gradients have taken the place of the first
            dx_proj = product(dprojected.transpose(1, 2), us)
        return dx_proj, ddt_proj

    def _output(self, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the output projection's weight and bias."""
        needs_bias = self.need.out_proj_bias and self.bias is not None
        if not (self.need.out_proj_weight or needs_bias):
            return None, None
        # padding may hold anything
        doutput = mask_padding(self.doutput, self.lengths).reshape(self.layer.rows, -1)
        dweight, dbias = None, doutput.sum(0, dtype=torch.float32) if needs_bias else None
        if self.need.out_proj_weight:
            dweight = product(doutput.T[None], y.view(1, self.layer.rows, -1))[0]
        return dweight, dbias

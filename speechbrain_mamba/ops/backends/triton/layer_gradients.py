"""The backward pass of a bidirectional layer, a slab of frames after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.backward_launch import ScanBackward, split_sums, sum_slots
from speechbrain_mamba.ops.backends.triton.conv_launch import run_conv_backward, split_filters
from speechbrain_mamba.ops.backends.triton.launch import launch
from speechbrain_mamba.ops.backends.triton.layer_kernels import mask_kernel
from speechbrain_mamba.ops.backends.triton.layer_products import product
from speechbrain_mamba.ops.backends.triton.plan import Slab
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

    A slab's gradients of the convolution's outputs take the place of these outputs, once they are not needed any more.
    With several slabs a layer so takes about three times the memory of its input.
    """

    def __init__(
        self,
        layer: Layer,
        shared: LayerShared,
        doutput: Tensor,
        needs: tuple[Sequence[Direction], LayerShared],
    ):
        self.layer, self.packed, self.scan = layer, layer.packed, layer.scan
        directions, self.need = needs
        self.needed = {name for d in directions for name, need in zip(d._fields, d) if need}
        """The parameters of a direction that need a gradient."""
        self.xz, self.bias = shared.xz, shared.out_proj_bias
        self.doutput = mask_padding(doutput, shared.lengths).reshape(layer.rows, -1)  # padding may hold anything
        self.sums: dict[str, Tensor] = {}

    def run(self) -> LayerGradients:
        """Compute the gradients."""
        layer, scan, xz = self.layer, self.scan, self.xz
        p, channels = scan.plan, self.packed.channels
        dxz = torch.empty(xz.shape, dtype=xz.dtype, device=xz.device)
        dx, dz = dxz.chunk(2, dim=-1)
        # The memory of x's gradient, which comes last, is lent to that of the scan's output.
        dy = dx if self.need.xz else xz.new_empty(scan.batch, scan.time, channels)
        torch.mm(self.doutput, layer.out, out=dy.view(layer.rows, channels))
        with_sums = bool(self.needed & {"A", "D", "delta_bias"})
        backward = ScanBackward(scan, dy, None, with_sums, layer.steps if layer.factor is not None else None)
        dus = pair(xz, backward.rows, channels)
        dsteps = pair(xz, backward.rows, channels)
        y = xz.new_empty(backward.rows, channels) if self.need.out_proj_weight else None
        for slab in p.slabs:
            backward.run(slab, dus, dsteps, slab.begin, dz, y)
            self._products(backward, slab, dus, dsteps, y)
        partial = backward.sums
        dus = layer.us if len(p.slabs) > 1 else dus
        del backward, dy, dsteps, y
        us = dus.view(2, scan.batch, scan.time, channels)
        convolutions = [d.filters for d in layer.directions]
        conv_partial = run_conv_backward(
            convolutions, layer.convolution, (us[0], us[1]), None, True, False, dx if self.need.xz else None, None,
            bool(self.needed & {"conv_weight", "conv_bias"}),
        )  # fmt: skip
        return self._gradients(partial, conv_partial, dxz)

    def _products(self, backward: ScanBackward, slab: Slab, dus: Tensor, dsteps: Tensor, y: Tensor | None) -> None:
        """What becomes of a slab's gradients by matrix products."""
        layer, packed, needed = self.layer, self.packed, self.needed
        rows, frames_of = slab.end - slab.begin, slice(slab.begin, slab.end)
        dus, dsteps, us = dus[:, :rows], dsteps[:, :rows], layer.us[:, frames_of]
        dprojected = us.new_empty((2, rows, packed.features))
        factor, factors = None if layer.factor is None else layer.factor[:, frames_of], None
        if factor is None and "dt_proj_weight" in needed:
            factor = us.new_empty((2, rows, packed.block_r))
            factors = (layer.projected, factor)
        backward.finish_maps(slab, dprojected, 0, packed.block_r, factors)
        torch.bmm(dsteps, layer.of_factors, out=dprojected[..., : packed.block_r])
        if factor is not None and "dt_proj_weight" in needed:
            self._add("dt_proj", dsteps.transpose(1, 2), factor)
        if "x_proj_weight" in needed:
            self._add("x_proj", dprojected.transpose(1, 2), us)
        if y is not None:
            self._add("out_proj", self.doutput[frames_of].T[None], y[None, :rows])
        # the part of u that comes through the projection
        dus.baddbmm_(dprojected[..., : packed.used], layer.to_features[:, : packed.used])
        if len(self.scan.plan.slabs) > 1:
            us.copy_(dus)

    def _add(self, name: str, a: Tensor, b: Tensor) -> None:
        """Add a slab's share of a weight's gradient."""
        share = product(a, b)
        self.sums[name] = self.sums[name].add_(share) if name in self.sums else share

    def _gradients(self, partial: Tensor | None, conv_partial: Tensor | None, dxz: Tensor) -> LayerGradients:
        layer, packed, sums = self.layer, self.packed, self.sums
        filters: Sequence = [(None, None)] * 2
        scans: Sequence = [(None, None, None)] * 2
        conv_summed = None
        if partial is not None:
            summed, conv_summed = sum_slots(partial, conv_partial)
            scans = split_sums(summed, packed.channels, packed.states)
        elif conv_partial is not None:
            conv_summed = sum_slots(conv_partial.flatten(1)[None])[0].view(conv_partial.shape[1:])
        if conv_summed is not None:
            filters = split_filters(conv_summed, [d.filters for d in layer.directions])
        gradients = []
        for i, ((dA, dD, dbias), (dweight, dconv_bias)) in enumerate(zip(scans, filters)):
            dx_proj = packed.unpadded(sums["x_proj"][i]) if "x_proj" in sums else None
            ddt_proj = sums["dt_proj"][i, :, : packed.ranks] if "dt_proj" in sums else None
            gradients.append(Direction(dweight, dconv_bias, dx_proj, ddt_proj, dbias, dA, dD))  # type: ignore[arg-type]
        dout = sums["out_proj"][0] if "out_proj" in sums else None
        dbias = self.doutput.sum(0, dtype=torch.float32) if self.need.out_proj_bias and self.bias is not None else None
        return gradients, LayerShared(dxz if self.need.xz else None, dout, dbias)  # type: ignore[arg-type]

"""A bidirectional Mamba layer after its input projection on the Triton kernels.

Kept for its backward pass are its inputs and the projections' weights in their dtype. Convolutions and projections are
computed again there; the steps are multiplied out of their low-rank factor inside the scan's kernels, or by a matrix
product where the rank is high.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.conv_launch import run_conv
from speechbrain_mamba.ops.backends.triton.layer_gradients import LayerBackward
from speechbrain_mamba.ops.backends.triton.layer_products import Packed, product
from speechbrain_mamba.ops.backends.triton.plan import LARGEST_RANK
from speechbrain_mamba.ops.backends.triton.scan_launch import ScanLaunch, run_scan
from speechbrain_mamba.ops.backends.triton.strides import on_device, pair, zeros_like
from speechbrain_mamba.ops.directions import Direction, ScanInputs
from speechbrain_mamba.ops.kernel_backend import ConvShared, LayerGradients, LayerShared, ScanShared


def layer_kept(directions: Sequence[Direction], shared: LayerShared) -> tuple[int, ...]:
    """Shape of what is kept for the backward pass: the weights, packed."""
    return Packed.of(directions[0], shared.out_proj_weight, shared.xz.dtype).kept


class Layer:
    """A layer's input up to its scan.

    Arguments
    ---------
    directions : sequence of two Direction
        Parameters.
    shared : LayerShared
        The other tensors.
    packed, memory : Packed, Tensor
        The projections' weights.
    """

    def __init__(self, directions: Sequence[Direction], shared: LayerShared, packed: Packed, memory: Tensor):
        self.directions, self.lengths, self.packed = directions, shared.lengths, packed
        xz = shared.xz
        batch, time, _ = xz.shape
        self.rows, channels = batch * time, packed.channels
        self.to_features, self.of_factors, self.out = packed.split(memory)
        self.x, self.z = xz.chunk(2, dim=-1)
        self.us = pair(xz, self.rows, channels)
        us = self.convolve(self.us)
        self.projected = product(self.us, self.to_features.transpose(1, 2))
        features = self.projected.view(2, batch, time, packed.features).unbind()
        deltas, B, C = zip(*map(packed.columns, features))
        self.factor: Tensor | None = None
        """Factors in the dtype of the products, where these make the steps."""
        self.steps: Tensor | None = None
        """The steps that they make, (direction, frame, channel)."""
        weights = [d.dt_proj_weight for d in directions]
        if packed.ranks > LARGEST_RANK:
            self.factor = self.projected[..., : packed.block_r].to(xz.dtype)
            self.steps = pair(xz, self.rows, channels)
            torch.bmm(self.factor, self.of_factors.transpose(1, 2), out=self.steps)
            deltas, weights = self.steps.view(2, batch, time, channels).unbind(), []
        inputs = [ScanInputs(us[i], deltas[i], d.A, B[i], C[i], d.D, d.delta_bias) for i, d in enumerate(directions)]
        self.scan = ScanLaunch(inputs, ScanShared(self.z, lengths=shared.lengths), True, False, weights, True)

    @property
    def convolution(self) -> ConvShared:
        """The convolution's tensors that belong to no direction."""
        return ConvShared(self.x, lengths=self.lengths)

    def convolve(self, us: Tensor) -> tuple[Tensor, ...]:
        """Compute the inputs of both scans into their memory, (direction, frame, channel); returns them, each (batch,
        time, channels)."""
        inputs = us.view(2, *self.x.shape).unbind()
        run_conv([d.filters for d in self.directions], self.convolution, True, False, inputs)
        return inputs


def layer_forward(directions: Sequence[Direction], shared: LayerShared, keep: bool) -> tuple[Tensor, Tensor]:
    """Output, and the weights to keep."""
    xz, weight, bias, _ = shared
    batch, time, _ = xz.shape
    packed = Packed.of(directions[0], weight, xz.dtype)
    if xz.numel() == 0:
        output = xz.new_zeros(batch, time, packed.d_model)
        return output, xz.new_zeros(packed.kept if keep else (0,), dtype=torch.float32)
    with on_device(xz):
        memory = packed.fill(directions, weight)
        layer = Layer(directions, shared, packed, memory)
        y = xz.new_empty(batch, time, packed.channels)
        run_scan(layer.scan, y, None)
        out = layer.out
        del layer
    output = F.linear(y, out, None if bias is None else bias.to(y.dtype))
    return output, memory if keep else xz.new_empty((0,), dtype=torch.float32)


def layer_backward(
    directions: Sequence[Direction],
    shared: LayerShared,
    kept: Tensor,
    doutput: Tensor,
    *,
    needs: tuple[Sequence[Direction], LayerShared],
) -> LayerGradients:
    """Gradients, of the parameters that need one."""
    xz = shared.xz
    if xz.numel() == 0:
        return [zeros_like(d) for d in directions], zeros_like(shared._replace(lengths=None))
    packed = Packed.of(directions[0], shared.out_proj_weight, xz.dtype)
    with on_device(xz):
        return LayerBackward(Layer(directions, shared, packed, kept), shared, doutput, needs).run()

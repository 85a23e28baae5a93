"""The matrix products of a layer, and its weights as these take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_mamba.ops.backends.triton.launch import launch
from speechbrain_mamba.ops.backends.triton.layer_kernels import pack_kernel
from speechbrain_mamba.ops.backends.triton.plan import power_of_2, round_up
from speechbrain_mamba.ops.backends.triton.strides import ALIGNMENT
from speechbrain_mamba.ops.directions import Direction

_BLOCK = 1024
_WIDENS = hasattr(torch.ops.aten.bmm, "dtype")
"""Whether this version of PyTorch has products of another dtype than their factors; only CUDA computes them."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """Batched matrix product in float32; on CUDA half-precision factors are not rounded in between."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.is_cuda and _WIDENS:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a, b).float()


class Packed:
    """Weights of a layer's projections in the dtype of its input, as one piece of memory.

    Features are the step's factor, B and C, each padded with zeros to the columns of a program, and all of them to an
    aligned number: frames of what they are multiplied to are read in wide words, for any rank.

    Arguments
    ---------
    direction : Direction
        Parameters of one direction.
    out_proj_weight : Tensor
        The output projection, (d_model, channels).
    dtype : torch.dtype
        Of the products.
    """

    def __init__(self, direction: Direction, out_proj_weight: Tensor, dtype: torch.dtype):
        (self.channels, self.states), self.ranks = direction.A.shape, direction.dt_proj_weight.shape[1]
        self.block_r, self.block_n = power_of_2(self.ranks), power_of_2(self.states)
        self.used = self.block_r + 2 * self.block_n
        self.features = round_up(self.used, ALIGNMENT)
        self.d_model, self.dtype = out_proj_weight.shape[0], dtype
        self.sizes = (
            2 * self.features * self.channels, 2 * self.channels * self.block_r, self.d_model * self.channels
        )  # fmt: skip

    @property
    def kept(self) -> tuple[int, ...]:
        """Shape of the memory in float32."""
        return (round_up(sum(self.sizes), 2) * self.dtype.itemsize // 4,)

    def fill(self, directions: Sequence[Direction], out_proj_weight: Tensor) -> Tensor:
        """Pack weights; returns the memory."""
        forward, reverse = directions
        memory = forward.A.new_empty(self.kept, dtype=torch.float32)
        weights = [
            w.contiguous()
            for w in (forward.x_proj_weight, reverse.x_proj_weight, forward.dt_proj_weight, reverse.dt_proj_weight,
                      out_proj_weight)
        ]  # fmt: skip
        launch(
            pack_kernel, -(-sum(self.sizes) // _BLOCK), *weights, memory.view(self.dtype), self.channels, self.ranks,
            self.states, self.features, self.d_model, BLOCK_R=self.block_r, BLOCK_N=self.block_n, BLOCK=_BLOCK,
            num_warps=4,
        )  # fmt: skip
        return memory

    def split(self, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights to features (direction, features, channels), of factors (direction, channels, rank), and of outputs
        (d_model, channels)."""
        to_features, of_factors, out = memory.view(self.dtype)[: sum(self.sizes)].split(self.sizes)
        return (
            to_features.view(2, self.features, self.channels),
            of_factors.view(2, self.channels, self.block_r),
            out.view(self.d_model, self.channels),
        )

    def columns(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The factor, B and C of features (..., features), with the columns of a program."""
        factor, B, C = projected[..., : self.used].split([self.block_r, self.block_n, self.block_n], -1)
        return factor, B, C

    def unpadded(self, gradient: Tensor) -> Tensor:
        """The gradient of a direction's weight from that to its features (features, channels)."""
        parts = self.columns(gradient.T)
        sizes = self.ranks, self.states, self.states
        if sizes == (self.block_r, self.block_n, self.block_n):
            return gradient[: self.used]
        return torch.cat([part[:, :size].T for part, size in zip(parts, sizes)])

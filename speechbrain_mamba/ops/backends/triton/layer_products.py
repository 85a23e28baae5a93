"""The matrix products of a layer, and its weights as these take them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

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
    channels, states, ranks, d_model : int
        Sizes of the layer.
    dtype : torch.dtype
        Of the products.
    """

    def __init__(self, channels: int, states: int, ranks: int, d_model: int, dtype: torch.dtype):
        self.channels, self.states, self.ranks, self.d_model, self.dtype = channels, states, ranks, d_model, dtype
        self.block_r, self.block_n = power_of_2(ranks), power_of_2(states)
        self.used = self.block_r + 2 * self.block_n
        self.features = round_up(self.used, ALIGNMENT)
        self.parts = [self.block_r, self.block_n, self.block_n, self.features - self.used]
        self.sizes = 2 * self.features * channels, 2 * channels * self.block_r, d_model * channels

    @staticmethod
    def of(direction: Direction, out_proj_weight: Tensor, dtype: torch.dtype) -> Packed:
        """That of a layer: parameters of one direction, and the output projection (d_model, channels)."""
        (channels, states), ranks = direction.A.shape, direction.dt_proj_weight.shape[1]
        return _packed(channels, states, ranks, out_proj_weight.shape[0], dtype)

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
        weights, (size, size_dt, _) = memory.view(self.dtype), self.sizes
        channels, features, ranks = self.channels, self.features, self.block_r
        start = weights.storage_offset()  # as_strided counts from the storage's first element
        return (
            weights.as_strided((2, features, channels), (features * channels, channels, 1), start),
            weights.as_strided((2, channels, ranks), (channels * ranks, ranks, 1), start + size),
            weights.as_strided((self.d_model, channels), (channels, 1), start + size + size_dt),
        )

    def columns(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The factor, B and C of features (..., features), with the columns of a program."""
        factor, B, C, _ = projected.split_with_sizes(self.parts, -1)
        return factor, B, C

    def unpadded(self, gradient: Tensor) -> Tensor:
        """The gradient of a direction's weight from that to its features (features, channels)."""
        parts = self.columns(gradient.T)
        sizes = self.ranks, self.states, self.states
        if sizes == (self.block_r, self.block_n, self.block_n):
            return gradient[: self.used]
        return torch.cat([part[:, :size].T for part, size in zip(parts, sizes)])


_packed = lru_cache(Packed)

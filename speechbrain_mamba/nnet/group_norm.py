"""Group normalization of one group, which a GPU computes with all of its multiprocessors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneGroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm`` of one group: the same parameters and results.

    PyTorch's kernel for GPUs takes one block of threads, on one multiprocessor, for the mean and variance of a group.
    One example of a dual-path model is one group of millions of values. Reductions share them out.

    Arguments
    ---------
    num_channels : int
        Channels.
    eps : float
        Added to the variance.

    Example
    -------
    >>> norm = OneGroupNorm(8)
    >>> norm(torch.rand(2, 8, 50, 4)).shape
    torch.Size([2, 8, 50, 4])
    """

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__(1, num_channels, eps)

    @classmethod
    def taking(cls, norm: nn.GroupNorm) -> OneGroupNorm:
        """One with the parameters of a norm that has one group and is affine.

        Example
        -------
        >>> norm = nn.GroupNorm(1, 8, eps=1e-8)
        >>> OneGroupNorm.taking(norm).weight is norm.weight
        True
        """
        own = cls(norm.num_channels, norm.eps)
        own.weight, own.bias = norm.weight, norm.bias
        return own.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each example of x, (batch, channels, ...)."""
        return normalize_whole(x, self.weight, self.bias, self.eps) if x.is_cuda else super().forward(x)


def normalize_whole(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize each example of x, (batch, channels, ...), as ``torch.nn.functional.group_norm`` with one group does,
    with statistics in float32, or in float64 for such input. The output has the type of x, under autocast float32."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    values = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(values, tuple(range(1, x.dim())), correction=0, keepdim=True)
    scale = weight.reshape(shape) * torch.rsqrt(variance + eps)
    y = torch.addcmul(bias.reshape(shape) - mean * scale, values, scale)
    return y if torch.is_autocast_enabled(x.device.type) else y.to(x.dtype)

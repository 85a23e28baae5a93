"""Linear layers with weights of fewer bits, for inference: bfloat16, or integers of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechbrain_mamba.ops.int8 import PackedWeight, project
from speechbrain_mamba.utils.processor import bf16_unavailable

Bits = Literal["bf16", "int8"]

SMALLEST_WEIGHT = 4096
"""Values of the smallest weight that is reduced: smaller ones, such as those that give a few classes, cost nothing."""


NARROW = 8
"""Inputs for each output from which on a layer is made of bfloat16 in place of integers, where the processor has it."""


class ReducedLinear(nn.Module):
    """A linear layer whose weight was reduced once, in place of one that casts it in each call.

    Under autocast it computes and answers in autocast's type, as :class:`torch.nn.Linear` does, else in that of its
    input.

    Arguments
    ---------
    linear : torch.nn.Linear or torch.nn.Conv1d
        The layer that it replaces; a convolution of width 1 counts as a linear layer.
    bits : str
        ``bf16`` or ``int8``.

    Example
    -------
    >>> linear = nn.Linear(64, 64)
    >>> x = torch.randn(2, 10, 64)
    >>> y = ReducedLinear(linear, "bf16")(x)
    >>> y.shape, torch.allclose(y, linear(x), atol=0.02)
    (torch.Size([2, 10, 64]), True)
    """

    weight: Tensor | PackedWeight
    bias: Tensor | None

    def __init__(self, linear: nn.Linear | nn.Conv1d, bits: Bits) -> None:
        super().__init__()
        weight = linear.weight.detach().flatten(1)
        self.out_features, self.in_features = weight.shape
        self.bits = bits
        if bits == "int8":
            self.weight = PackedWeight(weight)
        else:
            self.weight = nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """Project (..., in_features) to (..., out_features)."""
        cast = torch.is_autocast_enabled(x.device.type)
        return project(x, self.weight, self.bias, torch.get_autocast_dtype(x.device.type) if cast else x.dtype)

    def extra_repr(self) -> str:
        """What ``print`` says of it."""
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}, bits={self.bits}"


class ReducedPointwise(ReducedLinear):
    """A convolution of width 1 over (batch, channels, time), with a weight that was reduced once."""

    def forward(self, x: Tensor) -> Tensor:
        """Project the channels."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def reduce_linears(model: nn.Module, bits: Bits) -> int:
    """Reduce the weights of a model's linear layers and convolutions of width 1, in place.

    Layers that are not called, but whose weight another module reads, stay as they are: those of
    :class:`torch.nn.MultiheadAttention`, and those that a module names in ``projections_kept``.

    Arguments
    ---------
    model : torch.nn.Module
        The model, on a CPU for ``int8``.
    bits : str
        ``bf16`` or ``int8``; layers of very few outputs become bfloat16 in any case, where the processor has it.

    Returns
    -------
    int
        The number of values that were reduced.

    Example
    -------
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    >>> reduce_linears(model, "bf16"), type(model[0]).__name__, type(model[1]).__name__
    (4096, 'ReducedLinear', 'Linear')
    """
    count, made = 0, {}
    for parent, name, layer in list(_reducible(model)):
        if id(layer) not in made:  # a layer may stand in several places
            kind = ReducedPointwise if isinstance(layer, nn.Conv1d) else ReducedLinear
            made[id(layer)] = kind(layer, "bf16" if bits == "int8" and _is_narrow(layer) else bits)
            count += layer.weight.numel()
        setattr(parent, name, made[id(layer)])
    return count


def _reducible(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear | nn.Conv1d]]:
    """The layers that can be reduced, with the modules that hold them and their names there."""
    for parent in model.modules():
        if isinstance(parent, nn.MultiheadAttention):
            continue
        kept = getattr(parent, "projections_kept", ())
        for name, layer in parent.named_children():
            linear = isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward
            if name in kept or not (linear or _is_pointwise(layer)):
                continue
            weighted: Any = layer
            if weighted.weight.numel() >= SMALLEST_WEIGHT:
                yield parent, name, weighted


def _is_narrow(layer: nn.Linear | nn.Conv1d) -> bool:
    """Whether making integers of a layer's inputs takes longer than bfloat16 does: few outputs share that work."""
    outputs, inputs = layer.weight.shape[:2]
    return NARROW * outputs <= inputs and bf16_unavailable() is None


def _is_pointwise(layer: nn.Module) -> bool:
    if type(layer) is not nn.Conv1d:
        return False
    shape = (layer.kernel_size, layer.stride, layer.groups, layer.padding)
    return shape == ((1,), (1,), 1, (0,))

"""Linear layers with weights of fewer bits, for inference: bfloat16, or integers of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechbrain_mamba.nnet.grid_convolutions import class_of
from speechbrain_mamba.nnet.plain_parts import norm_part
from speechbrain_mamba.ops.int8 import PackedWeight, project, quantize_weight
from speechbrain_mamba.ops.rowwise import Norm, finish_product, normalize_to
from speechbrain_mamba.utils.processor import bf16_unavailable
from speechbrain_mamba.utils.terminal import printable
from speechbrain_mamba.utils.weights import INTEGERS, SCALES

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
    integers : tuple of Tensor, optional
        For ``int8`` the weight as integers and scales, where it is that already.

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
    norm: nn.Module | None
    """What inputs go through first, see :meth:`absorb`."""

    def __init__(
        self, linear: nn.Linear | nn.Conv1d, bits: Bits, integers: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__()
        weight = linear.weight.detach().flatten(1)
        self.out_features, self.in_features = weight.shape
        self.bits = bits
        if bits == "int8":
            packed = None if integers is None else PackedWeight.of_integers(integers[0].flatten(1), integers[1])
            self.weight = packed or PackedWeight(weight)
        else:
            self.weight = nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        self.norm = None
        self.train(linear.training)

    def absorb(self, norm: nn.Module) -> bool:
        """Take over a norm of the layer's inputs, so that they are read once to be normalized and reduced.

        Arguments
        ---------
        norm : torch.nn.Module
            The norm.

        Returns
        -------
        bool
            Whether it was taken over, and must not be called any more: it is a plain norm over the channels.

        Example
        -------
        >>> reduced, x = ReducedLinear(nn.Linear(64, 64), "bf16"), torch.randn(2, 64)
        >>> y = reduced(nn.functional.rms_norm(x, (64,)))
        >>> reduced.absorb(nn.RMSNorm(64)), torch.allclose(reduced(x), y, atol=0.02)
        (True, True)
        """
        known = norm_part(norm) is not None
        if known:
            self.norm = norm
        return known

    def forward(self, x: Tensor) -> Tensor:
        """Project (..., in_features) to (..., out_features)."""
        return self.run(*self._normalized(x))

    def run(self, x: Tensor, norm: Norm | None = None, activation: str | None = None) -> Tensor:
        """Project (..., in_features) after a norm, and put an activation on the outputs, ``relu`` or ``gelu``. The norm
        and the rounding of the inputs are one pass; so is what is done to the products."""
        return self._project(x, self.weight, self.bias, norm, activation)

    def project_rows(self, x: Tensor, rows: slice) -> Tensor:
        """Some of the outputs alone.

        Arguments
        ---------
        x : Tensor
            Input (..., in_features).
        rows : slice
            Consecutive outputs.

        Returns
        -------
        Tensor
            (..., outputs), in the time that these take.

        Example
        -------
        >>> reduced, x = ReducedLinear(nn.Linear(64, 64), "bf16"), torch.randn(2, 64)
        >>> torch.allclose(reduced.project_rows(x, slice(32)), reduced(x)[:, :32], atol=0.02)
        True
        """
        x, norm = self._normalized(x)
        return self._project(x, self.weight[rows], None if self.bias is None else self.bias[rows], norm)

    def _normalized(self, x: Tensor) -> tuple[Tensor, Norm | None]:
        """The input and what is left to do to it of the norm: nothing if its module got hooks, and is called."""
        if self.norm is None:
            return x, None
        known = norm_part(self.norm)
        return (self.norm(x), None) if known is None else (x, known)

    @staticmethod
    def _project(
        x: Tensor,
        weight: Tensor | PackedWeight,
        bias: Tensor | None,
        norm: Norm | None = None,
        activation: str | None = None,
    ) -> Tensor:
        cast = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if cast else x.dtype
        if isinstance(weight, PackedWeight):
            return weight.multiply(x, bias, dtype, norm, activation)
        x = x if norm is None else normalize_to(x, norm, dtype)
        if activation is None:
            return project(x, weight, bias, dtype)
        return finish_product(project(x, weight, None, dtype), bias, activation)

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
            narrow = bits == "int8" and _is_narrow(layer) and bf16_unavailable() is None
            made[id(layer)] = _reduced(layer, "bf16" if narrow else bits)
            count += layer.weight.numel()
        setattr(parent, name, made[id(layer)])
    for module in model.modules():
        absorb_norm: Any = getattr(module, "absorb_norm", None)
        if absorb_norm is not None:
            absorb_norm()
    return count


def integer_state(part: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a part of a model for a file, with those as 8-bit integers of which ``int8`` makes such.

    Arguments
    ---------
    part : torch.nn.Module
        The part.
    model : torch.nn.Module
        The whole model, which says what can be reduced. Neither is changed.

    Returns
    -------
    dict of str to Tensor
        A weight of integers has two entries: its name with :data:`~speechbrain_mamba.utils.weights.INTEGERS` and with
        :data:`~speechbrain_mamba.utils.weights.SCALES` at the end. Weights that ``int8`` makes bfloat16 are that.

    Example
    -------
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    >>> {name: str(value.dtype) for name, value in integer_state(model, model).items() if name.startswith("0")}
    {'0.bias': 'torch.float32', '0.weight.int8': 'torch.int8', '0.weight.scales': 'torch.float32'}
    """
    state, reducible = part.state_dict(), {id(layer) for _, _, layer in _reducible(model)}
    for name, layer in part.named_modules(remove_duplicate=False):
        if id(layer) not in reducible or f"{name}.weight" not in state or not name:
            continue
        weight = state.pop(f"{name}.weight")
        if _is_narrow(layer):  # type: ignore[arg-type]  # it is reducible
            state[f"{name}.weight"] = weight.to(torch.bfloat16)
        else:
            integers, scales = quantize_weight(weight.flatten(1))
            state[f"{name}.weight{INTEGERS}"] = integers.view(weight.shape)
            state[f"{name}.weight{SCALES}"] = scales
    return state


def take_integers(part: nn.Module, weights: Mapping[str, tuple[Tensor, Tensor]], what: str) -> None:
    """Replace layers of a part by reduced ones with weights that a file has as integers.

    Arguments
    ---------
    part : torch.nn.Module
        The part, on a CPU.
    weights : mapping of str to tuple of Tensor
        Integers and scales by the name of the weight, see :func:`~speechbrain_mamba.utils.weights.split_integers`.
    what : str
        What the weights are of, for messages.

    Raises
    ------
    ValueError
        When the part has no such layer of this shape.
    """
    layers = {
        f"{name}.weight": layer
        for name, layer in part.named_modules(remove_duplicate=False)
        if name and (_is_linear(layer) or _is_pointwise(layer))
    }
    made: dict[int, ReducedLinear] = {}
    for name, (integers, scales) in weights.items():
        layer: Any = layers.get(name)
        if layer is None or layer.weight.shape != integers.shape:
            raise ValueError(
                f"The weights of {what} do not fit: {printable(name)} is of 8-bit integers, "
                f"{' x '.join(map(str, integers.shape))}, but there is no linear layer of this size. They belong to "
                "another model, or to other settings of it."
            )
        if id(layer) not in made:
            made[id(layer)] = _reduced(layer, "int8", (integers, scales))
        parent, _, own = name.removesuffix(".weight").rpartition(".")
        setattr(part.get_submodule(parent), own, made[id(layer)])


def count_numbers(model: nn.Module) -> int:
    """The numbers in the weights of a model, reduced or not; one that stands in several places counts once.

    Example
    -------
    >>> count_numbers(nn.Linear(3, 2))
    8
    """
    reduced = [part for part in model.modules() if isinstance(part, ReducedLinear)]
    packed = {id(part.weight): part.weight.shape for part in reduced if isinstance(part.weight, PackedWeight)}
    return sum(one.numel() for one in model.parameters()) + sum(map(torch.Size.numel, packed.values()))


def _reduced(layer: nn.Linear | nn.Conv1d, bits: Bits, integers: tuple[Tensor, Tensor] | None = None) -> ReducedLinear:
    return (ReducedPointwise if isinstance(layer, nn.Conv1d) else ReducedLinear)(layer, bits, integers)


def _reducible(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear | nn.Conv1d]]:
    """The layers that can be reduced, with the modules that hold them and their names there."""
    for parent in model.modules():
        if isinstance(parent, nn.MultiheadAttention):
            continue
        kept = getattr(parent, "projections_kept", ())
        for name, layer in parent.named_children():
            if name in kept or not (_is_linear(layer) or _is_pointwise(layer)):
                continue
            weighted: Any = layer
            if weighted.weight.numel() >= SMALLEST_WEIGHT:
                yield parent, name, weighted


def _is_narrow(layer: nn.Linear | nn.Conv1d) -> bool:
    """Whether making integers of a layer's inputs takes longer than bfloat16 does: few outputs share that work."""
    outputs, inputs = layer.weight.shape[:2]
    return NARROW * outputs <= inputs


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def _is_pointwise(layer: nn.Module) -> bool:
    if class_of(layer) is not nn.Conv1d or not isinstance(layer, nn.Conv1d):
        return False
    shape = (layer.kernel_size, layer.stride, layer.groups, layer.padding)
    return shape == ((1,), (1,), 1, (0,))


__all__ = ["ReducedLinear", "ReducedPointwise", "count_numbers", "integer_state", "reduce_linears", "take_integers"]

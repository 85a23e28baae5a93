"""The inputs of a bidirectional Mamba layer as one operation, which all backends that have it share."""

from __future__ import annotations

from torch import Tensor

SUFFIXES = ("", "_b")
"""Of the names that belong to the forward and to the reverse direction."""

_DIRECTION = ("conv_weight", "conv_bias", "x_proj_weight", "dt_proj_weight", "delta_bias", "A", "D")
_OPTIONAL = ("conv_bias", "conv_bias_b", "out_proj_bias", "lengths")

INNER_INPUTS = (
    "xz",
    *(name + suffix for suffix in SUFFIXES for name in _DIRECTION),
    "out_proj_weight",
    "out_proj_bias",
    "lengths",
)
"""Names of the tensors, in order."""

INNER_TENSORS = ", ".join(f"Tensor{'?' * (name in _OPTIONAL)} {name}" for name in INNER_INPUTS)
"""The same in the notation of torch's schemas."""


def inner_gradients(arguments: tuple) -> list[str]:
    """Names of the inputs that get a gradient, in the order of the backward operation's outputs."""
    return [name for name, tensor in zip(INNER_INPUTS, arguments) if name != "lengths" and tensor is not None]


def inner_conv_inputs(named: dict) -> dict[str, Tensor | None]:
    """What the convolution takes, by its own names."""
    filters = {part + suffix: named[f"conv_{part}{suffix}"] for suffix in SUFFIXES for part in ("weight", "bias")}
    return filters | {"x": named["xz"].chunk(2, dim=-1)[0], "lengths": named["lengths"]}


def flatten_inner(xz: Tensor, forward: dict, reverse: dict, out_proj_weight: Tensor, out_proj_bias: Tensor | None,
                  lengths: Tensor | None) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The tensors in order, of directions that hold theirs by name."""
    parameters = [direction[name] for direction in (forward, reverse) for name in _DIRECTION]
    return xz, *parameters, out_proj_weight, out_proj_bias, lengths

"""Tensors as the kernels take them, and the fields of the C structs that name them."""

from __future__ import annotations

import struct
from typing import overload

import torch
from torch import Tensor

from speechbrain_mamba.ops.approximation import approximation
from speechbrain_mamba.ops.rowwise import Norm

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Codes of ``enum dtype`` in csrc/api.h."""

ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2}
"""Codes of ``enum activation``."""

NORMS = {"rms": 1, "layer": 2}
"""Codes of ``enum norm``."""

ABSENT = (0, 0, 0, 0)
"""Fields of a sequence that is None."""

SHORT = {"gelu": 3}
"""Codes of activations that have a short form, see csrc/vmath.h."""


@overload
def readable(tensor: Tensor) -> Tensor: ...
@overload
def readable(tensor: Tensor | None) -> Tensor | None: ...
def readable(tensor: Tensor | None) -> Tensor | None:
    """A sequence whose last axis is contiguous: the tensor itself, views included, where it is."""
    if tensor is None or tensor.stride(-1) == 1 or tensor.shape[-1] <= 1:
        return tensor
    return tensor.contiguous()


@overload
def parameter(tensor: Tensor) -> Tensor: ...
@overload
def parameter(tensor: Tensor | None) -> Tensor | None: ...
def parameter(tensor: Tensor | None) -> Tensor | None:
    """A parameter or state: contiguous float32."""
    return None if tensor is None else tensor.to(torch.float32).contiguous()


@overload
def memory_like(tensor: Tensor) -> Tensor: ...
@overload
def memory_like(tensor: Tensor | None) -> Tensor | None: ...
def memory_like(tensor: Tensor | None) -> Tensor | None:
    """Contiguous memory for the gradient of a tensor."""
    return None if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)


def sequence(tensor: Tensor | None) -> tuple[int, int, int, int]:
    """Fields of the C struct ``sequence``, for (batch, time, features) or (batch, features)."""
    if tensor is None:
        return ABSENT
    stride = tensor.stride()
    return tensor.data_ptr(), DTYPES[tensor.dtype], stride[0], stride[1]


def pointer(tensor: Tensor | None) -> int:
    """Address of a contiguous tensor, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def activation_code(activation: str | None, short: bool) -> int:
    """The code of an activation, of its short form where it has one and that will do."""
    return SHORT[activation] if short and activation in SHORT else ACTIVATIONS[activation]


def norm_fields(norm: Norm | None, short: bool = False) -> tuple[tuple[int, ...], tuple[Tensor | None, ...]]:
    """Fields of the C struct ``norm_weights``, and the tensors that they point to, which the caller holds. ``short``
    says whether the short form of an activation will do."""
    if norm is None:
        return (0, 0, 0, 0, 0), ()
    epsilon = struct.unpack("q", struct.pack("d", norm.epsilon))[0]
    weight, bias = parameter(norm.weight), parameter(norm.bias)
    code = activation_code(norm.activation, short)
    return (NORMS[norm.kind], epsilon, pointer(weight), pointer(bias), code), (weight, bias)


def approximate(tensor: Tensor) -> bool:
    """Whether a call on this input takes the short exponentials of csrc/vmath.h: where the caller has said so, and by
    default in bfloat16."""
    asked = approximation()
    return tensor.dtype == torch.bfloat16 if asked is None else asked

"""A linear layer of a few examples, as in a step of a model.

There, reading the weights takes the time: a CPU's libraries, made for large matrices, read them again for each example.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.int8 import PackedWeight, project
from speechbrain_mamba.ops.registry import cpu_kernels_serve, is_plain_call, load_backend
from speechbrain_mamba.ops.rowwise import ACTIVATIONS, activate

MOST_ROWS = 16
"""Examples up to which a backend's own product is the faster one."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def few_rows_linear(
    x: Tensor,
    weight: Tensor | PackedWeight,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    r"""A linear layer, activation, and residual: :math:`r + f(x W^\top + b)`, made for a few examples.

    On a CPU where no gradient is asked for, a kernel of its own multiplies in float32, whatever the type of the weight;
    under autocast, what it returns is rounded to the type that it has there. Everything else is computed by PyTorch, as
    is a bare float32 product of one example, which it is as fast at.

    Arguments
    ---------
    x : Tensor
        Inputs (batch, inputs).
    weight : Tensor or PackedWeight
        Weight (outputs, inputs). One of another type than the inputs is cast, or stands for such numbers.
    bias : Tensor, optional
        Bias (outputs,).
    activation : str, optional
        ``relu`` or ``gelu``.
    residual : Tensor, optional
        Added to the output, (batch, outputs).

    Returns
    -------
    Tensor
        Output (batch, outputs).

    Raises
    ------
    ValueError
        For an unknown activation.

    Example
    -------
    >>> x, weight = torch.randn(2, 5), torch.randn(3, 5)
    >>> y = few_rows_linear(x, weight, activation="relu")
    >>> torch.allclose(y, (x @ weight.T).relu(), atol=1e-5)
    True
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"few_rows_linear: activation is '{activation}', but must be relu, gelu or None.")
    device = x.device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    bare = cast is None and activation is None and residual is None and isinstance(weight, Tensor)
    if _is_served(x, weight, bias, residual, cast is not None, bare):
        kernel = load_backend("cpu").few_rows_linear
        if cast is None:
            return kernel(x, weight, bias, activation, residual)
        y = kernel(x.float(), weight, bias, activation, None if residual is None else residual.float())
        return y.to(cast if residual is None else torch.promote_types(cast, residual.dtype))
    if isinstance(weight, Tensor) and weight.dtype == x.dtype:
        y = F.linear(x, weight, bias)
    else:
        y = project(x, weight, bias, cast)
    y = activate(y, activation)
    return y if residual is None else residual + y


def _is_served(
    x: Tensor, weight: Tensor | PackedWeight, bias: Tensor | None, residual: Tensor | None, cast: bool, bare: bool
) -> bool:
    """Whether the kernel takes a call, under autocast or not. One of a product alone may be ``bare``."""
    tensors = (x, bias, residual) if isinstance(weight, PackedWeight) else (x, weight, bias, residual)
    if not is_plain_call(*tensors):  # first: an exported program must not depend on the number of examples
        return False
    if x.dim() != 2 or not 1 <= x.shape[0] <= MOST_ROWS:
        return False
    if bare and x.shape[0] == 1 and weight.dtype == x.dtype:  # PyTorch multiplies as fast, with fewer checks
        return False
    batch, outputs = x.shape[0], weight.shape[0]
    for tensor, shape, dtypes in (
        (x, x.shape, _DTYPES if cast else _DTYPES[:1]),
        (None if isinstance(weight, PackedWeight) else weight, (outputs, x.shape[1]), _DTYPES),
        (bias, (outputs,), _DTYPES[:1]),
        (residual, (batch, outputs), _DTYPES if cast else _DTYPES[:1]),
    ):
        # of other shapes, PyTorch says what is wrong, or broadcasts
        if tensor is not None and (tensor.dtype not in dtypes or not tensor.is_cpu or tensor.shape != shape):
            return False
    return x.shape[1] == weight.shape[1] and cpu_kernels_serve()

"""A linear layer of a few examples, as in a step of a model.

There, reading the weights takes the time: a CPU's libraries, made for large matrices, read them again for each example.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.ops.registry import chosen_backend, is_available, is_plain_call, load_backend

MOST_ROWS = 16
"""Examples up to which a backend's own product is the faster one."""
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


def few_rows_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    r"""A linear layer, activation, and residual: :math:`r + f(x W^\top + b)`, made for a few examples.

    Float32 on a CPU where no gradient is asked for is multiplied by a kernel of its own; everything else by PyTorch,
    autocast included.

    Arguments
    ---------
    x : Tensor
        Inputs (batch, inputs).
    weight : Tensor
        Weight (outputs, inputs).
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
    if activation is not None and activation not in _ACTIVATIONS:
        raise ValueError(f"few_rows_linear: activation is '{activation}', but must be relu, gelu or None.")
    if _is_served(x, weight, bias, residual):
        return load_backend("cpu").few_rows_linear(x, weight, bias, activation, residual)
    y = F.linear(x, weight, bias)
    y = y if activation is None else _ACTIVATIONS[activation](y)
    return y if residual is None else residual + y


def _is_served(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> bool:
    """Whether the kernel takes a call."""
    if x.dim() != 2 or not 1 <= x.shape[0] <= MOST_ROWS or not is_plain_call(x, weight, bias, residual):
        return False
    batch, outputs = x.shape[0], weight.shape[0]
    for tensor, shape in (
        (x, x.shape),
        (weight, (outputs, x.shape[1])),
        (bias, (outputs,)),
        (residual, (batch, outputs)),
    ):
        # of other shapes, PyTorch says what is wrong, or broadcasts
        if tensor is not None and (tensor.dtype != torch.float32 or not tensor.is_cpu or tensor.shape != shape):
            return False
    return chosen_backend() in ("auto", "cpu") and not torch.is_autocast_enabled("cpu") and is_available("cpu")

"""Attention of single frames, as steps of a model need it, in the type in which it is fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.utils.processor import processor_flags


def keep_for_steps(x: Tensor) -> Tensor:
    """Keys or values as a state keeps them for single queries.

    On a CPU without AMX, PyTorch multiplies one query by keys of 16 bits up to seven times slower than by float32.
    There they become float32.

    Arguments
    ---------
    x : Tensor
        Keys or values of any shape.

    Returns
    -------
    Tensor
        The same in the type in which steps compute.

    Example
    -------
    >>> keep_for_steps(torch.ones(2, dtype=torch.float64)).dtype
    torch.float64
    """
    slow = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if slow and "amx_bf16" not in processor_flags() else x


def attend_from_one(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention of one query for each head, in the type of the keys, whatever autocast says.

    Arguments
    ---------
    query : Tensor
        (batch, nhead, 1, channels of a head).
    key, value : Tensor
        (batch, nhead, keys, channels of a head), of one type: see :func:`keep_for_steps`.
    mask : Tensor, optional
        Where it may attend, booleans that broadcast to (batch, nhead, 1, keys).
    dropout : float
        Dropout rate of the attention weights.

    Returns
    -------
    Tensor
        (batch, nhead, 1, channels of a head), of the keys' type.

    Example
    -------
    >>> query, key, value = torch.randn(2, 4, 1, 8), torch.randn(2, 4, 10, 8), torch.randn(2, 4, 10, 8)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     attend_from_one(query.bfloat16(), key, value).dtype
    torch.float32
    """
    query = query.to(key.dtype)
    if not torch.is_autocast_enabled(query.device.type):  # an exported program has no contexts
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    with torch.autocast(query.device.type, enabled=False):
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)

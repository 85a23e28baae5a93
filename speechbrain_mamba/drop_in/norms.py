"""The functions of ``mamba_ssm.ops.triton.layer_norm`` (``layernorm`` before 2.0): add, drop out and normalize."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Tensor | tuple[Tensor | None, ...]:
    """Scale, drop out, add and normalize the last axis, computed in float32.

    ``total = dropout(rowscale * x) + dropout(x1) + residual`` is normalized, with ``weight`` and ``bias``, and a
    second time with ``weight1`` and ``bias1`` if they are given.

    Arguments
    ---------
    x, x1, residual : Tensor
        What is added, (..., channels).
    weight, bias, weight1, bias1 : Tensor
        Of each norm, (channels,).
    eps : float
        Added to the variance or the mean square.
    dropout_p : float
        Share of the values of ``x`` and ``x1`` that are dropped. Masks are drawn by torch's generator.
    rowscale : Tensor, optional
        A factor for each row, (...,).
    prenorm : bool
        Whether to return the total too.
    residual_in_fp32 : bool
        Whether the total is float32 where no residual gives its type.
    is_rms_norm : bool
        Whether to divide by the root of the mean square instead of normalizing mean and variance.
    return_dropout_mask : bool
        Whether to return the masks of ``x`` and of ``x1`` too, None where nothing is dropped.

    Returns
    -------
    Tensor or tuple
        The norm, in the type of ``x``; if asked for, the second norm, the total, and both masks follow in this order.

    Example
    -------
    >>> y, total = layer_norm_fn(torch.randn(2, 8), torch.ones(8), None, residual=torch.randn(2, 8), prenorm=True)
    >>> y.shape, total.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    """
    if x1 is not None and rowscale is not None:
        raise ValueError("layer_norm_fn: rowscale does not go with x1: give one of them.")
    dtype, out_dtype = torch.promote_types(x.dtype, torch.float32), x.dtype
    total = x.to(dtype) if rowscale is None else x.to(dtype) * rowscale.to(dtype)[..., None]
    total, mask = _drop(total, dropout_p)
    mask1 = None
    if x1 is not None:
        other, mask1 = _drop(x1.to(dtype), dropout_p)
        total = total + other
    if residual is not None:
        total = total + residual.to(dtype)
    outputs: list[Tensor | None] = [_normalize(total, weight, bias, eps, is_rms_norm).to(out_dtype)]
    if weight1 is not None:
        outputs.append(_normalize(total, weight1, bias1, eps, is_rms_norm).to(out_dtype))
    if prenorm:
        kept = residual.dtype if residual is not None else dtype if residual_in_fp32 else out_dtype
        outputs.append(total.to(kept))
    if return_dropout_mask:
        outputs += [mask, mask1]
    return tuple(outputs) if len(outputs) > 1 else outputs[0]  # type: ignore[return-value]


def _drop(x: Tensor, share: float) -> tuple[Tensor, Tensor | None]:
    """Drop a share of the values and scale the others; returns them and which are kept."""
    if share <= 0:
        return x, None
    kept = torch.rand(x.shape, device=x.device) > share
    return x.masked_fill(~kept, 0) / (1 - share), kept


def _normalize(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, is_rms_norm: bool) -> Tensor:
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if not is_rms_norm:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    y = F.rms_norm(x, x.shape[-1:], weight, eps)
    return y if bias is None else y + bias


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
) -> Tensor | tuple[Tensor | None, ...]:
    """:func:`layer_norm_fn` with ``is_rms_norm``.

    Example
    -------
    >>> rms_norm_fn(torch.tensor([[3.0, 3.0]]), torch.ones(2), None, eps=0.0)
    tensor([[1., 1.]])
    """
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32, True,
        return_dropout_mask,
    )  # fmt: skip


class RMSNorm(nn.Module):
    """RMS norm of the last axis, which can add a residual first.

    Arguments
    ---------
    hidden_size : int
        Channels.
    eps : float
        Added to the mean square.
    dropout_p : float
        Share of the input's values that are dropped in training.
    device, dtype
        Of the weight.

    Example
    -------
    >>> RMSNorm(8)(torch.randn(2, 10, 8)).shape
    torch.Size([2, 10, 8])
    """

    bias: None

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0 else None
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Set the weights to one."""
        nn.init.ones_(self.weight)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Tensor | tuple[Tensor | None, ...]:
        """Normalize; see :func:`layer_norm_fn`."""
        share = self.drop.p if self.drop is not None and self.training else 0.0
        return rms_norm_fn(
            x, self.weight, None, residual=residual, eps=self.eps, dropout_p=share, prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
        )  # fmt: skip


def layer_norm_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None = None,
    residual_dtype: torch.dtype | None = None,
    is_rms_norm: bool = False,
) -> tuple[Tensor]:
    """``_layer_norm_fwd``, as far as the interface file of mamba-ssm since 2.2.4 calls it: the norm, in a tuple.

    Example
    -------
    >>> layer_norm_forward(torch.tensor([[3.0, 3.0]]), torch.ones(2), None, 0.0, is_rms_norm=True)
    (tensor([[1., 1.]]),)
    """
    if residual is not None or residual_dtype is not None:
        raise ValueError("_layer_norm_fwd: a residual is not served here: call layer_norm_fn.")
    return (layer_norm_fn(x, weight, bias, eps=eps, is_rms_norm=is_rms_norm),)  # type: ignore[return-value]

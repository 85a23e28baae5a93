"""The two directions of a bidirectional Mamba layer at once: one call where there would be two, and one pass over what
the directions share."""

from __future__ import annotations

import torch
from torch import Tensor

from speechbrain_mamba.ops.checks import check_pair
from speechbrain_mamba.ops.conv import check_activation, check_convolution
from speechbrain_mamba.ops.registry import select_backend
from speechbrain_mamba.ops.scan import check_scan

Pair = tuple[Tensor, Tensor]


def bidirectional_selective_scan(
    u: Pair,
    delta: Pair,
    A: Pair,
    B: Pair,
    C: Pair,
    D: Pair | None = None,
    z: Tensor | None = None,
    delta_bias: Pair | None = None,
    delta_softplus: bool = False,
    *,
    lengths: Tensor | None = None,
) -> Tensor:
    r"""Scan forwards and backwards in time and average both (Jiang et al., arXiv 2407.09732, figure 2).

    .. math::

        y_t = \tfrac{1}{2} (\overrightarrow{y}_t + \overleftarrow{y}_t)\, \mathrm{silu}(z_t)

    where each direction is a :func:`selective_scan` with its own arguments, and only the gate is shared.

    Arguments
    ---------
    u, delta, A, B, C, D, delta_bias : tuple of two Tensors
        As in :func:`selective_scan`, one for the forward and one for the reverse direction, of the same shape. ``D``
        and ``delta_bias`` may be None.
    z : Tensor, optional
        Gate before its SiLU, (batch, time, channels).
    delta_softplus : bool
        Whether ``delta`` (plus bias) goes through a softplus.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,), as in :func:`selective_scan`.

    Returns
    -------
    Tensor
        Output (batch, time, channels), dtype of ``u``.

    Raises
    ------
    ValueError
        For anything but pairs, shapes that do not fit, lengths out of range, or a backend that cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> pair = lambda *shape: tuple(torch.rand(2, *shape))
    >>> u, delta, A, B, C = pair(3, 9, 8), pair(3, 9, 8), pair(8, 4), pair(3, 9, 4), pair(3, 9, 4)
    >>> bidirectional_selective_scan(u, delta, A, B, C, z=torch.randn(3, 9, 8)).shape
    torch.Size([3, 9, 8])
    """
    op = "bidirectional_selective_scan"
    pairs = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}
    pairs = {name: check_pair(op, name, pair) for name, pair in pairs.items()}
    directions = [{name: pair[i] for name, pair in pairs.items()} for i in range(2)]
    for direction in directions:
        lengths = check_scan(op, **direction, z=z, lengths=lengths)
    arguments = directions[0] | {f"{name}_b": tensor for name, tensor in directions[1].items()} | {"z": z}
    backend = select_backend(op, u[0], arguments)
    with torch.autocast(u[0].device.type, enabled=False):
        return backend.bidirectional_selective_scan(*directions, z, delta_softplus, lengths)


def bidirectional_causal_conv1d(
    x: Tensor,
    weight: Pair,
    bias: Pair | None = None,
    activation: str | None = None,
    *,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve one input causally in both directions, each with its own filters.

    Arguments
    ---------
    x : Tensor
        Input (batch, time, channels).
    weight, bias : tuple of two Tensors
        As in :func:`causal_conv1d`, one for the forward and one for the reverse direction. ``bias`` may be None.
    activation : str, optional
        None, ``silu`` or its other name ``swish``.
    lengths : Tensor, optional
        Valid frames per example, integers (batch,), as in :func:`causal_conv1d`.

    Returns
    -------
    tuple of two Tensors
        Outputs of the forward and the reverse direction, (batch, time, channels), dtype of ``x``.

    Raises
    ------
    ValueError
        For anything but pairs, shapes that do not fit, an unknown activation, lengths out of range, or a backend that
        cannot serve the call.
    TypeError
        For dtypes that do not fit.

    Example
    -------
    >>> weight = torch.tensor([[1.0, 2.0]])
    >>> forward, reverse = bidirectional_causal_conv1d(torch.ones(1, 3, 1), (weight, weight))
    >>> forward.flatten(), reverse.flatten()
    (tensor([2., 3., 3.]), tensor([3., 3., 2.]))
    """
    op = "bidirectional_causal_conv1d"
    weights, biases = check_pair(op, "weight", weight), check_pair(op, "bias", bias)
    lengths = check_convolution(op, x, weights[0], biases[0], lengths)
    activation = check_activation(op, activation)
    arguments = {"weight": weights[0], "weight_b": weights[1], "bias": biases[0], "bias_b": biases[1]}
    backend = select_backend(op, x, arguments | {"activation": activation})
    with torch.autocast(x.device.type, enabled=False):
        return backend.bidirectional_causal_conv1d(x, weights, biases, activation, lengths)

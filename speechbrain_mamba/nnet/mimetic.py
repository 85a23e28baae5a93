"""Mimetic initialization: state space layers that start out like attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from speechbrain_mamba.nnet.hidden_attention import HiddenAttention
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from speechbrain_mamba.nnet.mamba2 import BiMamba2, Mamba2

SLOWEST, FASTEST = 1e-3, 1e-1
"""Rates of decay per frame."""
UNIT_STEP = math.log(math.expm1(1.0))
"""What softplus takes to 1."""


def initialize_mimetically(module: nn.Module) -> None:
    """Initialize the state space layers inside a module so that they resemble linear attention, after the idea of
    "Mimetic Initialization Helps State Space Models Learn to Recall" (arXiv 2410.11135).

    - The decay is close to one: rates from 0.001 to 0.1 per frame, so that nothing is forgotten.
    - The step is 1 for every input: its projection starts at zero, its bias at the inverse softplus of 1.
    - The maps C and B are the same, so that a query finds the keys of inputs like its own.

    What can be learned is the same, and so are the parameters' names and shapes. How it is done in
    detail, the rates among it, is ours and was not compared with the paper's code; convolutions are left alone.

    Arguments
    ---------
    module : torch.nn.Module
        The model or layer, changed in place.

    Raises
    ------
    ValueError
        When there is no state space layer inside.

    Example
    -------
    >>> layer = Mamba(8, d_state=4)
    >>> initialize_mimetically(layer)
    >>> B, C = layer.x_proj.weight[layer.dt_rank :].chunk(2)
    >>> torch.equal(B, C)
    True
    """
    found = False
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, (Mamba, BiMamba)):
                for suffix in layer.suffixes:
                    _selective_scan(layer, suffix)
            elif isinstance(layer, (Mamba2, BiMamba2)):
                _mamba2(layer)
            elif isinstance(layer, HiddenAttention):
                _hidden_attention(layer)
            else:
                continue
            found = True
    if not found:
        raise ValueError(f"A {type(module).__name__} has no state space layers to initialize mimetically.")


def _spread_rates(A_log: Tensor) -> None:
    """Spread the rates of decay over the last axis."""
    rates = torch.linspace(math.log(SLOWEST), math.log(FASTEST), A_log.shape[-1])
    A_log.copy_(rates.expand_as(A_log))


def _selective_scan(layer: Mamba | BiMamba, suffix: str) -> None:
    _spread_rates(layer.get_parameter(f"A{suffix}_log"))
    dt_proj = layer.get_submodule(f"dt_proj{suffix}")
    dt_proj.get_parameter("weight").zero_()
    dt_proj.get_parameter("bias").fill_(UNIT_STEP)
    B, C = layer.get_parameter(f"x_proj{suffix}.weight")[layer.dt_rank :].chunk(2)
    C.copy_(B)


def _mamba2(layer: Mamba2 | BiMamba2) -> None:
    maps = layer.ngroups * layer.d_state
    end = layer.in_proj.weight.shape[0] - layer.nheads
    projections = [layer.in_proj.weight, *([] if layer.in_proj.bias is None else [layer.in_proj.bias])]
    for projection in projections:
        projection[end:].zero_()
        projection[end - maps : end].copy_(projection[end - 2 * maps : end - maps])
    for suffix in layer.suffixes:
        _spread_rates(layer.get_parameter(f"A{suffix}_log"))
        layer.get_parameter(f"dt_bias{suffix}").fill_(UNIT_STEP)
        for parameter in layer.get_submodule(f"conv1d{suffix}").parameters():
            parameter[-maps:].copy_(parameter[-2 * maps : -maps])


def _hidden_attention(layer: HiddenAttention) -> None:
    _spread_rates(layer.A_log)
    layer.dt_bias.fill_(UNIT_STEP)
    layer.memory_proj.weight[layer.conv_dim :].zero_()
    B = layer.memory_proj.weight[layer.d_inner : layer.conv_dim]
    layer.target_proj.weight[layer.d_inner :].copy_(B.repeat(layer.nheads, 1))

"""Drawing the parameters of whole models anew."""

import copy

import torch
from torch import nn

from speechbrain_mamba.nnet.init import reset_parameters


def test_copied_layers_begin_differently():
    block = nn.Sequential(nn.Linear(6, 6), nn.Conv1d(6, 6, 3))
    model = nn.ModuleList([block, copy.deepcopy(block)])
    before = {key: parameter.clone() for key, parameter in model.named_parameters()}
    reset_parameters(model)
    for key, parameter in model[0].named_parameters():
        assert not torch.equal(parameter, model[1].get_parameter(key))
        assert not torch.equal(parameter, before[f"0.{key}"]) and not torch.equal(parameter, before[f"1.{key}"])


def test_outer_modules_have_the_last_word():
    """PyTorch's attention sets a bias of the linear layer inside it to zero, where a linear layer draws one."""
    attention = nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.fill_(7.0)
    reset_parameters(nn.Sequential(attention))
    assert not attention.in_proj_bias.any() and not attention.out_proj.bias.any()
    assert attention.in_proj_weight.abs().max() <= (6 / 32) ** 0.5 and attention.in_proj_weight.unique().numel() > 100
    assert attention.out_proj.weight.abs().max() <= 1 / 8**0.5 and attention.out_proj.weight.unique().numel() > 50


def test_modules_without_parameters_are_left_alone():
    model = nn.Sequential(nn.ReLU(), nn.LayerNorm(4))
    with torch.no_grad():
        model[1].weight.fill_(7.0)
    reset_parameters(model)
    assert torch.equal(model[1].weight, torch.ones(4))

"""Initialization of whole models."""

from __future__ import annotations

from torch import nn

from speechbrain_mamba.utils._compat import reset_function


def reset_parameters(module: nn.Module) -> None:
    """Draw all parameters of a module again: each submodule by its own ``reset_parameters``, the inner ones first.

    Without it, models that copy a block, as SpeechBrain's ``Dual_Path_Model`` does, start with equal blocks.

    Arguments
    ---------
    module : torch.nn.Module
        The model, changed in place.

    Example
    -------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> before = layer.weight.clone()
    >>> reset_parameters(torch.nn.Sequential(layer))
    >>> torch.equal(layer.weight, before)
    False
    """
    for submodule in reversed(list(module.modules())):
        reset = reset_function(submodule)
        if reset is not None:
            reset()

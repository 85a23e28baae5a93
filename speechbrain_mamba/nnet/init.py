"""Initialisation of whole models."""

from __future__ import annotations


def reset_parameters(module):
    """Draw all parameters of a module anew, each submodule by its own ``reset_parameters``, the inner ones first.

    Models that copy a block, as SpeechBrain's ``Dual_Path_Model`` does, start with equal blocks without it.

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
        # torch.nn.MultiheadAttention has it under a private name only
        reset = getattr(submodule, "reset_parameters", None) or getattr(submodule, "_reset_parameters", None)
        if reset is not None:
            reset()

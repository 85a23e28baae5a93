"""Trained language models that help a search."""

from __future__ import annotations

import os

import torch
from speechbrain.utils.distributed import run_on_main
from torch import nn

from speechbrain_mamba.utils.pretrained import fetch_pretrained

FILE_NAME = "lm.ckpt"
"""What SpeechBrain's recognizers call the language model's file."""


def load_language_model(source: str | os.PathLike, model: nn.Module, collect_in: str | os.PathLike) -> nn.Module:
    """Load the weights of a language model; all processes of a run call it.

    Arguments
    ---------
    source : str or Path
        A folder with an ``lm.ckpt``, or the Hub id of one.
    model : torch.nn.Module
        The model that gets the weights.
    collect_in : str or Path
        Where a file from the Hub is kept.

    Returns
    -------
    torch.nn.Module
        The model, for evaluation.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the weights do not fit.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> torch.save(nn.Linear(2, 3).state_dict(), folder / "lm.ckpt")
    >>> load_language_model(folder, nn.Linear(2, 3), folder).training
    False
    """
    run_on_main(fetch_pretrained, args=[source, FILE_NAME, collect_in])
    weights = torch.load(fetch_pretrained(source, FILE_NAME, collect_in), map_location="cpu", weights_only=True)
    for key, value in model.state_dict().items():
        found = tuple(weights[key].shape) if key in weights else None
        if found != tuple(value.shape):
            raise ValueError(
                f"The language model in '{source}' has {key} of shape {found}, but lm_model needs "
                f"{tuple(value.shape)}: it was trained with another vocabulary than the tokens of output_neurons, or "
                "has another architecture."
            )
    model.load_state_dict(weights)
    return model.eval()

"""Trained language models that help a search."""

from __future__ import annotations

import os

from speechbrain.utils.distributed import run_on_main
from torch import nn

from speechbrain_mamba.utils.pretrained import fetch_pretrained
from speechbrain_mamba.utils.weights import load_strictly, read_weights

FILE_NAME = "lm.ckpt"
"""What SpeechBrain's recognizers call the language model's file."""


def load_language_model(source: str | os.PathLike, model: nn.Module, collect_in: str | os.PathLike) -> nn.Module:
    """Load the weights of a language model, and prepare it for evaluation; all processes of a run call it.

    Arguments
    ---------
    source : str or Path
        A folder with an ``lm.ckpt``, or the Hub id of one.
    model, collect_in
        The model that gets the weights, and the folder where a file from the Hub is kept.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such file, and when its weights do not fit.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> from speechbrain_mamba.utils.weights import write_weights
    >>> write_weights(folder / "lm.ckpt", nn.Linear(2, 3).state_dict())
    >>> load_language_model(folder, nn.Linear(2, 3), folder).training
    False
    """
    run_on_main(fetch_pretrained, args=[source, FILE_NAME, collect_in])
    weights = read_weights(fetch_pretrained(source, FILE_NAME, collect_in))
    try:
        load_strictly(model, weights, f"the language model in '{source}'")
    except ValueError as error:
        raise ValueError(
            f"{error} It was trained with another vocabulary than the tokens of output_neurons, or lm_model has "
            "another architecture."
        ) from error
    return model.eval()

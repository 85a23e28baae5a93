"""The parts of a model that have files, and how each kind is filled from its file. No code in a file runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import hook_on_loading_state_dict_checkpoint
from torch import Tensor, nn

from speechbrain_mamba.nnet.reduced_linear import take_integers
from speechbrain_mamba.text.tokenizer import open_sentencepiece
from speechbrain_mamba.utils._compat import set_normalizer
from speechbrain_mamba.utils.weights import (
    CHECKPOINT,
    SAFETENSORS,
    load_strictly,
    read_saved,
    read_weights,
    split_integers,
)

_LARGEST_LABELS = 20_000_000
"""Bytes of the largest file of labels."""

_WITHOUT_WEIGHTS = ("SentencePieceProcessor", "CategoricalEncoder", "TextEncoder", "CTCTextEncoder")


def file_names(name: str, class_name: str) -> list[str]:
    """The names that the file of a part may have, the preferred one first.

    Arguments
    ---------
    name : str
        The part's name.
    class_name : str
        The name of its class.

    Example
    -------
    >>> file_names("encoder", "speechbrain.nnet.linear.Linear"), file_names("labels", "CategoricalEncoder")
    (['encoder.safetensors', 'encoder.ckpt'], ['labels.ckpt'])
    """
    if class_name.rpartition(".")[2] in _WITHOUT_WEIGHTS:
        return [f"{name}{CHECKPOINT}"]
    return [f"{name}{SAFETENSORS}", f"{name}{CHECKPOINT}"]


def fill(part: Any, path: Path, what: str, integers: bool = False) -> None:
    """Fill a part of a model from its file.

    Arguments
    ---------
    part : object
        A module, a normalizer with statistics, a SentencePiece model or an encoder of labels.
    path : Path
        The file.
    what : str
        What it is of, for messages: ``encoder of 'folder'``.
    integers : bool
        Whether weights that the file has as 8-bit integers are computed with as such; by default they become floats.

    Raises
    ------
    ValueError
        When the file is damaged, its weights do not fit, or the part is of another kind.
    """
    if isinstance(part, InputNormalization):
        _fill_normalizer(part, path, what)
    elif isinstance(part, nn.Module):
        # SpeechBrain renamed some weights since it published models
        state = hook_on_loading_state_dict_checkpoint(read_weights(path, integers))
        floats, quantized = split_integers(state, f"'{path}'")
        take_integers(part, quantized, what)
        load_strictly(part, floats, what)
    elif isinstance(part, SentencePieceProcessor):
        content = path.read_bytes()
        open_sentencepiece(content, f"'{path}'")
        part.LoadFromSerializedProto(content)
    elif isinstance(part, CategoricalEncoder):
        _fill_labels(part, path)
    else:
        raise ValueError(f"{what} is a {type(part).__name__}, which has no file here.")


def _fill_normalizer(part: InputNormalization, path: Path, what: str) -> None:
    statistics = read_weights(path) if path.suffix == SAFETENSORS else read_saved(path)
    names = ("count", "glob_mean", "glob_std")
    if not isinstance(statistics, dict) or not set(names) <= statistics.keys():
        raise ValueError(f"'{path}' is not the statistics of {what}: they are {', '.join(names)}.")
    for name in names[1:]:
        value = statistics[name]
        if not isinstance(value, Tensor) or not value.isfinite().all():
            raise ValueError(f"The statistics of {what} are damaged: {name} is not a tensor of finite numbers.")
    set_normalizer(part, {**statistics, "count": int(statistics["count"])})


def _fill_labels(part: CategoricalEncoder, path: Path) -> None:
    if path.stat().st_size > _LARGEST_LABELS:
        raise ValueError(f"'{path}' is too large for labels, with more than {_LARGEST_LABELS // 10**6} MB.")
    try:
        part.load(path)
    except (ValueError, SyntaxError, KeyError, MemoryError, RecursionError) as error:
        raise ValueError(f"'{path}' is not a file of labels: {error}") from error

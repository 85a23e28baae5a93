"""What belongs to the weights of a codec language model: the inventory of its texts, and the codec of its tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from speechbrain_mamba.codecs import SETTINGS, load_codec
from speechbrain_mamba.codecs.tokenize_speech import codec_checksum
from speechbrain_mamba.dataio.token_splits import INVENTORY, STAMP
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.training.init_source import InitSource
from speechbrain_mamba.utils.yaml_text import parse_yaml

EMBEDDINGS = ("ar.phoneme_embedding.embedding.weight", "nar.phoneme_embedding.embedding.weight")
"""The weights that have a row for each symbol of a text."""


def read_inventory(source: InitSource) -> TextTokenizer | None:
    """Read the inventory that a source of weights was trained with; None if the source does not say."""
    file = source.find_file(INVENTORY)
    folder = None if file else _token_folder(source)
    if folder is not None and (folder / INVENTORY).is_file():
        file = folder / INVENTORY
    return None if file is None else TextTokenizer.load(file)


def read_codec_checksum(source: InitSource) -> str | None:
    """The checksum of the codec whose tokens a source of weights was trained with; None if the source does not say."""
    settings = source.find_file(SETTINGS)
    if settings is not None:
        return codec_checksum(load_codec(settings.parent if source.folders else source.name))
    folder = _token_folder(source)
    if folder is None or not (folder / STAMP).is_file():
        return None
    return json.loads((folder / STAMP).read_text(encoding="utf-8")).get("settings", {}).get("weights")


def _token_folder(source: InitSource) -> Path | None:
    """The token folder of the run that a checkpoint is of, by the record of the run, which is read and not built."""
    record = source.find_file("hyperparams.yaml") if source.folders else None
    tree = parse_yaml(record.read_text(encoding="utf-8"), str(record)) if record else None
    folder = tree.get("token_folder") if isinstance(tree, Mapping) else None
    return Path(folder) if isinstance(folder, str) and Path(folder).is_dir() else None


def compare_tokens(source: InitSource, token_folder: str | os.PathLike, weights: str | None) -> dict[str, str]:
    """Compare what belongs to the weights of a source with a run's.

    Arguments
    ---------
    source : InitSource
        The source.
    token_folder : str or Path
        The tokens of the run.
    weights : str, optional
        The checksum of the codec that made them, if it is known.

    Returns
    -------
    dict of str to str
        What is wrong with the source's ``tokenizer`` and ``codec``; nothing for what is the same.
    """
    found, ours, theirs = {}, TextTokenizer.load(Path(token_folder) / INVENTORY), read_inventory(source)
    if theirs is None:
        found["tokenizer"] = f"is unknown there (there is no {INVENTORY})"
    elif (theirs.kind, theirs.symbols) != (ours.kind, ours.symbols):
        shared = len(set(theirs.symbols) & set(ours.symbols))
        found["tokenizer"] = (
            f"there has {len(theirs)} symbols of the kind {theirs.kind}, and that of '{token_folder}' {len(ours)} of "
            f"the kind {ours.kind}, {shared} of which are the same (if you leave it out, the embeddings of these are "
            "still taken)"
        )
    codec = read_codec_checksum(source)
    if codec is None and weights is not None:
        found["codec"] = f"is unknown there (there is no {SETTINGS})"
    elif weights is not None and codec != weights:
        found["codec"] = f"there is another one than the one that made the tokens in '{token_folder}'"
    return found


def rearrange_embeddings(
    there: dict[str, Tensor], here: Mapping[str, Tensor], theirs: TextTokenizer, ours: TextTokenizer
) -> None:
    """Put the rows of embedded symbols where another inventory has them, in place. Rows of symbols that only this
    inventory has are those of the run.

    Arguments
    ---------
    there, here : dict of str to Tensor
        The weights of a source, which are changed, and of the run.
    theirs, ours : TextTokenizer
        Their inventories.

    Example
    -------
    >>> there, here = ({EMBEDDINGS[0]: torch.tensor(rows)} for rows in ([[1.0], [2.0]], [[7.0], [8.0], [9.0]]))
    >>> rearrange_embeddings(there, here, TextTokenizer("ab", "characters"), TextTokenizer("xb", "characters"))
    >>> there[EMBEDDINGS[0]].flatten()
    tensor([7., 2., 9.])
    """
    places = {symbol: place for place, symbol in enumerate(theirs.symbols)}
    pairs = [(row, places[symbol]) for row, symbol in enumerate(ours.symbols) if symbol in places]
    rows, taken = (torch.tensor(one, dtype=torch.long) for one in (zip(*pairs) if pairs else ((), ())))
    for name in EMBEDDINGS:
        if name in there and name in here and there[name].shape[1:] == here[name].shape[1:]:
            moved = here[name].detach().cpu().to(there[name].dtype).clone()
            moved[rows] = there[name][taken]
            there[name] = moved

"""Neural audio codecs: waveforms to tokens and back."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

from speechbrain_mamba.codecs.encodec import EnCodec, codec_settings, pretrained_encodec
from speechbrain_mamba.utils.files import write_json
from speechbrain_mamba.utils.pretrained import ModelFiles
from speechbrain_mamba.utils.weights import CHECKPOINT, SAFETENSORS, load_strictly, read_weights, write_weights

__all__ = ["EnCodec", "load_codec", "pretrained_encodec", "save_codec"]

SETTINGS, PUBLISHED = "codec.json", "encodec_24khz"
WEIGHTS = [f"codec{SAFETENSORS}", f"codec{CHECKPOINT}"]
"""Names of the weights' file: the one that is written, and that of versions 0.1 and 0.2."""

_LARGEST = 1_000_000
"""The largest number that the settings of a codec have."""


def save_codec(codec: EnCodec, folder: str | os.PathLike) -> None:
    """Write a codec to a folder that :func:`load_codec` loads, here or from the Hub. An earlier one there is replaced,
    file by file."""
    write_weights(Path(folder) / WEIGHTS[0], codec.state_dict())
    write_json(Path(folder) / SETTINGS, codec_settings(codec))
    (Path(folder) / WEIGHTS[1]).unlink(missing_ok=True)  # of an earlier version, which no longer counts


def load_codec(source: str | os.PathLike | ModelFiles, n_codebooks: int | None = None) -> EnCodec:
    """Load a codec, in evaluation mode.

    Arguments
    ---------
    source : str, Path or ModelFiles
        ``encodec_24khz`` for the published EnCodec, whose weights its package downloads; a folder with the file of its
        weights; a folder or Hub id of a codec written by :func:`save_codec`; or the files of a model that brings one.
    n_codebooks : int, optional
        How many of its codebooks to use. By default all of them; of the published EnCodec 8, which are 6 kbit/s.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no codec or its weights are not available, damaged or of another codec, when its settings are
        none of a codec, and for more codebooks than it has.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> save_codec(EnCodec(8000, (4, 4), n_codebooks=2, codebook_size=16, dimension=8, n_filters=2), folder)
    >>> load_codec(folder, n_codebooks=1).n_codebooks
    1
    """
    published = 8 if n_codebooks is None else n_codebooks
    if isinstance(source, ModelFiles):
        files, source = source, source.source
    elif str(source) == PUBLISHED:
        return pretrained_encodec(published)
    elif Path(source).is_dir() and any(Path(source).glob(f"{PUBLISHED}-*.th")):
        return pretrained_encodec(published, Path(source))
    else:
        files = ModelFiles(source)
    codec = EnCodec(**_read_settings(files.find(SETTINGS)))
    load_strictly(codec, read_weights(files.find(*WEIGHTS)), f"the codec in '{source}'")
    if n_codebooks is not None:
        if not 1 <= n_codebooks <= codec.n_codebooks:
            raise ValueError(f"n_codebooks is {n_codebooks}, but the codec in '{source}' has 1 to {codec.n_codebooks}.")
        codec.n_codebooks = n_codebooks
    return codec.eval()


def _read_settings(path: Path) -> dict[str, Any]:
    """The arguments of a codec, from a file that anyone may have written."""
    advice = f"'{path}' is not the settings of a codec"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{advice}: it is not JSON, {error}.") from error
    known = inspect.signature(EnCodec.__init__).parameters
    if not isinstance(settings, dict) or not set(settings) <= set(known):
        raise ValueError(f"{advice}: they are {', '.join(list(known)[1:])}.")
    for name, value in settings.items():
        numbers = value if name == "ratios" and isinstance(value, list) else [value]
        # type, since True is a number too
        if not numbers or not all(type(number) is int and 0 <= number <= _LARGEST for number in numbers):
            raise ValueError(f"{advice}: {name} is {str(value)[:40]}, but must be a whole number up to {_LARGEST}.")
    return settings

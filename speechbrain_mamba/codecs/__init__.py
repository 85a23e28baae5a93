"""Neural audio codecs: waveforms to tokens and back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from speechbrain_mamba.codecs.encodec import EnCodec, codec_settings, pretrained_encodec
from speechbrain_mamba.utils.files import atomic_path, write_json
from speechbrain_mamba.utils.pretrained import fetch_pretrained

__all__ = ["EnCodec", "load_codec", "pretrained_encodec", "save_codec"]

SETTINGS, WEIGHTS, PUBLISHED = "codec.json", "codec.ckpt", "encodec_24khz"


def save_codec(codec: EnCodec, folder: str | os.PathLike) -> None:
    """Write a codec to a folder that :func:`load_codec` loads, here or from the Hub.

    Arguments
    ---------
    codec : EnCodec
        The codec.
    folder : str or Path
        Where it goes; an earlier one there is replaced, file by file.
    """
    with atomic_path(Path(folder) / WEIGHTS) as temporary:
        torch.save(codec.state_dict(), temporary)
    write_json(Path(folder) / SETTINGS, codec_settings(codec))


def load_codec(source: str | os.PathLike, n_codebooks: int | None = None) -> EnCodec:
    """Load a codec.

    Arguments
    ---------
    source : str or Path
        ``encodec_24khz`` for the published EnCodec, whose weights its package downloads; a folder with the file of its
        weights; or a folder or Hub id of a codec written by :func:`save_codec`.
    n_codebooks : int, optional
        How many of its codebooks to use. By default all of them; of the published EnCodec 8, which are 6 kbit/s.

    Returns
    -------
    EnCodec
        The codec, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        When there is no codec, or its weights are not available.
    ValueError
        For more codebooks than it has.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> save_codec(EnCodec(8000, (4, 4), n_codebooks=2, codebook_size=16, dimension=8, n_filters=2), folder)
    >>> load_codec(folder, n_codebooks=1).n_codebooks
    1
    """
    published = 8 if n_codebooks is None else n_codebooks
    if str(source) == PUBLISHED:
        return pretrained_encodec(published)
    if Path(source).is_dir() and any(Path(source).glob(f"{PUBLISHED}-*.th")):
        return pretrained_encodec(published, Path(source))
    settings = json.loads(fetch_pretrained(source, SETTINGS).read_text(encoding="utf-8"))
    codec = EnCodec(**settings)
    codec.load_state_dict(torch.load(fetch_pretrained(source, WEIGHTS), map_location="cpu", weights_only=True))
    if n_codebooks is not None:
        if not 1 <= n_codebooks <= codec.n_codebooks:
            raise ValueError(f"n_codebooks is {n_codebooks}, but the codec in '{source}' has 1 to {codec.n_codebooks}.")
        codec.n_codebooks = n_codebooks
    return codec.eval()

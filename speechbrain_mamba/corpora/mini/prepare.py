"""Manifests of the embedded corpus."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.corpora.mini.voices import SPLITS


def prepare_mini(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    splits: Mapping[str, Iterable[str]] | None = None,
    sample_rate: int = 16000,
    **options: Any,
) -> dict[str, Path]:
    """Build the embedded corpus, if it is not there, and write a manifest per split.

    Arguments
    ---------
    data_folder : str or Path
        The folder of the corpus.
    save_folder : str or Path
        Where the manifests go.
    splits : dict of str to list of str, optional
        The parts of the corpus that each manifest lists; by default ``train``, ``valid`` and ``test``, one each.
    sample_rate : int
        Samples per second.
    **options
        Further arguments of :func:`~speechbrain_mamba.corpora.mini.build.build_mini_corpus`.

    Returns
    -------
    dict of str to Path
        The manifests, as returned by :func:`~speechbrain_mamba.corpora.librispeech.prepare_librispeech`.

    Raises
    ------
    ImportError
        When espeak-ng is not installed.
    ValueError
        When the folder of the corpus holds something else, or an option is out of range.
    """
    corpus = build_mini_corpus(data_folder, sample_rate, **options)
    parts = {split: [split] for split in SPLITS} if splits is None else splits
    return prepare_librispeech(corpus, save_folder, parts, sample_rate)

"""Manifests of the embedded corpus."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.dataio.manifests import SPLITS


def prepare_mini(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    splits: Mapping[str, Iterable[str]] | None = None,
    sample_rate: int = 16000,
    **options: Any,
) -> dict[str, Path]:
    """Build the embedded corpus, if it is not there, and write a manifest per split.

    Options and errors are those of :func:`~speechbrain_mamba.corpora.mini.build.build_mini_corpus`, other arguments and
    results those of :func:`~speechbrain_mamba.corpora.librispeech.prepare_librispeech`.
    """
    corpus = build_mini_corpus(data_folder, sample_rate, **options)
    parts = {split: [split] for split in SPLITS} if splits is None else splits
    return prepare_librispeech(corpus, save_folder, parts, sample_rate)

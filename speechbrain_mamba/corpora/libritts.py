"""LibriTTS (Zen et al., arXiv 1904.02882): from its folders to manifests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from speechbrain_mamba.corpora.librispeech import prepare_parts, read_text

LIBRITTS = {
    "train": ["train-clean-100", "train-clean-360", "train-other-500"],
    "valid": ["dev-clean"],
    "test": ["test-clean"],
}
"""The usual manifests for 585 h, and the parts of the corpus that each lists."""

_SUFFIX = ".normalized.txt"


def _read_utterance(file: Path) -> list[tuple[str, str]]:
    return [(file.name.removesuffix(_SUFFIX), read_text(file))]


def prepare_libritts(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    splits: Mapping[str, Iterable[str]] = LIBRITTS,
    sample_rate: int = 24000,
) -> dict[str, Path]:
    """Write a manifest per split of LibriTTS, with normalized texts.

    Arguments, results and errors are those of :func:`~speechbrain_mamba.corpora.librispeech.prepare_librispeech`.
    """
    return prepare_parts(data_folder, save_folder, splits, sample_rate, _SUFFIX, _read_utterance)

"""Mixtures from the speech of several corpora: each gives some of its parts to training, validation or the test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechbrain_mamba.corpora import folder as any_folder
from speechbrain_mamba.corpora import fsdd, speech_to_intent
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.corpora.mixtures import MixtureSettings, prepare_mixtures
from speechbrain_mamba.dataio.audio_files import SkippedFiles
from speechbrain_mamba.dataio.manifests import SPLITS
from speechbrain_mamba.dataio.utterances import Utterance

CORPORA = ("folder", "fsdd", "mini", "speech_to_intent")
"""The corpora that can be joined."""

_KEYS = {"corpus", "data_folder", "splits"}


def _check_part(part: Mapping[str, Any]) -> None:
    if not isinstance(part, Mapping) or set(part) != _KEYS:
        raise ValueError(f"A joint corpus is {dict(part)!r}, but must have the keys {', '.join(sorted(_KEYS))}.")
    if part["corpus"] not in CORPORA:
        raise ValueError(f"A joint corpus is '{part['corpus']}', but must be one of {', '.join(CORPORA)}.")
    splits = part["splits"]
    unknown = set(splits).union(*splits.values()).difference(SPLITS) if isinstance(splits, Mapping) else True
    if unknown or not splits:
        raise ValueError(
            f"The splits of the joint corpus '{part['corpus']}' are {splits!r}, but must say which of its parts each "
            "split gets, such as {train: [train, test], valid: [valid]}."
        )


def _find_speech(
    part: Mapping[str, Any], speech_folder: Path, settings: MixtureSettings, skipped: SkippedFiles
) -> dict[str, list[Utterance]]:
    """The speech of all parts of one corpus."""
    corpus, data_folder = part["corpus"], part["data_folder"]
    if corpus == "fsdd":
        return fsdd.find_speech(data_folder, settings.sample_rate, skipped)
    if corpus == "speech_to_intent":
        return speech_to_intent.find_speech(data_folder, speech_folder, settings.sample_rate, skipped)
    return any_folder.find_speech(data_folder, settings.sample_rate, skipped, settings.num_spks, settings.seed)


def prepare_joint(
    corpora: Sequence[Mapping[str, Any]],
    save_folder: str | os.PathLike,
    mini_corpus: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Path]:
    """Make mixtures of the speakers of several corpora, with manifests.

    Arguments
    ---------
    corpora : sequence of mapping
        For each the ``corpus`` (``folder``, ``fsdd``, ``mini`` or ``speech_to_intent``), its ``data_folder``, and
        ``splits``: for ``train``, ``valid`` and ``test``, as far as it gives them speech, a list of its own parts with
        these names.
    save_folder : str or Path
        Where the manifests and mixtures go.
    mini_corpus : mapping, optional
        Settings of the corpus ``mini``, which is built if it is not there.
    **options
        Those of :class:`~speechbrain_mamba.corpora.mixtures.MixtureSettings`.

    Raises
    ------
    FileNotFoundError, ValueError
        When a corpus or a split is unknown, or the data or a setting are wrong.
    """
    for part in corpora:
        _check_part(part)
    settings, skipped, save_folder = MixtureSettings(**options), SkippedFiles(), Path(save_folder).absolute()
    corpora = [{**part, "data_folder": str(Path(part["data_folder"]).absolute())} for part in corpora]

    def find_splits() -> dict[str, list[Utterance]]:
        found: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
        for number, part in enumerate(corpora, start=1):
            if part["corpus"] == "mini":
                build_mini_corpus(part["data_folder"], **{"sample_rate": settings.sample_rate, **(mini_corpus or {})})
            speech = _find_speech(part, save_folder / f"speech-{number}", settings, skipped)
            for split, sources in part["splits"].items():
                # Speakers of two corpora may have the same name.
                found[split] += [
                    replace(utterance, speaker=f"{part['corpus']}-{utterance.speaker}")
                    for source in sources
                    for utterance in speech[source]
                ]
        return found

    source = {"joint": corpora, "mini_corpus": dict(mini_corpus or {})}
    return prepare_mixtures(save_folder, settings, source, find_splits, skipped)

"""The splits of a token folder, as a synthesis recipe's hyper-parameters ask for them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.dataio.codec_tokens import TokenFacts, file_crc32, read_tokens, token_sums
from speechbrain_mamba.dataio.curriculum import LengthCurriculumSampler
from speechbrain_mamba.dataio.prompted_batch import PromptedBatch
from speechbrain_mamba.dataio.shards import ShardDataset, UnusableExampleError
from speechbrain_mamba.dataio.voice_prompts import VoicePrompts, prompted_dataset
from speechbrain_mamba.text.phonemes import TextTokenizer

logger = logging.getLogger(__name__)

STAMP, INVENTORY = "prepared.json", "text.json"


def check_preparation(folder: str | os.PathLike, without: Collection[str] = ()) -> dict[str, Any]:
    """Check that the files of a token folder are those that one preparation wrote, to its end.

    Arguments
    ---------
    folder : str or Path
        The token folder. One without ``prepared.json``, whose tokens were not written by ``tokenize_speech``, passes.
    without : collection of str
        Splits that may be missing.

    Returns
    -------
    dict
        The settings of the preparation, among them the codec's ``weights``; empty without ``prepared.json``.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such folder, the preparation was not finished, a file is missing, or files of several
        preparations are mixed.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no token folder '{path}': prepare the tokens first.")
    if not (path / STAMP).is_file():
        return {}
    try:
        stamp = json.loads((path / STAMP).read_text(encoding="utf-8"))
        settings, done = dict(stamp["settings"]), bool(stamp.get("done"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path / STAMP}' is damaged ({error!r}): prepare the tokens again.") from error
    if not done:
        raise ValueError(f"The preparation of '{path}' was not finished: give its command again, which resumes.")
    for split, sums in stamp.get("sums", {}).items():  # earlier versions wrote none
        if split not in without and token_sums(path, split) != sums:
            raise ValueError(
                f"The tokens for {split} in '{path}' are of another preparation than {STAMP}: prepare them again."
            )
    inventory = stamp.get("inventory")
    if inventory is not None and (path / INVENTORY).is_file() and file_crc32(path / INVENTORY) != inventory:
        raise ValueError(
            f"'{path / INVENTORY}' was changed, or is of another preparation than {STAMP}: prepare the tokens again."
        )
    return settings


def batch_sampler(
    dataset: DynamicItemDataset, hparams: Mapping[str, Any], shuffle: bool = True, **options: Any
) -> LengthCurriculumSampler:
    """Make a sampler with ``max_batch_frames``, ``max_batch_ex``, ``num_buckets``, ``seed``, and options of its own.

    Without ``shuffle`` its batches are the same in each epoch, the longest utterances first.
    """
    return LengthCurriculumSampler(
        dataset,
        hparams["max_batch_frames"],
        hparams["num_buckets"],
        length_func=lambda item: item["frames"],
        shuffle=shuffle,
        batch_ordering="random" if shuffle else "descending",
        max_batch_ex=hparams["max_batch_ex"],
        seed=hparams["seed"],
        **options,
    )


def read_split(hparams: Mapping[str, Any], split: str) -> tuple[dict[str, dict], VoicePrompts, np.ndarray, TokenFacts]:
    """Read the utterances of a split that can be used. Others are left out, with a warning that names some.

    Arguments
    ---------
    hparams : mapping
        ``token_folder``, ``n_codebooks``, ``codebook_size``, ``prompts`` (``speaker``: each needs another utterance of
        its speaker; ``utterance``), ``prompt_seconds``, the longest prompt, and ``max_seconds``, the longest training
        utterance.
    split : str
        The split.

    Returns
    -------
    items, prompts, codes, facts
        As returned by :func:`~speechbrain_mamba.dataio.codec_tokens.read_tokens`, with prompts for the items.

    Raises
    ------
    FileNotFoundError, ValueError
        As there, and when the tokens are of another codec or no utterance can be used.
    """
    folder = Path(hparams["token_folder"])
    items, codes, facts = read_tokens(folder, split)
    for name in ("n_codebooks", "codebook_size"):
        if getattr(facts, name) != hparams[name]:
            raise ValueError(
                f"The tokens in '{folder}' have a {name} of {getattr(facts, name)}, but the hyper-parameters say "
                f"{hparams[name]}: set {name}, or prepare tokens of another codec."
            )
    longest = hparams["max_seconds"] * facts.frame_rate if split == "train" else float("inf")
    usable = {key: item for key, item in items.items() if 2 <= item["frames"] <= longest and item["phonemes"]}
    prompts = VoicePrompts(usable, hparams["prompt_seconds"] * facts.frame_rate)
    reasons = "are shorter than 2 frames, longer than max_seconds or have no text"
    if hparams["prompts"] == "speaker":
        usable = {key: item for key, item in usable.items() if key in prompts}
        reasons += ", or their speaker says nothing else within prompt_seconds"
    if len(usable) < len(items):
        out = [key for key in items if key not in usable]
        logger.warning(
            "%d of %d utterances for %s are left out, as they %s: %s%s",
            len(out), len(items), split, reasons, ", ".join(out[:5]), ", ..." if len(out) > 5 else ".",
        )  # fmt: skip
    if not usable:
        raise ValueError(f"None of the {len(items)} utterances for {split} in '{folder}' can be used: they {reasons}.")
    return usable, prompts, codes, facts


def shard_dataset(hparams: Mapping[str, Any], frame_rate: float, seeding: Callable[..., Any]) -> ShardDataset:
    """Make the training data of ``train_shards``, tar files that
    :func:`~speechbrain_mamba.dataio.shard_writer.write_token_shards` writes: batches of ``max_batch_frames``, chosen
    from ``shard_buffer`` utterances, without prompts.

    Utterances that :func:`read_split` would leave out are left out. A ValueError for settings that need more than a
    stream: prompts that are other utterances, or a curriculum.
    """
    for name, needed in (("prompts", "utterance"), ("curriculum_epochs", 0)):
        if hparams[name] != needed:
            raise ValueError(
                f"{name} is {hparams[name]!r}, but must be {needed!r} with train_shards, in which an utterance is not "
                "found again: change it, or train on the token folder."
            )
    longest = hparams["max_seconds"] * frame_rate
    return ShardDataset(
        hparams["train_shards"],
        partial(_decode, hparams["n_codebooks"], hparams["codebook_size"], longest),
        hparams["max_batch_frames"],
        max_batch_ex=hparams["max_batch_ex"],
        buffer_size=hparams["shard_buffer"],
        seed=hparams["seed"],
        collate=PromptedBatch.collate,
        seeding=seeding,
        length_key="frames",
    )


def _decode(
    n_codebooks: int,
    codebook_size: int,
    longest: float,
    facts: dict[str, Any],
    read: Callable[[], Tensor],
) -> dict[str, Any]:
    if not 2 <= facts["frames"] <= longest or not facts.get("phonemes"):
        raise UnusableExampleError("fewer than 2 frames, more than max_seconds, or no text")
    codes = read()
    if codes.shape != (facts["frames"], n_codebooks) or int(codes.max()) >= codebook_size:
        raise ValueError(
            f"The codes of '{facts['id']}' in train_shards have shape {tuple(codes.shape)} and go up to "
            f"{int(codes.max())}, but n_codebooks is {n_codebooks} and codebook_size {codebook_size}: use shards of "
            "the codec of token_folder."
        )
    return {
        "id": facts["id"],
        "phonemes": torch.LongTensor(facts["phonemes"]),
        "codes": codes,
        "prompt_phonemes": torch.zeros(0, dtype=torch.long),
        "prompt_codes": torch.zeros(0, n_codebooks, dtype=torch.long),
    }


def load_tokenizer(hparams: Mapping[str, Any]) -> TextTokenizer:
    """Load ``text.json`` of ``token_folder``; a ValueError if it has more than ``n_phonemes`` symbols."""
    tokenizer = TextTokenizer.load(Path(hparams["token_folder"]) / INVENTORY)
    if len(tokenizer) > hparams["n_phonemes"]:
        raise ValueError(
            f"text.json has {len(tokenizer)} symbols: set n_phonemes, which is {hparams['n_phonemes']}, to more."
        )
    return tokenizer


def make_dataset(
    hparams: Mapping[str, Any], split: str, tokenizer: TextTokenizer
) -> tuple[DynamicItemDataset, VoicePrompts, float]:
    """Make the :func:`~speechbrain_mamba.dataio.voice_prompts.prompted_dataset` of what :func:`read_split` finds, with
    prompts that are fixed except in ``train``. Returned with the prompts and the frames per second."""
    items, prompts, codes, facts = read_split(hparams, split)
    for key, item in prompts.items.items():
        if not 0 <= min(item["phonemes"]) <= max(item["phonemes"]) < len(tokenizer):
            raise ValueError(
                f"The phonemes of '{key}' for {split} run from {min(item['phonemes'])} to {max(item['phonemes'])}, but "
                f"{INVENTORY} has those from 0 to {len(tokenizer) - 1}: table and inventory are of different "
                "preparations, prepare the tokens again."
            )
    of_speaker = prompts if hparams["prompts"] == "speaker" else None
    # prompts come from the whole split, utterances are those that have one
    dataset = prompted_dataset(prompts.items, codes, tokenizer, of_speaker, fixed=split != "train")
    return dataset.filtered_sorted(select_n=None, key_test={"id": items.__contains__}), prompts, facts.frame_rate

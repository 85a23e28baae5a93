"""Turn transcribed speech into the tokens of a codec language model: codes and phonemes, computed once."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio.functional
from torch import nn
from tqdm import tqdm

from speechbrain_mamba.codecs.encodec import EnCodec
from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info, read_audio
from speechbrain_mamba.dataio.codec_tokens import TokenFacts, write_tokens
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.stamps import Stamp

logger = logging.getLogger(__name__)

SHARD = 500
"""Utterances that are encoded and kept together. A killed preparation resumes from the last shard."""
_BATCH_SECONDS = 40
_STAMP, _PARTS = "prepared.json", ".parts"


def _read(path: str, rate: int) -> torch.Tensor:
    own = audio_info(path).sample_rate
    wav = read_audio(path, own)
    return wav if own == rate else torchaudio.functional.resample(wav, own, rate)


def _batches(names: list[str], items: dict[str, dict]) -> Iterator[list[str]]:
    """Names by duration, in batches limited in their seconds with padding."""
    batch: list[str] = []
    for name in sorted(names, key=lambda name: items[name]["duration"]):
        if batch and (len(batch) + 1) * items[name]["duration"] > _BATCH_SECONDS:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def _encode(names: list[str], items: dict[str, dict], codec: EnCodec, device: str, progress: tqdm) -> dict[str, Any]:
    """The codes of some utterances; those that cannot be read are named and left out."""
    codes = {}
    for batch in _batches(names, items):
        wavs = {}
        for name in batch:
            try:
                wavs[name] = _read(items[name]["wav"], codec.sample_rate)
            except UnreadableAudioError as error:
                logger.warning("%s is left out: %s", name, error)
        if wavs:
            lengths = torch.tensor([len(wav) for wav in wavs.values()])
            padded = torch.nn.utils.rnn.pad_sequence(list(wavs.values()), batch_first=True)
            encoded, frames = codec.encode(padded.to(device), lengths.to(device))
            for name, code, count in zip(wavs, encoded.cpu().numpy(), frames.tolist()):
                codes[name] = code[:count].astype(np.uint16)
        progress.update(len(batch))
    return codes


def _encode_split(
    items: dict[str, dict], parts: Path, codec: EnCodec, device: str, split: str
) -> Iterator[tuple[str, np.ndarray]]:
    """The codes of a split, by shards that are kept until the split is written."""
    names = list(items)
    with tqdm(total=len(names), desc=f"Encoding {split}", unit="utterance") as progress:
        for first in range(0, len(names), SHARD):
            path = parts / f"{split}-{first:08d}.npz"
            if not path.is_file():
                codes = _encode(names[first : first + SHARD], items, codec, device, progress)
                with atomic_path(path) as temporary:
                    np.savez(temporary, **codes)
            else:
                progress.update(len(names[first : first + SHARD]))
            with np.load(path) as shard:
                yield from ((name, shard[name]) for name in names[first : first + SHARD] if name in shard)


def _tokenize_texts(items: dict[str, dict], tokenizer: TextTokenizer, split: str) -> dict[str, list[int]]:
    """The phonemes of a split; utterances whose text cannot be spoken are named and left out."""
    phonemes, reasons = {}, []
    for name, item in items.items():
        try:
            phonemes[name] = tokenizer.encode(item["wrd"], item.get("language") or None)
        except ValueError as error:
            reasons.append(f"{name}: {error}")
    if reasons:
        logger.warning("%d of %d texts for %s are left out. %s", len(reasons), len(items), split, " ".join(reasons[:5]))
    return phonemes


def _checksum(codec: nn.Module) -> str:
    """A checksum of a codec's weights."""
    checksum = hashlib.sha256()
    for name, value in codec.state_dict().items():
        checksum.update(name.encode())
        checksum.update(value.cpu().contiguous().numpy().tobytes())
    return checksum.hexdigest()


def tokenize_speech(
    manifests: Mapping[str, str | os.PathLike],
    folder: str | os.PathLike,
    codec: EnCodec,
    codec_name: str,
    kind: str = "ipa",
    language: str = "en-us",
    data_root: str | os.PathLike | None = None,
    device: str = "cpu",
) -> dict[str, int]:
    """Turn the splits of a corpus into tokens. A killed run resumes, and a finished one is not repeated.

    Arguments
    ---------
    manifests : dict of str to str or Path
        For ``train`` and other splits a manifest that
        :func:`~speechbrain_mamba.dataio.manifests.read_manifest` reads; it may have columns ``spk_id`` and
        ``language``.
    folder : str or Path
        Gets the tokens, written by :func:`~speechbrain_mamba.dataio.codec_tokens.write_tokens`, and the inventory of
        the training texts, ``text.json``.
    codec : EnCodec
        A codec, for instance from :func:`~speechbrain_mamba.codecs.load_codec`. Speech at another rate is resampled.
    codec_name : str
        Its folder or id.
    kind, language
        Arguments of :class:`~speechbrain_mamba.text.phonemes.TextTokenizer`.
    data_root : str or Path, optional
        What ``$data_root`` stands for in the manifests' paths.
    device : str
        Where the codec runs.

    Returns
    -------
    dict of str to int
        Utterances in each split.

    Raises
    ------
    FileNotFoundError, ValueError
        For manifests or audio files that are missing or wrong, or an unknown language.
    """
    parts, inventory = Path(folder) / _PARTS, Path(folder) / "text.json"
    rates = {name: getattr(codec, name) for name in ("sample_rate", "frame_rate", "n_codebooks", "codebook_size")}
    facts = TokenFacts(codec=str(codec_name), **rates)
    sums = {split: hashlib.sha256(Path(path).read_bytes()).hexdigest() for split, path in manifests.items()}
    settings = {**asdict(facts), "weights": _checksum(codec), "kind": kind, "language": language, "manifests": sums}
    settings["data_root"] = None if data_root is None else str(Path(data_root).resolve())
    stamp = Stamp(Path(folder) / _STAMP, settings)
    if stamp.is_done([inventory, *(Path(folder) / f"{split}.csv" for split in manifests)]):
        return stamp.facts()["counts"]
    if not stamp.is_begun():
        shutil.rmtree(parts, ignore_errors=True)
    stamp.begin()

    splits = {split: read_manifest(path, data_root) for split, path in manifests.items()}
    texts = [(item["wrd"], item.get("language") or language) for item in splits["train"].values()]
    tokenizer = TextTokenizer.train(texts, kind, language)
    tokenizer.save(inventory)
    codec.to(device).eval()
    counts: dict[str, int] = {}
    for split, items in splits.items():
        phonemes = _tokenize_texts(items, tokenizer, split)
        usable = {name: item for name, item in items.items() if name in phonemes}
        utterances = (
            {**usable[name], "ID": name, "phonemes": phonemes[name], "codes": codes}
            for name, codes in _encode_split(usable, parts, codec, device, split)
        )
        counts[split] = write_tokens(folder, split, utterances, facts)
    stamp.finish(counts=counts)
    shutil.rmtree(parts, ignore_errors=True)
    return counts

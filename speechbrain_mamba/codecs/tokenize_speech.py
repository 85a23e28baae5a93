"""Turn transcribed speech into the tokens of a codec language model: codes and phonemes, computed once."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from torch import nn

from speechbrain_mamba.codecs.encodec import EnCodec
from speechbrain_mamba.codecs.token_shards import TokenShards
from speechbrain_mamba.dataio.codec_tokens import TokenFacts, file_crc32, read_tokens, token_sums, write_tokens
from speechbrain_mamba.dataio.listed_audio import check_listed_audio
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.dataio.token_splits import INVENTORY, STAMP, check_preparation
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.stamps import Stamp

logger = logging.getLogger(__name__)


def _utterances(shards: TokenShards, split: str, tokenizer: TextTokenizer) -> Iterator[dict]:
    """The utterances of a split with codes and phonemes; those whose text cannot be spoken are named and left out."""
    items, reasons = shards.splits[split], []
    for name, codes in shards.codes(split):
        item = items[name]
        try:
            phonemes = tokenizer.encode(item["wrd"], item.get("language") or None)
        except ValueError as error:
            reasons.append(f"{name}: {error}")
        else:
            yield {**item, "ID": name, "phonemes": phonemes, "codes": codes}
    if reasons:
        logger.warning("%d of %d texts for %s are left out. %s", len(reasons), len(items), split, " ".join(reasons[:5]))


def codec_checksum(codec: nn.Module) -> str:
    """A checksum of a codec's weights, in hexadecimal digits."""
    checksum = hashlib.sha256()
    for name, value in codec.state_dict().items():
        checksum.update(name.encode())
        checksum.update(value.cpu().contiguous().numpy().tobytes())
    return checksum.hexdigest()


def _are_intact(folder: str | os.PathLike, splits: Iterable[str]) -> bool:
    """Whether splits can be read; a warning says what is damaged."""
    try:
        check_preparation(folder)
        for split in splits:
            read_tokens(folder, split)
    except FileNotFoundError:
        return False
    except ValueError as error:
        logger.warning("%s", error)
        return False
    return True


def tokenize_speech(
    manifests: Mapping[str, str | os.PathLike],
    folder: str | os.PathLike,
    codec: EnCodec,
    codec_name: str,
    kind: str = "ipa",
    language: str = "en-us",
    data_root: str | os.PathLike | None = None,
    device: str = "cpu",
    part: tuple[int, int] | None = None,
    merge: bool = False,
) -> dict[str, int]:
    """Turn the splits of a corpus into tokens, and count the utterances of each. A killed run resumes, and a finished
    one is not repeated.

    Several machines or GPUs can share the work: each encodes a ``part`` into the same folder, and then one of them
    merges the parts. The files are those that one machine would have written.

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
    part : tuple of int, optional
        Encode only a part: (2, 8) is the second of eight. What is encoded is kept for the merge.
    merge : bool
        Encode nothing: all parts have to be there. Without it, and without ``part``, what is missing is encoded.

    Returns
    -------
    dict of str to int
        The utterances of each split; of a part, the number of its ``shards``.

    Raises
    ------
    FileNotFoundError, ValueError
        For manifests or audio files that are missing or wrong, an unknown language, a part that does not exist, and
        parts that are missing in a merge.
    """
    if part is not None and (merge or not 1 <= part[0] <= part[1]):
        raise ValueError(f"Part {part[0]} of {part[1]} cannot be encoded: give 1/N to N/N, and no merge with it.")
    inventory = Path(folder) / INVENTORY
    rates = {name: getattr(codec, name) for name in ("sample_rate", "frame_rate", "n_codebooks", "codebook_size")}
    facts = TokenFacts(codec=str(codec_name), **rates)
    sums = {split: hashlib.sha256(Path(path).read_bytes()).hexdigest() for split, path in manifests.items()}
    settings = {**asdict(facts), "weights": codec_checksum(codec), "kind": kind, "language": language}
    settings |= {"manifests": sums, "data_root": None if data_root is None else str(Path(data_root).resolve())}
    stamp = Stamp(Path(folder) / STAMP, settings)
    finished = stamp.is_begun() and "counts" in stamp.facts()
    if finished and _are_intact(folder, manifests) and stamp.is_done([inventory]):
        return stamp.facts()["counts"]

    check_listed_audio(manifests.values(), None, data_root, skip_unusable=True)  # not after hours of encoding
    splits = {split: read_manifest(path, data_root) for split, path in manifests.items()}
    shards = TokenShards(folder, settings, splits, codec.to(device).eval(), device)
    if part is not None:
        return {"shards": shards.encode_part(*part)}
    if merge:
        shards.check_complete()
    texts = [(item["wrd"], item.get("language") or language) for item in splits["train"].values()]
    tokenizer = TextTokenizer.train(texts, kind, language)
    stamp.begin()
    tokenizer.save(inventory)
    counts = {split: write_tokens(folder, split, _utterances(shards, split, tokenizer), facts) for split in splits}
    written = {split: token_sums(folder, split) for split in splits}
    stamp.finish(counts=counts, sums=written, inventory=file_crc32(inventory))
    shards.remove()
    return counts

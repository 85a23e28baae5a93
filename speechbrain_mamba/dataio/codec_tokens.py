"""Speech as codec tokens on disk: per split a file of tokens, a table of utterances, and a file of facts."""

from __future__ import annotations

import csv
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.utils.files import atomic_path, write_csv

COLUMNS = ["ID", "duration", "spk_id", "language", "wrd", "wav", "phonemes", "first_frame", "frames"]


class Codec(Protocol):
    """A codec, such as :class:`~speechbrain_mamba.codecs.EnCodec`, which describes the arguments."""

    sample_rate: int
    frame_rate: float
    n_codebooks: int
    codebook_size: int

    def encode(self, wavs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn waveforms into tokens."""

    def decode(self, codes: Tensor, code_lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn tokens into waveforms."""


@dataclass(frozen=True)
class TokenFacts:
    """The format of codec tokens: the codec that made them, its sample rate in Hz and frames per second, the number of
    tokens per frame, and the size of a codebook, which each token is below."""

    codec: str
    sample_rate: int
    frame_rate: float
    n_codebooks: int
    codebook_size: int

    def check(self, codec: Codec) -> None:
        """Raise a ValueError unless a codec has the same rates and codebooks."""
        for name in ("sample_rate", "frame_rate", "n_codebooks", "codebook_size"):
            wanted, has = getattr(self, name), getattr(codec, name)
            if wanted != has:
                raise ValueError(
                    f"The tokens were made by '{self.codec}' with a {name} of {wanted}, but the codec given has {has}: "
                    "use the codec of the tokens, or prepare them again."
                )


def _paths(folder: str | os.PathLike, split: str) -> tuple[Path, Path, Path]:
    stem = str(Path(folder) / split)
    return Path(f"{stem}.codes.bin"), Path(f"{stem}.csv"), Path(f"{stem}.json")


def write_tokens(folder: str | os.PathLike, split: str, utterances: Iterable[dict], facts: TokenFacts) -> int:
    """Write the tokens of a split, 16 bits each. The table is written last, so that a split is complete or unreadable.

    Arguments
    ---------
    folder, split : str
        Where the files go, and their name.
    utterances : iterable of dict
        ``ID``, ``spk_id``, ``wrd`` (the text), ``phonemes`` (list of int), ``codes`` (integers (frames, codebooks)),
        and optionally ``language``, ``wav`` and ``duration`` in seconds.
    facts : TokenFacts
        The format of the tokens.

    Returns
    -------
    int
        The number of utterances.

    Raises
    ------
    ValueError
        For codes that do not have the format of the facts.
    """
    codes_path, table_path, facts_path = _paths(folder, split)
    rows, first, checksum = [], 0, 0
    with atomic_path(codes_path) as temporary, open(temporary, "wb") as file:
        for utterance in utterances:
            codes = np.asarray(utterance["codes"])
            wrong = codes.ndim != 2 or codes.shape[1] != facts.n_codebooks
            if wrong or (codes.size and (codes.min() < 0 or codes.max() >= facts.codebook_size)):
                raise ValueError(
                    f"The codes of '{utterance['ID']}' have shape {codes.shape}, but must be (frames, "
                    f"{facts.n_codebooks}) and from 0 to {facts.codebook_size - 1}."
                )
            data = codes.astype("<u2").tobytes()
            file.write(data)
            checksum = zlib.crc32(data, checksum)
            row = {"duration": len(codes) / facts.frame_rate, **utterance, "first_frame": first, "frames": len(codes)}
            row["phonemes"] = " ".join(map(str, utterance["phonemes"]))
            rows.append({name: row.get(name, "") for name in COLUMNS})
            first += len(codes)
        table_path.unlink(missing_ok=True)  # an old table would go with the new codes if the run were killed now
    with atomic_path(facts_path) as temporary:
        temporary.write_text(json.dumps({**asdict(facts), "frames": first, "crc32": checksum}, indent=1), "utf-8")
    write_csv(table_path, rows, COLUMNS)
    return len(rows)


def read_tokens(folder: str | os.PathLike, split: str) -> tuple[dict[str, dict], np.ndarray, TokenFacts]:
    """Open the tokens of a split.

    Arguments
    ---------
    folder, split : str
        Where the files are, and their name.

    Returns
    -------
    items : dict of str to dict
        Utterances by id, with numbers as numbers and ``phonemes`` as a list of int.
    codes, facts : numpy.ndarray, TokenFacts
        Tokens of all (frames, codebooks), mapped from the file, and their format.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file is missing, or that of the tokens was truncated or changed.
    """
    codes_path, table_path, facts_path = _paths(folder, split)
    for path in (codes_path, table_path, facts_path):
        if not path.is_file():
            raise FileNotFoundError(f"There is no '{path}': prepare the data first, or again.")
    written = json.loads(facts_path.read_text(encoding="utf-8"))
    frames, checksum = written.pop("frames"), written.pop("crc32")
    facts = TokenFacts(**written)
    size, wanted = codes_path.stat().st_size, frames * facts.n_codebooks * 2
    if size != wanted:
        raise ValueError(
            f"'{codes_path}' has {size} bytes instead of {wanted}, it was cut off: prepare the data again."
        )
    shape = (frames, facts.n_codebooks)
    codes = np.memmap(codes_path, "<u2", "r", shape=shape) if frames else np.zeros(shape, "<u2")
    if zlib.crc32(codes.data) != checksum:
        raise ValueError(f"'{codes_path}' was changed after writing, its checksum differs: prepare them again.")
    with open(table_path, newline="", encoding="utf-8") as table:
        items = {row.pop("ID"): row for row in csv.DictReader(table)}
    for item in items.values():
        item["duration"] = float(item["duration"])
        item |= {name: int(item[name]) for name in ("first_frame", "frames")}
        item["phonemes"] = [int(phoneme) for phoneme in item["phonemes"].split()]
    return items, codes, facts


def slice_codes(codes: np.ndarray, first_frame: int, frames: int) -> Tensor:
    """Read some frames of mapped codes (frames, codebooks) as int64."""
    return torch.from_numpy(codes[first_frame : first_frame + frames].astype(np.int64))


def token_dataset(items: dict[str, dict], codes: np.ndarray) -> DynamicItemDataset:
    """The dataset of the items, or any part of them, and the codes that :func:`read_tokens` returns.

    Its keys are ``id``, ``phonemes`` (integers (phonemes,)) and ``codes`` (integers (frames, codebooks)); the dataset's
    ``data`` has the items' ``frames`` for samplers.

    Example
    -------
    >>> facts = TokenFacts("a codec", sample_rate=8000, frame_rate=50.0, n_codebooks=2, codebook_size=16)
    >>> utterance = {"ID": "a", "spk_id": "s", "wrd": "one", "phonemes": [3, 1], "codes": [[5, 1], [7, 0], [2, 2]]}
    >>> folder = getfixture("tmp_path")
    >>> write_tokens(folder, "train", [utterance], facts)
    1
    >>> items, codes, _ = read_tokens(folder, "train")
    >>> token_dataset(items, codes)[0]["codes"].T
    tensor([[5, 7, 2],
            [1, 0, 2]])
    """
    dataset = DynamicItemDataset(items)
    dataset.add_dynamic_item(partial(slice_codes, codes), takes=["first_frame", "frames"], provides="codes")
    dataset.add_dynamic_item(torch.LongTensor, takes="phonemes", provides="phoneme_ids")
    dataset.set_output_keys({"id": "id", "phonemes": "phoneme_ids", "codes": "codes"})
    return dataset

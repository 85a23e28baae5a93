"""Speech as codec tokens on disk: per split a file of tokens, a table of utterances, and a file of facts."""

from __future__ import annotations

import csv
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.utils.files import atomic_path, write_json

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
    first = checksum = rows = 0
    with atomic_path(table_path) as table:
        with (
            atomic_path(codes_path) as temporary,
            open(temporary, "wb") as file,
            open(table, "w", newline="", encoding="utf-8") as text,
        ):
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
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
                row = {"duration": len(codes) / facts.frame_rate, **utterance}
                row |= {"first_frame": first, "frames": len(codes)}
                row["phonemes"] = " ".join(map(str, utterance["phonemes"]))
                writer.writerow({name: row.get(name, "") for name in COLUMNS})
                first, rows = first + len(codes), rows + 1
            table_path.unlink(missing_ok=True)  # an old table would go with the new codes if the run were killed now
        sums = {"frames": first, "crc32": checksum, "rows": rows, "table_crc32": file_crc32(table)}
        write_json(facts_path, asdict(facts) | sums)
    return rows


def file_crc32(path: str | os.PathLike) -> int:
    """The CRC-32 of a file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "digits"
    >>> _ = path.write_bytes(b"123456789")
    >>> hex(file_crc32(path))
    '0xcbf43926'
    """
    checksum = 0
    with open(path, "rb") as file:
        while data := file.read(2**20):
            checksum = zlib.crc32(data, checksum)
    return checksum


def token_sums(folder: str | os.PathLike, split: str) -> dict[str, Any]:
    """Checksums of a split that was written: of its ``codes`` and its ``table``, None if an earlier version wrote it.

    Errors are those of :func:`read_tokens`.
    """
    written = _read_facts(_paths(folder, split)[2])[1]
    return {"codes": written["crc32"], "table": written.get("table_crc32")}


def _read_facts(path: Path) -> tuple[TokenFacts, dict[str, Any]]:
    """The format of the tokens, and the numbers beside it."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no '{path}': prepare the data first, or again.")
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        facts = TokenFacts(**{field.name: written[field.name] for field in fields(TokenFacts)})
        return facts, {"frames": int(written["frames"]), "crc32": int(written["crc32"])} | written
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' does not describe tokens ({error!r}): prepare the data again.") from error


def _read_table(path: Path, frames: int) -> dict[str, dict]:
    """The rows of a table by id, which have to list some frames one after the other."""
    items: dict[str, dict] = {}
    first = 0
    with open(path, newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            try:
                name = row["ID"]
                item: dict[str, Any] = {column: row[column] for column in COLUMNS[1:]}
                item |= {"duration": float(row["duration"]), "phonemes": [int(one) for one in row["phonemes"].split()]}
                item |= {column: int(row[column]) for column in ("first_frame", "frames")}
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"'{path}' has a row that is not of an utterance ({error!r}): prepare the data again."
                ) from error
            if item["first_frame"] != first or item["frames"] < 0:
                raise ValueError(
                    f"'{path}' has '{name}' at frame {item['first_frame']}, but the rows before it end at {first}: "
                    "prepare the data again."
                )
            items[name] = item
            first += item["frames"]
    if first != frames:
        raise ValueError(
            f"'{path}' lists {first} frames, but {frames} were written: table and codes are of different preparations, "
            "prepare the data again."
        )
    return items


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
        When a file is missing, was truncated or changed, or is of another preparation than the others.
    """
    codes_path, table_path, facts_path = _paths(folder, split)
    for path in (codes_path, table_path, facts_path):
        if not path.is_file():
            raise FileNotFoundError(f"There is no '{path}': prepare the data first, or again.")
    facts, written = _read_facts(facts_path)
    frames = written["frames"]
    size, wanted = codes_path.stat().st_size, frames * facts.n_codebooks * 2
    if size != wanted:
        raise ValueError(
            f"'{codes_path}' has {size} bytes instead of {wanted}, it was cut off or is of another preparation: "
            "prepare the data again."
        )
    shape = (frames, facts.n_codebooks)
    codes = np.memmap(codes_path, "<u2", "r", shape=shape) if frames else np.zeros(shape, "<u2")
    if zlib.crc32(codes.data) != written["crc32"]:
        raise ValueError(f"'{codes_path}' was changed after writing, its checksum differs: prepare the data again.")
    # folders of earlier versions have no checksum of the table
    if "table_crc32" in written and file_crc32(table_path) != written["table_crc32"]:
        raise ValueError(
            f"'{table_path}' was cut off or changed after writing, or is of another preparation, its checksum differs: "
            "prepare the data again."
        )
    items = _read_table(table_path, frames)
    if len(items) != written.get("rows", len(items)):
        raise ValueError(f"'{table_path}' has ids that occur twice: give each utterance one of its own.")
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

"""Write the utterances of a manifest as WebDataset shards: tar files that are read from the first byte to the last."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from speechbrain_mamba.dataio.audio import UnreadableAudioError, check_audio
from speechbrain_mamba.utils.files import atomic_path, write_json

logger = logging.getLogger(__name__)

SUMMARY = "shards.json"

Example = tuple[dict[str, Any], str, bytes]
"""What the JSON file of an example says, the suffix of its other file, and what that holds."""


def write_shards(
    items: Mapping[str, Mapping[str, Any]],
    folder: str | os.PathLike,
    sample_rate: int,
    per_shard: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Write utterances as shards in random order, with their files as they are.

    Each utterance is two members of a tar file, ``NUMBER.json`` with its id and columns and ``NUMBER.wav`` or
    ``NUMBER.flac``. The order is random, since a training shuffles shards, and within a shard only as far as its buffer
    goes.

    Arguments
    ---------
    items : mapping of str to mapping
        Utterances by id, as returned by :func:`~speechbrain_mamba.dataio.manifests.read_manifest`.
    folder : str or Path
        Where ``shard-000000.tar``, ... and ``shards.json`` go, which is written last.
    sample_rate : int
        The rate in Hz that all files must have.
    per_shard : int
        Utterances in a shard: with 10 s of FLAC each, 2000 make 500 MB.
    seed : int
        Decides on the order.

    Returns
    -------
    dict
        What ``shards.json`` says: the numbers of ``shards`` and of ``examples``, their ``seconds``, and ``skipped``.

    Raises
    ------
    ValueError
        When no utterance can be used, or a file has another rate or is not mono. Files that cannot be read are left
        out, with a warning that names each.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.zeros(8000), sample_rate=8000)
    >>> items = {"a": {"wav": folder / "a.wav", "duration": 1.0, "wrd": "ONE"}}
    >>> write_shards(items, folder / "shards", sample_rate=8000)
    {'shards': 1, 'examples': 1, 'seconds': 1.0, 'skipped': 0}
    """

    def read(name: str) -> Example | None:
        item = items[name]
        path = Path(item["wav"])
        try:
            seconds = check_audio(path, sample_rate).samples / sample_rate
        except UnreadableAudioError as error:
            logger.warning("Skipped: %s", error)
            return None
        columns = {column: value for column, value in item.items() if column != "wav"}
        return {**columns, "duration": seconds}, path.suffix.lower(), path.read_bytes()

    return _write(list(items), read, Path(folder), per_shard, seed)


def write_token_shards(
    items: Mapping[str, Mapping[str, Any]],
    codes: np.ndarray,
    folder: str | os.PathLike,
    per_shard: int = 20000,
    seed: int = 0,
) -> dict[str, Any]:
    """Write codec tokens as shards: ``NUMBER.json`` with id and columns, ``NUMBER.npy`` with codes (frames, codebooks).

    Arguments
    ---------
    items, codes
        As returned by :func:`~speechbrain_mamba.dataio.codec_tokens.read_tokens`.
    folder, per_shard, seed
        As for :func:`write_shards`, whose results are returned.
    """

    def read(name: str) -> Example:
        item, file = items[name], io.BytesIO()
        np.save(file, codes[item["first_frame"] : item["first_frame"] + item["frames"]])
        return {key: value for key, value in item.items() if key not in ("first_frame", "wav")}, ".npy", file.getvalue()

    return _write(list(items), read, Path(folder), per_shard, seed)


def _write(
    names: list[str], read: Callable[[str], Example | None], folder: Path, per_shard: int, seed: int
) -> dict[str, Any]:
    if per_shard < 1:
        raise ValueError(f"per_shard is {per_shard}, but must be at least 1 utterance.")
    random.Random(seed).shuffle(names)
    totals: dict[str, Any] = {"shards": 0, "examples": 0, "seconds": 0.0, "skipped": 0}
    with tqdm(total=len(names), desc=f"Writing {folder.name}", unit="file", dynamic_ncols=True) as bar:
        for number, first in enumerate(range(0, len(names), per_shard)):
            path = folder / f"shard-{number:06d}.tar"
            with atomic_path(path) as temporary, tarfile.open(temporary, "w") as tar:
                for place, name in enumerate(names[first : first + per_shard], first):
                    bar.update()
                    example = read(name)
                    if example is None:
                        totals["skipped"] += 1
                        continue
                    facts, suffix, data = example
                    _add(tar, f"{place:09d}.json", json.dumps({"id": name, **facts}).encode("utf-8"))
                    _add(tar, f"{place:09d}{suffix}", data)
                    totals["examples"] += 1
                    totals["seconds"] += facts["duration"]
            totals["shards"] += 1
    if not totals["examples"]:
        raise ValueError(f"None of the {len(names)} utterances can be used: no shard in '{folder}' has one.")
    write_json(folder / SUMMARY, totals)
    return totals


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))

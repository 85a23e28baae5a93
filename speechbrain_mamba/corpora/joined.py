"""Utterances of one speaker joined to longer ones: recognition of recordings that are longer than the training's."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from speechbrain_mamba.dataio.audio import audio_info, read_audio, write_audio
from speechbrain_mamba.dataio.manifests import find_manifests, read_manifest, write_manifest
from speechbrain_mamba.utils.files import check_writable

logger = logging.getLogger(__name__)

COLUMNS = ("duration", "wav", "wrd", "spk_id")


def prepare_joined(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    train: Sequence[int] = (1, 2),
    test: Sequence[int] = (1, 2, 4),
    train_utterances: int | None = None,
    test_utterances: int | None = None,
    seed: int = 0,
) -> dict[str, Path]:
    """Join utterances, and write manifests for ``corpus: manifest`` of the recognition recipe.

    Arguments
    ---------
    data_folder : str or Path
        A folder of ``train.csv``, ``valid.csv`` and ``test.csv`` with the columns ``ID,duration,wav,wrd,spk_id``.
    save_folder : str or Path
        Gets ``train.csv`` and ``valid.csv``, for each number N in ``test`` a test set ``test_N.csv``, and the joined
        recordings as FLAC files. What stays single is listed where it is.
    train, test : sequence of int
        How many utterances are joined to one in the training, and in the test sets; the validation is like the
        training.
    train_utterances, test_utterances : int, optional
        Utterances of each number, spread over all speakers; by default all. Each test set has the same utterances, as
        far as they can be divided.
    seed : int
        What the groups are drawn by.

    Returns
    -------
    dict of str to Path
        The manifests.

    Raises
    ------
    FileNotFoundError, ValueError
        When a manifest is missing or wrong, or no speaker has enough utterances.

    Example
    -------
    >>> from speechbrain_mamba.dataio.manifests import SPLITS
    >>> folder = getfixture("tmp_path")
    >>> for name in ("a", "b", "c"):
    ...     write_audio(folder / f"{name}.wav", torch.zeros(4000), 8000)
    >>> for split in SPLITS:
    ...     rows = [{"ID": name, "duration": 0.5, "wav": folder / f"{name}.wav", "wrd": name} for name in "abc"]
    ...     write_manifest(folder / f"{split}.csv", [{**row, "spk_id": "s"} for row in rows])
    >>> found = prepare_joined(folder, folder / "joined", test=[1, 3])
    >>> [(name, len(read_manifest(path))) for name, path in found.items()]
    [('train', 4), ('valid', 4), ('test_1', 3), ('test_3', 1)]
    >>> {item["duration"] for item in read_manifest(found["test_3"]).values()}
    {1.5}
    """
    for name, sizes in (("train", train), ("test", test)):
        if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes) or len(set(sizes)) < len(sizes):
            raise ValueError(f"{name} is {list(sizes)}, but must be different numbers of utterances, at least 1.")
    save_folder, found = Path(save_folder), dict[str, Path]()
    check_writable(save_folder)
    for split, path in find_manifests(data_folder).items():
        items = read_manifest(path, columns=COLUMNS)
        count = train_utterances if split == "train" else test_utterances
        parts = {size: choose_groups(items, size, count, seed) for size in (test if split == "test" else train)}
        for size, groups in parts.items():
            if not groups:
                raise ValueError(f"No speaker of '{path}' has {size} utterances to join: take fewer.")
        named = {f"test_{size}": [groups] for size, groups in parts.items()}
        for name, lists in named.items() if split == "test" else [(split, list(parts.values()))]:
            groups = [group for part in lists for group in part]
            rows = [
                _join(items, group, save_folder / "recordings" / split)
                for group in tqdm(groups, desc=f"Joining {name}", unit="recording", dynamic_ncols=True)
            ]
            found[name] = save_folder / f"{name}.csv"
            write_manifest(found[name], rows)
    return found


def choose_groups(
    items: Mapping[str, Mapping[str, Any]], size: int, utterances: int | None = None, seed: int = 0
) -> list[tuple[str, ...]]:
    """Groups of some utterances of one speaker, each utterance in one group at most.

    Arguments
    ---------
    items : mapping of str to mapping
        Utterances by id, with ``spk_id``.
    size : int
        Utterances of a group.
    utterances : int, optional
        Utterances in all groups together; by default all that make whole groups. They are spread over the speakers.
    seed : int
        What the order is drawn by, which all sizes share.

    Example
    -------
    >>> items = {name: {"spk_id": name[0]} for name in ("a1", "a2", "a3", "b1", "b2")}
    >>> [len(choose_groups(items, size)) for size in (1, 2, 3)], len(choose_groups(items, 2, 2))
    ([5, 2, 1], 1)
    """
    speakers: dict[str, list[str]] = {}
    for name in items:
        speakers.setdefault(str(items[name]["spk_id"]), []).append(name)
    by_speaker = []
    for speaker, names in speakers.items():
        random.Random(f"{seed}/{speaker}").shuffle(names)
        by_speaker.append([tuple(names[i : i + size]) for i in range(0, len(names) - size + 1, size)])
    longest = max(map(len, by_speaker), default=0)
    # the first group of each speaker, then the second one, ...
    groups = [groups[turn] for turn in range(longest) for groups in by_speaker if turn < len(groups)]
    return groups if utterances is None else groups[: max(1, utterances // size)]


def _join(items: Mapping[str, Mapping[str, Any]], group: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """The row of a manifest, and its recording if it has several utterances."""
    parts = [items[name] for name in group]
    if len(group) == 1:
        return {"ID": group[0], **{column: parts[0][column] for column in COLUMNS}, "joined": 1}
    rate = audio_info(parts[0]["wav"]).sample_rate
    wav = torch.cat([read_audio(part["wav"], rate) for part in parts])
    name = "+".join(group)
    path = folder / f"{name}.flac"
    write_audio(path, wav, rate)
    return {
        "ID": name, "duration": len(wav) / rate, "wav": path.absolute(), "wrd": " ".join(part["wrd"] for part in parts),
        "spk_id": parts[0]["spk_id"], "joined": len(group),
    }  # fmt: skip

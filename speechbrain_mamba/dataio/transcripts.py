"""Transcribed speech: manifests, what of them can be used, and datasets for recognisers."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.utils.files import write_csv

logger = logging.getLogger(__name__)

_NEEDED = ("duration", "wav", "wrd")
_COLUMNS = ["ID", *_NEEDED, "spk_id"]
_IDS_SHOWN = 10


def write_transcripts(csv_path: str | os.PathLike, rows: Iterable[dict]) -> None:
    """Write a manifest of transcribed speech, atomically.

    Arguments
    ---------
    csv_path : str or Path
        The file.
    rows : iterable of dict
        ``ID``, ``duration`` (seconds), ``wav`` (path), ``wrd`` (words) and ``spk_id`` of each utterance.

    Example
    -------
    See :func:`read_transcripts`.
    """
    write_csv(csv_path, rows, _COLUMNS)


def read_transcripts(path: str | os.PathLike, data_root: str | os.PathLike | None = None) -> dict[str, dict]:
    """Read a manifest of transcribed speech: your own, or one that a preparation wrote.

    Arguments
    ---------
    path : str or Path
        A CSV file with the columns ``ID``, ``duration`` (seconds), ``wav`` (path) and ``wrd`` (words), or a JSON file
        that maps each id to the others. More columns do no harm.
    data_root : str or Path, optional
        What ``$data_root`` or ``{data_root}`` stands for in the paths.

    Returns
    -------
    dict
        From id to ``duration`` (float), ``wav``, ``wrd`` and whatever else the file has, in its order.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is no CSV or JSON file, lists nothing, lacks a column, has an id twice, a duration that is no number, or
        paths that need ``data_root``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "test.csv"
    >>> write_transcripts(path, [{"ID": "a", "duration": 1.5, "wav": "a.wav", "wrd": "GOOD MORNING", "spk_id": "anna"}])
    >>> read_transcripts(path)
    {'a': {'duration': 1.5, 'wav': 'a.wav', 'wrd': 'GOOD MORNING', 'spk_id': 'anna'}}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The manifest '{path}' does not exist: prepare the data first.")
    readers = {".csv": _read_csv, ".json": _read_json}
    if path.suffix not in readers:
        raise ValueError(f"The manifest '{path}' must be a .csv or .json file.")
    items = readers[path.suffix](path)
    if not items:
        raise ValueError(f"The manifest '{path}' lists no utterance.")
    for name, item in items.items():
        for key in _NEEDED:
            if item.get(key) is None:
                raise ValueError(f"The manifest '{path}' has no '{key}' for '{name}': it needs {', '.join(_NEEDED)}.")
        try:
            item["duration"] = float(item["duration"])
        except (TypeError, ValueError):
            raise ValueError(
                f"The manifest '{path}' has the duration '{item['duration']}' for '{name}', but seconds are wanted."
            ) from None
        item["wav"] = _resolve(item["wav"], path, data_root)
    return items


def piece_dataset(
    items: dict[str, dict], sample_rate: int, seconds: float | None = None, keys: Iterable[str] = ()
) -> DynamicItemDataset:
    """The dataset of utterances as sounds, whole or a random piece of each.

    Arguments
    ---------
    items : dict of str to dict
        Utterances by id, as of :func:`read_transcripts`.
    sample_rate : int
        The rate in Hz that all files must have.
    seconds : float, optional
        Of longer utterances a piece of this length is taken, another one each time.
    keys : iterable of str
        What of the items is put out beside ``id`` and ``sig``, the waveform (samples,).

    Returns
    -------
    DynamicItemDataset
        The dataset.

    Example
    -------
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.zeros(8000), sample_rate=8000)
    >>> dataset = piece_dataset({"a": {"wav": path, "spk_id": "anna"}}, 8000, seconds=0.5, keys=["spk_id"])
    >>> len(dataset[0]["sig"]), dataset[0]["spk_id"]
    (4000, 'anna')
    """
    length = None if seconds is None else round(seconds * sample_rate)

    def read(wav: str) -> Tensor:
        signal = read_audio(wav, sample_rate)
        if length is not None and len(signal) > length:
            first = int(torch.randint(len(signal) - length + 1, ()))
            signal = signal[first : first + length]
        return signal

    dataset = DynamicItemDataset(items)
    dataset.add_dynamic_item(read, takes="wav", provides="sig")
    dataset.set_output_keys(["id", "sig", *keys])
    return dataset


def find_manifests(folder: str | os.PathLike, splits: Iterable[str] = ("train", "valid", "test")) -> dict[str, Path]:
    """The manifest of each split in a folder, ``SPLIT.csv`` or else ``SPLIT.json``.

    Raises
    ------
    FileNotFoundError
        When a split has none.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "test.json").write_text("{}")
    >>> find_manifests(folder, ["test"])["test"].name
    'test.json'
    """
    manifests = {}
    for split in splits:
        found = [path for suffix in (".csv", ".json") if (path := Path(folder) / f"{split}{suffix}").is_file()]
        if not found:
            raise FileNotFoundError(f"'{folder}' has no {split}.csv and no {split}.json: give the folder of manifests.")
        manifests[split] = found[0]
    return manifests


def _read_csv(path: Path) -> dict[str, dict]:
    items: dict[str, dict] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            name = row.pop("ID", None)
            if name is None:
                raise ValueError(f"The manifest '{path}' has no column 'ID'.")
            if name in items:
                raise ValueError(f"The manifest '{path}' has the id '{name}' twice.")
            items[name] = row
    return items


def _read_json(path: Path) -> dict[str, dict]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"The manifest '{path}' is no valid JSON: {error}.") from error
    if not isinstance(items, dict) or not all(isinstance(item, dict) for item in items.values()):
        raise ValueError(f"The manifest '{path}' must map each id to a mapping with {', '.join(_NEEDED)}.")
    return items


def _resolve(wav: str, path: Path, data_root: str | os.PathLike | None) -> str:
    for placeholder in ("$data_root", "{data_root}"):
        if placeholder in wav:
            if data_root is None:
                raise ValueError(
                    f"The paths in the manifest '{path}' have {placeholder}: set data_root to that folder."
                )
            wav = wav.replace(placeholder, str(data_root))
    return wav


def encoder_frames(seconds: float, sample_rate: int, hop: int, strides: tuple[int, ...] = (2, 2)) -> int:
    """How many frames a recogniser's encoder gets of some audio.

    Arguments
    ---------
    seconds : float
        Length of the audio.
    sample_rate : int
        Samples per second.
    hop : int
        Samples from one frame of features to the next.
    strides : tuple of int
        Strides of the convolutional front end; each rounds up.

    Returns
    -------
    int
        Frames.

    Example
    -------
    >>> encoder_frames(1.0, sample_rate=16000, hop=160)
    26
    """
    frames = round(seconds * sample_rate) // hop + 1
    for stride in strides:
        frames = -(-frames // stride)
    return frames


def select_usable(items: dict, tokenizer, what: str, frames: Callable[[dict], int] | None = None) -> dict:
    """Leave out the utterances that a recogniser cannot learn from, and say in a warning how many, which and why.

    These are utterances without audio, with an empty transcript, and for training with characters that the tokenizer
    does not know, or with fewer frames than CTC needs for their transcript: one per token, and one between equal
    neighbours.

    Arguments
    ---------
    items : dict
        Utterances, as of :func:`read_transcripts`.
    tokenizer : sentencepiece.SentencePieceProcessor
        The tokenizer.
    what : str
        What the warning calls the utterances.
    frames : callable, optional
        Tells the encoder's frames from an utterance, for training. Without it, characters and lengths are not looked
        at: in a test these are the recogniser's errors.

    Returns
    -------
    dict
        The usable ones.

    Raises
    ------
    ValueError
        When none is usable.

    Example
    -------
    >>> class Letters:
    ...     def encode(self, text):
    ...         return [max(0, ord(letter) - ord("A") + 3) for letter in text]
    ...     def unk_id(self):
    ...         return 0
    >>> items = {"a": {"duration": 1.0, "wrd": "HELLO"}, "b": {"duration": 1.0, "wrd": ""}}
    >>> list(select_usable(items, Letters(), "utterances", frames=lambda item: 6))
    ['a']
    """
    usable, left_out = {}, {}
    for name, item in items.items():
        tokens = tokenizer.encode(item["wrd"])
        repeats = sum(a == b for a, b in itertools.pairwise(tokens))
        if item["duration"] <= 0:
            reason = "no audio"
        elif not item["wrd"].strip():
            reason = "an empty transcript"
        elif frames is not None and tokenizer.unk_id() in tokens:
            reason = "characters that the tokenizer does not know"
        elif frames is not None and frames(item) < len(tokens) + repeats:
            reason = "fewer frames than their transcript needs for CTC"
        else:
            usable[name] = item
            continue
        left_out.setdefault(reason, []).append(name)
    for reason, names in left_out.items():
        more = f" and {len(names) - _IDS_SHOWN} more" if len(names) > _IDS_SHOWN else ""
        logger.warning(
            "Left out %d of %d %s with %s: %s%s.",
            len(names), len(items), what, reason, ", ".join(names[:_IDS_SHOWN]), more,
        )  # fmt: skip
    if not usable:
        reasons = "; ".join(f"{len(names)} with {reason}" for reason, names in left_out.items())
        raise ValueError(f"None of the {len(items)} {what} can be used: {reasons}.")
    return usable


def _signal(sample_rate: int, speed_perturb: Callable | None, wav: str) -> Tensor:
    signal = read_audio(wav, sample_rate)
    return signal if speed_perturb is None else speed_perturb(signal[None])[0]


def _tokens(tokenizer, bos_index: int, eos_index: int, wrd: str) -> Iterator[Tensor]:
    tokens = tokenizer.encode(wrd)
    yield torch.LongTensor(tokens)
    yield torch.LongTensor([bos_index, *tokens])
    yield torch.LongTensor([*tokens, eos_index])


def recognition_dataset(
    items: dict, tokenizer, sample_rate: int, bos_index: int = 1, eos_index: int = 2, speed_perturb=None
) -> DynamicItemDataset:
    """The dataset of some utterances.

    Arguments
    ---------
    items : dict
        Utterances, as of :func:`read_transcripts`.
    tokenizer : sentencepiece.SentencePieceProcessor
        The tokenizer.
    sample_rate : int
        The rate in Hz that all files must have.
    bos_index, eos_index : int
        Tokens that begin and end what a decoder is fed and shall say.
    speed_perturb : callable, optional
        Applied to each signal, (1, samples), when it is read: by the workers of the loader.

    Returns
    -------
    DynamicItemDataset
        Its keys are ``id``, ``sig`` (tensor (samples,)), ``wrd``, ``tokens``, ``tokens_bos`` and ``tokens_eos``.

    Example
    -------
    See ``recipes/asr/recognition.py``.
    """
    dataset = DynamicItemDataset(items)
    dataset.add_dynamic_item(functools.partial(_signal, sample_rate, speed_perturb), takes=["wav"], provides=["sig"])
    dataset.add_dynamic_item(
        functools.partial(_tokens, tokenizer, bos_index, eos_index),
        takes=["wrd"],
        provides=["tokens", "tokens_bos", "tokens_eos"],
    )
    dataset.set_output_keys(["id", "sig", "wrd", "tokens", "tokens_bos", "tokens_eos"])
    return dataset

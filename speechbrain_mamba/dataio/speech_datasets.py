"""Datasets of speech, whole or in pieces, with or without the tokens of its transcripts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.dataio.shards import UnusableExampleError
from speechbrain_mamba.dataio.tables import item_dataset

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


def piece_dataset(
    items: Mapping[str, dict[str, Any]], sample_rate: int, seconds: float | None = None, keys: Iterable[str] = ()
) -> DynamicItemDataset:
    """The dataset of utterances as sounds: each one whole, or a random piece of it.

    Arguments
    ---------
    items : dict of str to dict
        Utterances by id, as returned by :func:`~speechbrain_mamba.dataio.manifests.read_manifest`.
    sample_rate : int
        The rate in Hz that all files must have.
    seconds : float, optional
        Longer utterances are cut to this length, at a random place each time.
    keys : iterable of str
        Columns to put out beside ``id`` and ``sig``, the waveform (samples,).

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

    dataset = item_dataset(items)
    dataset.add_dynamic_item(read, takes="wav", provides="sig")
    dataset.set_output_keys(["id", "sig", *keys])
    return dataset


class _SpeedChange:
    """Changes the speed of a signal (samples,), unless its transcript then had no room."""

    def __init__(
        self,
        tokenizer: SentencePieceProcessor,
        speed_perturb: Callable[[Tensor], Tensor] | None,
        has_room: Callable[[int, list[int]], bool] | None,
    ) -> None:
        self.tokenizer, self.speed_perturb, self.has_room = tokenizer, speed_perturb, has_room

    def __call__(self, signal: Tensor, wrd: str) -> Tensor:
        if self.speed_perturb is None:
            return signal
        changed = self.speed_perturb(signal[None])[0]
        if len(changed) < len(signal) and self.has_room is not None:
            return changed if self.has_room(len(changed), self.tokenizer.encode(wrd)) else signal
        return changed


def _signal(sample_rate: int, change: _SpeedChange, wav: str, wrd: str) -> Tensor:
    return change(read_audio(wav, sample_rate), wrd)


def _tokens(tokenizer: SentencePieceProcessor, bos_index: int, eos_index: int, wrd: str) -> Iterator[Tensor]:
    tokens = tokenizer.encode(wrd)
    yield torch.LongTensor(tokens)
    yield torch.LongTensor([bos_index, *tokens])
    yield torch.LongTensor([*tokens, eos_index])


def recognition_example(
    tokenizer: SentencePieceProcessor,
    bos_index: int,
    eos_index: int,
    speed_perturb: Callable[[Tensor], Tensor] | None,
    reason_against: Callable[[dict[str, Any]], str | None],
    facts: dict[str, Any],
    read: Callable[[], Tensor],
    has_room: Callable[[int, list[int]], bool] | None = None,
) -> dict[str, Any]:
    """An example of :func:`recognition_dataset` from what a shard holds; ``decode`` of a
    :class:`~speechbrain_mamba.dataio.shards.ShardDataset`, with all arguments but ``facts`` and ``read`` bound.

    Raises an :class:`~speechbrain_mamba.dataio.shards.UnusableExampleError` when ``reason_against`` gives a reason.
    """
    if "wrd" not in facts:
        raise ValueError(f"The example '{facts['id']}' has no 'wrd', its transcript: write the shards with it.")
    reason = reason_against(facts)
    if reason is not None:
        raise UnusableExampleError(reason)
    change = _SpeedChange(tokenizer, speed_perturb, has_room)
    names = ("tokens", "tokens_bos", "tokens_eos")
    return {
        "id": facts["id"],
        "sig": change(read(), facts["wrd"]),
        "wrd": facts["wrd"],
        **dict(zip(names, _tokens(tokenizer, bos_index, eos_index, facts["wrd"]))),
    }


def recognition_dataset(
    items: Mapping[str, dict[str, Any]],
    tokenizer: SentencePieceProcessor,
    sample_rate: int,
    bos_index: int = 1,
    eos_index: int = 2,
    speed_perturb: Callable[[Tensor], Tensor] | None = None,
    has_room: Callable[[int, list[int]], bool] | None = None,
) -> DynamicItemDataset:
    """The dataset of transcribed utterances.

    Arguments
    ---------
    items, sample_rate
        As in :func:`piece_dataset`.
    tokenizer : sentencepiece.SentencePieceProcessor
        The tokenizer.
    bos_index, eos_index : int
        Tokens at the beginning of a decoder's input and at the end of its target.
    speed_perturb : callable, optional
        Applied to each signal, (1, samples), by the worker of the loader that reads it.
    has_room : callable, optional
        Whether a recognizer can learn some tokens from a number of samples. A signal that ``speed_perturb`` makes too
        short for its transcript stays as it is.

    Returns
    -------
    DynamicItemDataset
        Its keys are ``id``, ``sig`` (tensor (samples,)), ``wrd``, ``tokens``, ``tokens_bos`` and ``tokens_eos``.

    Example
    -------
    >>> from speechbrain_mamba.dataio.audio import write_audio
    >>> from speechbrain_mamba.text.tokenizer import train_tokenizer
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.zeros(8000), sample_rate=8000)
    >>> tokenizer = train_tokenizer(folder / "tokenizer.ckpt", ["ABBA"], vocab_size=6, token_type="char")
    >>> items = {"a": {"wav": folder / "a.wav", "wrd": "ABBA"}}
    >>> len(recognition_dataset(items, tokenizer, sample_rate=8000)[0]["tokens"])
    5
    """
    dataset = item_dataset(items)
    change = _SpeedChange(tokenizer, speed_perturb, has_room)
    dataset.add_dynamic_item(functools.partial(_signal, sample_rate, change), takes=["wav", "wrd"], provides=["sig"])
    dataset.add_dynamic_item(
        functools.partial(_tokens, tokenizer, bos_index, eos_index),
        takes=["wrd"],
        provides=["tokens", "tokens_bos", "tokens_eos"],
    )
    dataset.set_output_keys(["id", "sig", "wrd", "tokens", "tokens_bos", "tokens_eos"])
    return dataset

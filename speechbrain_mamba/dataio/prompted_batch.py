"""Batches of utterances, each with the prompt in whose voice it is spoken: the types that all of synthesis shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Padded(NamedTuple):
    """Sequences of tokens of different lengths in one tensor.

    Example
    -------
    >>> Padded.collate([[1, 2], [3]])
    Padded(values=tensor([[1, 2],
            [3, 0]]), lengths=tensor([2, 1]))
    """

    values: Tensor
    """Sequences (batch, time, ...). Values past the lengths are padding; padding of tokens is valid tokens."""

    lengths: Tensor
    """Valid frames, integers (batch,)."""

    @classmethod
    def collate(cls, sequences: Sequence[Tensor | Sequence[int]]) -> Padded:
        """Pad sequences (time, ...) with zeros to the longest."""
        tensors = [torch.as_tensor(sequence, dtype=torch.long) for sequence in sequences]
        return cls(pad_sequence(tensors, batch_first=True), torch.tensor([len(tensor) for tensor in tensors]))

    def to(self, device: torch.device | str) -> Padded:
        """Move to a device."""
        return Padded(self.values.to(device), self.lengths.to(device))


class Utterances(NamedTuple):
    """A batch of utterances: their texts and their speech.

    Example
    -------
    >>> speech = Utterances(Padded(torch.tensor([[4, 2]]), torch.tensor([2])), Padded.collate([torch.zeros(7, 3)]))
    >>> speech.first_codebook().codes.values.shape, speech.emptied().codes.values.shape
    (torch.Size([1, 7]), torch.Size([1, 0, 3]))
    """

    phonemes: Padded
    """Phonemes, integers (batch, phonemes)."""

    codes: Padded
    """Codec tokens, integers (batch, frames, codebooks), or (batch, frames) of the first codebook."""

    def to(self, device: torch.device | str) -> Utterances:
        """Move to a device."""
        return Utterances(self.phonemes.to(device), self.codes.to(device))

    def first_codebook(self) -> Utterances:
        """The same utterances, whose codes are those of the first codebook alone."""
        return Utterances(self.phonemes, Padded(self.codes.values[..., 0], self.codes.lengths))

    def emptied(self) -> Utterances:
        """As many utterances without phonemes and codes: the prompts of utterances that have none."""
        phonemes, codes = (Padded(part.values[:, :0], torch.zeros_like(part.lengths)) for part in self)
        return Utterances(phonemes, codes)


@dataclass
class PromptedBatch:
    """A batch of a :func:`~speechbrain_mamba.dataio.voice_prompts.prompted_dataset`.

    Example
    -------
    >>> no_prompt = {"prompt_phonemes": torch.zeros(0), "prompt_codes": torch.zeros(0, 4)}
    >>> batch = PromptedBatch.collate([{"id": "a", "phonemes": torch.ones(3), "codes": torch.ones(9, 4)} | no_prompt])
    >>> len(batch), batch.speech.codes.lengths, batch.prompt.codes.lengths
    (1, tensor([9]), tensor([0]))
    """

    id: list[str]
    """Names of the utterances."""

    prompt: Utterances
    """An utterance of the same speaker before each utterance; its lengths are 0 if there is none."""

    speech: Utterances
    """The utterances."""

    @classmethod
    def collate(cls, examples: Sequence[Mapping[str, Any]]) -> PromptedBatch:
        """Make a batch of examples of the dataset: the ``collate_fn`` of its data loaders."""

        def padded(key: str) -> Padded:
            return Padded.collate([example[key] for example in examples])

        return cls(
            [example["id"] for example in examples],
            Utterances(padded("prompt_phonemes"), padded("prompt_codes")),
            Utterances(padded("phonemes"), padded("codes")),
        )

    def to(self, device: torch.device | str) -> PromptedBatch:
        """Move to a device."""
        return PromptedBatch(self.id, self.prompt.to(device), self.speech.to(device))

    def __len__(self) -> int:
        return len(self.id)

"""What a synthesizer is going to say: a text in pieces, as numbers, and the random numbers of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from speechbrain_mamba.inference.spoken_text import SpokenPiece
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.text.pieces import TextPiece, split_text

_FILL = 0.7
"""How much of the model's longest speech a piece should take: the duration is an estimate."""
_SECONDS = (0.04, 0.15)
"""The shortest and the longest time that a phoneme or letter is thought to take, whatever the prompt says."""
_ODD_SECONDS = (0.02, 0.5)
"""Seconds per phoneme or letter outside of which a prompt hardly says its text."""
_SEEDS = 2**63


@dataclass(frozen=True)
class SpeakingPlan:
    """What is said, piece by piece.

    Arguments
    ---------
    pieces : list of TextPiece
        The pieces of the text.
    phonemes : list of list of int
        Their numbers.
    prompt : list of int
        The numbers of the prompt's text.
    notices : list of str
        Sentences for the user.
    """

    pieces: list[TextPiece]
    phonemes: list[list[int]]
    prompt: list[int]
    notices: list[str] = field(default_factory=list)

    @classmethod
    def make(
        cls,
        tokenizer: TextTokenizer,
        text: str,
        prompt_text: str,
        language: str | None,
        prompt: Tensor,
        sample_rate: int,
        max_seconds: float,
    ) -> SpeakingPlan:
        """Split a text by the time that it is thought to take at the pace of the prompt.

        Arguments
        ---------
        tokenizer : TextTokenizer
            The inventory.
        text, prompt_text : str
            What is to be said, and what the prompt says.
        language : str, optional
            The language of both.
        prompt : Tensor
            The prompt (samples,).
        sample_rate : int
            Its rate.
        max_seconds : float
            The longest speech that the model makes at once.

        Raises
        ------
        ValueError, TypeError, ImportError
            For texts that are empty, no strings, or have unknown symbols; for an unknown language; and without
            espeak-ng if the model needs it.
        """
        for name, one in (("text", text), ("prompt_text", prompt_text)):
            if not isinstance(one, str):
                raise TypeError(f"{name} is of type {type(one).__name__}, but must be a string.")
            if not one.strip():
                raise ValueError(f"{name} is empty: give the words that are {'said' if name == 'text' else 'heard'}.")
        (adapted, dropped), (said, _) = tokenizer.adapt(text), tokenizer.adapt(prompt_text)
        notices = []
        if dropped:
            notices.append(f"The model does not know these characters, which were left out: {' '.join(dropped)}")
        prompt_numbers = tokenizer.add_space(tokenizer.encode(said, language))

        def count(part: str) -> int:
            return len(part) if tokenizer.kind == "bpe" else len(tokenizer.split(part, language))

        seconds = len(prompt) / sample_rate
        pace = seconds / max(1, count(said))
        if not _ODD_SECONDS[0] <= pace <= _ODD_SECONDS[1]:
            notices.append(
                f"The prompt has {seconds:.2f} s, but its text {count(said)} letters or phonemes: is it what is said? "
                "Speech follows the prompt's text, and suffers from another one."
            )
        pace = min(max(pace, _SECONDS[0]), _SECONDS[1])
        # punctuation that the model does not know says where a text can be cut
        pieces, phonemes = [], []
        for piece in split_text(text, lambda part: pace * count(tokenizer.adapt(part)[0]), _FILL * max_seconds):
            words = tokenizer.adapt(piece.text)[0].strip()
            if words and (tokenizer.kind != "ipa" or any(map(str.strip, tokenizer.split(words, language)))):
                pieces.append(piece)
                phonemes.append(tokenizer.encode(words, language))
        if not pieces:
            if adapted.strip():
                tokenizer.encode(adapted, language)  # says what is wrong
            raise ValueError(f"The text {text!r} has nothing to say: no phonemes or characters were found in it.")
        return cls(pieces, phonemes, prompt_numbers, notices)

    def shortcomings(self, said: Sequence[SpokenPiece], limit: float, max_seconds: float | None) -> list[str]:
        """What the user should know about the pieces that were said, within some seconds each, and all of them."""
        cut, notices = [piece for piece in said if not piece.finished], []
        if cut:
            count = f"{len(cut)} of {len(self.pieces)} pieces of the text" if len(self.pieces) > 1 else "The speech"
            notices.append(
                f"{count} did not end within {limit:.2f} s and {'were' if len(cut) > 1 else 'was'} cut there: "
                f"'{_shorten(cut[0].text)}'. Try another seed, a longer limit or shorter sentences."
            )
        if len(said) < len(self.pieces):
            left = self.pieces[len(said) :]
            notices.append(
                f"The text does not fit into max_seconds, {max_seconds:g} s: {len(left)} of {len(self.pieces)} pieces "
                f"were left out, from '{_shorten(left[0].text)}' on."
            )
        return notices


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def choose_seed(seed: int | None, sampler: Any) -> int:
    """Check a seed; without one take that of a sampler, or one from the operating system.

    Raises a TypeError or ValueError for what is no seed, and for samplers that cannot be seeded.

    Example
    -------
    >>> from speechbrain_mamba.decoders.sampling import TokenSampler
    >>> choose_seed(None, TokenSampler(seed=5)), choose_seed(7, TokenSampler(seed=5))
    (5, 7)
    """
    if not hasattr(sampler, "for_examples"):
        raise TypeError(
            f"The sampler is a {type(sampler).__name__}, which has no for_examples(seeds) to draw by a seed: use a "
            "TokenSampler."
        )
    if seed is None:
        own = getattr(sampler, "seed", None)
        return int.from_bytes(os.urandom(4), "big") if own is None else own
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= int(seed) < _SEEDS:
        raise ValueError(f"seed is {seed!r}, but must be a whole number from 0 to 2**63 - 1.")
    return int(seed)


def seed_of_piece(seed: int, place: int) -> int:
    """The seed of a piece of a text; the first one has that of the text.

    Example
    -------
    >>> seed_of_piece(5, 0), seed_of_piece(5, 1) == seed_of_piece(6, 0)
    (5, False)
    """
    if not place:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}:{place}".encode(), digest_size=8).digest(), "big") % _SEEDS

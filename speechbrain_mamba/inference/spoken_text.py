"""A text that was spoken: its speech, and what is to be said about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechbrain_mamba.dataio.recording_writer import write_recording
from speechbrain_mamba.text.pieces import TextPiece

PAUSES = {"paragraph": 0.5, "sentence": 0.3, "phrase": 0.15, "word": 0.05}
"""Seconds of silence after a piece of a text, by what ends it."""

_FADE = 0.005
"""Seconds in which a piece fades in and out where it is joined to others."""


@dataclass(frozen=True)
class SpokenPiece:
    """A piece of a text in the speech.

    Arguments
    ---------
    text : str
        What was to be said.
    start, end : float
        Seconds.
    finished : bool
        Whether the model came to an end, before its limit.
    """

    text: str
    start: float
    end: float
    finished: bool


@dataclass(frozen=True)
class SpokenText:
    """Synthesized speech.

    Arguments
    ---------
    wav : Tensor
        Samples (samples,), float32 on the CPU.
    sample_rate : int
        Samples per second.
    codes : Tensor
        The tokens of all pieces, integers (frames, codebooks).
    pieces : tuple of SpokenPiece
        The pieces of the text that were said.
    finished : bool
        Whether all of the text was said, as far as the model knows: each piece came to its end, and none was left out.
    seed : int
        What decided how it is said: the same seed gives the same speech.
    notices : tuple of str
        Sentences for the user.

    Example
    -------
    >>> spoken = SpokenText(torch.zeros(4000), 8000, torch.zeros(25, 4), (), True, 1)
    >>> spoken.seconds
    0.5
    """

    wav: Tensor
    sample_rate: int
    codes: Tensor
    pieces: tuple[SpokenPiece, ...]
    finished: bool
    seed: int
    notices: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The duration."""
        return len(self.wav) / self.sample_rate

    def save(self, path: str | os.PathLike) -> None:
        """Write the speech to a file, atomically; samples above full scale are clipped."""
        write_recording(path, self.wav, self.sample_rate, force=True)


def join_speech(
    pieces: Sequence[TextPiece], wavs: Sequence[Tensor], finished: Sequence[bool], sample_rate: int
) -> tuple[Tensor, tuple[SpokenPiece, ...]]:
    """Join pieces of speech, with a pause after each but the last.

    Arguments
    ---------
    pieces : sequence of TextPiece
        The pieces of the text.
    wavs : sequence of Tensor
        The speech of each, (samples,).
    finished : sequence of bool
        Whether each came to its end.
    sample_rate : int
        Samples per second.

    Returns
    -------
    Tensor, tuple of SpokenPiece
        The speech (samples,), and where the pieces are in it.

    Example
    -------
    >>> texts = [TextPiece("One.", "sentence"), TextPiece("Two.", "")]
    >>> wav, said = join_speech(texts, [torch.ones(800), torch.ones(400)], [True, True], 8000)
    >>> len(wav), [(piece.start, piece.end) for piece in said]
    (3600, [(0.0, 0.1), (0.4, 0.45)])
    """
    parts, said, position = [], [], 0
    for place, (piece, wav) in enumerate(zip(pieces, wavs)):
        pause = round(PAUSES[piece.end] * sample_rate) if place + 1 < len(wavs) else 0
        parts += [_fade(wav, place > 0, place + 1 < len(wavs), round(_FADE * sample_rate)), wav.new_zeros(pause)]
        start, end = position / sample_rate, (position + len(wav)) / sample_rate
        said.append(SpokenPiece(piece.text, start, end, finished[place]))
        position += len(wav) + pause
    return torch.cat(parts), tuple(said)


def _fade(wav: Tensor, fade_in: bool, fade_out: bool, samples: int) -> Tensor:
    samples = min(samples, len(wav) // 2)
    if not samples or not (fade_in or fade_out):
        return wav
    ramp, faded = torch.linspace(0, 1, samples, dtype=wav.dtype), wav.clone()
    if fade_in:
        faded[:samples] *= ramp
    if fade_out:
        faded[-samples:] *= ramp.flip(0)
    return faded

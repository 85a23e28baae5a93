"""How a synthesizer speaks in voices that were in no training: it gets recordings as prompts, as from its users."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from torch import Tensor

from speechbrain_mamba.dataio.voice_prompts import VoicePrompts

SHORTEST_PROMPT = 1.0
"""Seconds: less says little about a voice."""


class Synthesize(Protocol):
    """What says a text: ``SpeechSynthesizer.synthesize``, which returns a ``SpokenText``."""

    def __call__(self, text: str, prompt: str, prompt_text: str, *, seed: int) -> Any: ...


@dataclass(frozen=True)
class SaidText:
    """A text that was said.

    Arguments
    ---------
    name : str
        The id of the recording of the same text.
    recording, prompt : mapping of str to object
        That recording and the prompt, items of the manifest.
    wav : Tensor
        The speech (samples,).
    sample_rate : int
        Its samples per second.
    finished : bool
        Whether the model came to an end on its own.
    computing : float
        Seconds of processor time.
    """

    name: str
    recording: Mapping[str, Any]
    prompt: Mapping[str, Any]
    wav: Tensor
    sample_rate: int
    finished: bool
    computing: float

    @property
    def seconds(self) -> float:
        """The duration of the speech."""
        return len(self.wav) / self.sample_rate


def say_in_voices(
    synthesize: Synthesize, items: Mapping[str, Mapping[str, Any]], count: int, prompt_seconds: float
) -> Iterator[SaidText]:
    """Say texts of a manifest, each in the voice of another recording of its speaker, which is always the same one.

    Arguments
    ---------
    synthesize : callable
        Takes a text, the path of a prompt, its text and a seed.
    items : mapping of str to mapping
        Recordings by id, as returned by :func:`~speechbrain_mamba.dataio.manifests.read_manifest`, with ``spk_id``.
    count : int
        How many texts at most: evenly spaced ones, since a manifest may list one speaker after another.
    prompt_seconds : float
        The longest prompt; the shortest has ``SHORTEST_PROMPT``.

    Raises
    ------
    ValueError
        When there is no prompt for any of the texts.

    Example
    -------
    >>> import torch
    >>> from types import SimpleNamespace as Spoken
    >>> anna = {"spk_id": "anna", "duration": 2.0}
    >>> items = {word: {**anna, "wav": f"{word}.wav", "wrd": word} for word in ("one", "two")}
    >>> def synthesize(text, prompt, prompt_text, seed):
    ...     return Spoken(wav=torch.zeros(4000), sample_rate=8000, finished=True)
    >>> [(said.recording["wrd"], said.prompt["wav"], said.seconds) for said in say_in_voices(synthesize, items, 5, 3.0)]
    [('one', 'two.wav', 0.5), ('two', 'one.wav', 0.5)]
    """
    # those that are too short to be prompts count as too long
    lengths = {name: item["duration"] if item["duration"] >= SHORTEST_PROMPT else inf for name, item in items.items()}
    voices = {name: {"spk_id": item["spk_id"], "frames": lengths[name]} for name, item in items.items()}
    prompts = VoicePrompts(voices, prompt_seconds)
    names = [name for name in items if name in prompts]
    if not names:
        raise ValueError(
            "No text can be said in the voice of another recording: give a manifest of speakers with several "
            f"recordings of {SHORTEST_PROMPT:g} to {prompt_seconds:g} s."
        )
    count = min(count, len(names))
    for number in range(count):
        name = names[number * len(names) // count]
        prompt = items[prompts.draw(name, fixed=True)]
        start = time.process_time()
        spoken = synthesize(items[name]["wrd"], prompt["wav"], prompt["wrd"], seed=number)
        took = time.process_time() - start
        yield SaidText(name, items[name], prompt, spoken.wav, spoken.sample_rate, spoken.finished, took)

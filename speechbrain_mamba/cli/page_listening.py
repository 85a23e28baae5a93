"""Sound that a browser sends while somebody speaks, for the page of the command demo."""

from __future__ import annotations

import base64
import copy
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from speechbrain_mamba.dataio.recordings import MAX_RATE, MIN_RATE
from speechbrain_mamba.dataio.resampling import StreamingResampler
from speechbrain_mamba.utils.mistakes import MISTAKES, is_mistake, words_of

if TYPE_CHECKING:
    from speechbrain_mamba.inference.streaming import StreamingRecognizer

IDLE = 120.0
"""Seconds after which a stream is forgotten that nobody sends to: its browser was closed."""


class Listening:
    """A stream of sound with its text so far.

    Arguments
    ---------
    recognizer : StreamingRecognizer
        It shares its weights with this stream, and nothing else.
    one : threading.Lock
        Held while it computes.
    """

    def __init__(self, recognizer: StreamingRecognizer, one: Any) -> None:
        self._recognizer, self._one = copy.copy(recognizer), one
        self._recognizer.reset()
        self._rate: int | None = None
        self._resampler: Any = None
        self.text = ""

    def add_samples(self, piece: Any) -> str:
        """Take a piece (1, samples) at the recognizer's rate; returns the text so far."""
        with self._one:
            self.text = self._recognizer.add(piece)
        return self.text

    def add(self, rate: int, samples: np.ndarray) -> str:
        """Take a piece (samples,) of floats at the browser's rate in Hz; returns the text so far.

        Raises
        ------
        ValueError
            When the rate is absurd, or not that of the piece before.
        """
        if not MIN_RATE <= rate <= MAX_RATE:
            raise ValueError(f"The microphone has {rate} Hz, but {MIN_RATE} to {MAX_RATE} Hz are accepted.")
        if self._rate is None:
            self._rate, self._resampler = rate, StreamingResampler(rate, int(self._recognizer.sample_rate))
        if rate != self._rate:
            raise ValueError(f"The microphone went from {self._rate} to {rate} Hz: begin again.")
        piece = torch.as_tensor(np.array(samples, np.float32))[None]
        return self.add_samples(self._resampler.push(piece))

    def finish(self) -> str:
        """End the stream; returns its whole text."""
        if self._resampler is not None:
            self.add_samples(self._resampler.finish())
        with self._one:
            self.text = self._recognizer.finish()
        return self.text


class Listeners:
    """The streams of all browsers.

    Arguments
    ---------
    listen : callable
        Begins a :class:`Listening`.
    """

    def __init__(self, listen: Callable[[], Listening]) -> None:
        self._listen = listen
        self._streams: dict[str, tuple[Listening, float]] = {}  # with the time of the last piece
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._streams)

    def hear(self, message: Mapping[str, Any]) -> dict[str, str]:
        """Take a piece of a stream, and answer with its text so far.

        Pieces of a stream have to come one after the other, each after the answer to the one before.

        Arguments
        ---------
        message : mapping
            ``stream``, the name of the stream, empty for a new one; ``rate`` in Hz; ``samples``, little-endian float32
            as base64; and ``end``, whether nothing more comes.

        Returns
        -------
        dict
            ``stream`` and ``text``; or ``error``, what the user should know, and the stream has ended.
        """
        name = str(message["stream"]) or secrets.token_hex(16)
        try:
            listening = self._find(name, new=not message["stream"])
            samples = np.frombuffer(base64.b64decode(message["samples"]), "<f4")
            text = listening.add(int(message["rate"]), samples) if len(samples) else listening.text
            if message["end"]:
                text = listening.finish()
                self._forget(name)
        except MISTAKES as error:
            self._forget(name)
            if not is_mistake(error):
                raise
            return {"error": words_of(error)}
        return {"stream": name, "text": text}

    def _find(self, name: str, new: bool) -> Listening:
        now = time.monotonic()
        with self._lock:
            self._streams = {one: kept for one, kept in self._streams.items() if now - kept[1] < IDLE or one == name}
            if new:
                self._streams[name] = (self._listen(), now)
            elif name not in self._streams:
                raise ValueError(f"Nothing was heard for {IDLE:.0f} s, and the text has ended: begin again.")
            listening = self._streams[name][0]
            self._streams[name] = (listening, now)
        return listening

    def _forget(self, name: str) -> None:
        with self._lock:
            self._streams.pop(name, None)

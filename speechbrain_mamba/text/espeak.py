"""Speech and phonemes from espeak-ng."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import threading

import torch
from torch import Tensor

from speechbrain_mamba.text.espeak_engine import ESPEAK_RATE, Engine

# The number in espeak-ng/speak_lib.h, the lowest value and the highest one.
_PARAMETERS = {"pitch": (3, 0, 99), "pitch_range": (4, 0, 99), "rate": (1, 80, 450), "volume": (2, 0, 200)}


@functools.cache
def _engine(process: int) -> Engine:
    return Engine()


_lock = threading.Lock()


def _unlock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)


def espeak_available() -> bool:
    """Whether the package that carries espeak-ng is installed, as by ``pip install "speechbrain_mamba[tts]"``."""
    return importlib.util.find_spec("espeakng_loader") is not None


def synthesize(
    text: str,
    voice: str = "en-us",
    variant: str | None = "m3",
    pitch: int = 50,
    pitch_range: int = 50,
    rate: int = 175,
    volume: int = 50,
) -> tuple[Tensor, int]:
    """Speak a text.

    The library carries state (flutter, noise, echo) from one text to the next, so the same text sounds a little
    different each time. A new process that speaks the same texts in the same order gives the same samples.

    Arguments
    ---------
    text : str
        The text.
    voice : str
        The name of an espeak-ng language: ``en-us``, ``en`` (British), ``en-gb-scotland``, ...
    variant : str, optional
        The name of an espeak-ng voice variant, ``m1`` to ``m8``, ``f1`` to ``f5``, ...; None for the plain voice.
    pitch : int
        Height of the voice, 0 to 99; 50 is that of the variant.
    pitch_range : int
        Liveliness of the melody, 0 (monotone) to 99; 50 is that of the variant.
    rate : int
        Words per minute, 80 to 450.
    volume : int
        Amplitude in per cent, 0 to 200. Some variants clip from 100 on.

    Returns
    -------
    signal : Tensor
        Samples, float32 (samples,).
    sample_rate : int
        Samples per second, 22050.

    Raises
    ------
    ImportError
        When espeak-ng is not installed.
    ValueError
        For an unknown voice or variant, or a value out of its range.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> signal, sample_rate = synthesize("hello", variant="f2")
    >>> signal.dtype, sample_rate
    (torch.float32, 22050)
    """
    values = {"pitch": pitch, "pitch_range": pitch_range, "rate": rate, "volume": volume}
    for name, value in values.items():
        _, low, high = _PARAMETERS[name]
        if not low <= value <= high:
            raise ValueError(f"synthesize: {name} is {value}, but must lie in {low} to {high}.")
    with _lock:
        engine = _engine(os.getpid())
        engine.set_voice(f"{voice}+{variant}" if variant else voice)
        for name, value in values.items():
            engine.library.espeak_SetParameter(_PARAMETERS[name][0], value, 0)
        samples = engine.synthesize(text)
    return torch.from_numpy(samples).float() / 32768, ESPEAK_RATE


def phonemes(text: str, voice: str = "en-us") -> str:
    """Translate a text to the International Phonetic Alphabet, as espeak-ng speaks it.

    There are stress marks, and spaces between words, some of which are joined as they are spoken; punctuation is left
    out. Languages and errors are those of :func:`synthesize`.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> phonemes("seven, three")
    'sˈɛvən θɹˈiː'
    """
    with _lock:
        engine = _engine(os.getpid())
        engine.set_voice(voice)
        return engine.phonemes(text)


def espeak_version() -> str:
    """The version of espeak-ng, such as ``1.52.0``. Raises an ImportError when it is not installed."""
    with _lock:
        info = _engine(os.getpid()).library.espeak_Info
        info.restype = ctypes.c_char_p
        return info(None).decode().split()[0]

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

# espeak-ng/speak_lib.h
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4


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
    """Whether the package that carries espeak-ng is installed.

    Returns
    -------
    bool
        True after ``pip install "speechbrain_mamba[tts]"``.

    Example
    -------
    >>> isinstance(espeak_available(), bool)
    True
    """
    return importlib.util.find_spec("espeakng_loader") is not None


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"synthesize: {name} is {value}, but must lie in {low} to {high}.")


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
    _check_range("pitch", pitch, 0, 99)
    _check_range("pitch_range", pitch_range, 0, 99)
    _check_range("rate", rate, 80, 450)
    _check_range("volume", volume, 0, 200)
    with _lock:
        engine = _engine(os.getpid())
        engine.set_voice(f"{voice}+{variant}" if variant else voice)
        for parameter, value in ((_PITCH, pitch), (_RANGE, pitch_range), (_RATE, rate), (_VOLUME, volume)):
            engine.library.espeak_SetParameter(parameter, value, 0)
        samples = engine.synthesize(text)
    return torch.from_numpy(samples).float() / 32768, ESPEAK_RATE


def phonemes(text: str, voice: str = "en-us") -> str:
    """Translate a text to the International Phonetic Alphabet, as espeak-ng speaks it.

    Arguments
    ---------
    text : str
        The text.
    voice : str
        The name of an espeak-ng language, as in :func:`synthesize`.

    Returns
    -------
    str
        Phonemes with stress marks; words, some of them joined as they are spoken, with spaces between them.
        Punctuation is left out.

    Raises
    ------
    ImportError
        When espeak-ng is not installed.
    ValueError
        For an unknown voice.

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
    """The version of espeak-ng.

    Returns
    -------
    str
        For instance ``1.52.0``.

    Raises
    ------
    ImportError
        When espeak-ng is not installed.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> espeak_version() >= "1.5"
    True
    """
    with _lock:
        info = _engine(os.getpid()).library.espeak_Info
        info.restype = ctypes.c_char_p
        return info(None).decode().split()[0]

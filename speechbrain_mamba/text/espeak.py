"""Speech and phonemes from espeak-ng, through the shared library that the package ``espeakng-loader`` carries.

espeak-ng is licensed under GPL-3. It is loaded at run time, and installed by the extra ``tts`` only.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ESPEAK_RATE = 22050
"""Samples per second of what espeak-ng speaks."""

# espeak-ng/speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CHARS_UTF8 = 1
_PHONEMES_IPA = 2
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

# espeak-ng keeps the path of its data in a buffer of 160 bytes, and fails where the path is longer.
_LONGEST_PATH = 150


def _short_path(path: str) -> str:
    """A path to the same folder that is short enough for espeak-ng: itself, or a link that lives as long as we do."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    folder, owner = tempfile.mkdtemp(prefix="espeak-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    link = Path(folder) / "espeak-ng-data"
    link.symlink_to(path, target_is_directory=True)
    return str(link)


_loaded = False


def _load_library(path: str) -> ctypes.CDLL:
    """Load the library with its state, which is in global variables, as new.

    A forked process inherits what its parent's engine has spoken. It loads a copy instead, which has its own state.
    """
    global _loaded
    if not _loaded:
        _loaded = True
        return ctypes.CDLL(path)
    with tempfile.TemporaryDirectory(prefix="espeak-", ignore_cleanup_errors=True) as folder:
        return ctypes.CDLL(shutil.copy(path, folder))


class _Engine:
    """One engine of espeak-ng."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ImportError(
                "espeak-ng is needed here, but the package espeakng-loader is not installed: "
                'run pip install "speechbrain_mamba[tts]".'
            ) from error
        self.data = _short_path(espeakng_loader.get_data_path())
        self.library = _load_library(espeakng_loader.get_library_path())
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.chunks: list[np.ndarray] = []
        self.callback = _SYNTH_CALLBACK(self._receive)  # kept: the library holds only its address
        sample_rate = self.library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(self.data), _INITIALIZE_DONT_EXIT
        )
        if sample_rate != ESPEAK_RATE:
            raise ImportError(f"espeak-ng does not start with the data in '{self.data}': reinstall espeakng-loader.")
        # breath and other noises are random: without this, seeded by the time
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def set_voice(self, name: str) -> None:
        folder = Path(self.data) / "voices" / "!v"
        _, _, variant = name.partition("+")
        # an unknown variant would be ignored without a word
        if variant and not (folder / variant).is_file():
            known = ", ".join(sorted(entry.name for entry in folder.iterdir()))
            raise ValueError(f"espeak-ng has no voice variant '{variant}': choose one of {known}.")
        if self.library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(
                f"espeak-ng has no voice '{name.partition('+')[0]}': use the name of a language's file, such as en "
                "(British), en-us, en-gb-scotland or de."
            )

    def synthesize(self, text: str) -> np.ndarray:
        self.chunks.clear()
        encoded = text.encode()
        self.library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _CHARS_UTF8, None, None)
        self.library.espeak_Synchronize()
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)

    def phonemes(self, text: str) -> str:
        encoded = ctypes.create_string_buffer(text.encode())
        position, clauses = ctypes.c_void_p(ctypes.addressof(encoded)), []
        # a call translates one clause and moves the position, to null at the end
        while position.value:
            clauses.append(self.library.espeak_TextToPhonemes(ctypes.byref(position), _CHARS_UTF8, _PHONEMES_IPA))
        return " ".join(clause.decode().strip() for clause in clauses if clause.strip())


@functools.cache
def _engine(process: int) -> _Engine:
    return _Engine()


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
    different each time; a new process that speaks the same texts in the same order makes the same samples.

    Arguments
    ---------
    text : str
        What to say.
    voice : str
        The name of an espeak-ng language: ``en-us``, ``en`` (British), ``en-gb-scotland``, ...
    variant : str, optional
        The name of an espeak-ng voice variant, ``m1`` to ``m8``, ``f1`` to ``f5``, ...; None for the plain voice.
    pitch : int
        Height of the voice, 0 to 99; 50 is the variant's own.
    pitch_range : int
        Liveliness of the melody, 0 (monotone) to 99; 50 is the variant's own.
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
        What to translate.
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

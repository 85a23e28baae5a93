"""The shared library of espeak-ng, which the package ``espeakng-loader`` carries.

espeak-ng is licensed under GPL-3. It is loaded at run time, and installed by the extra ``tts`` only.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ESPEAK_RATE = 22050
"""Samples per second of espeak-ng's speech."""

# espeak-ng/speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_PHONEMES_IPA = 2
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

# espeak-ng keeps the path of its data in a buffer of 160 bytes and fails on a longer path.
_LONGEST_PATH = 150


def _short_path(path: str) -> str:
    """A path to the same folder that is short enough for espeak-ng: itself, or a link that is removed at exit."""
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
    """Load the library in its initial state, which is in global variables.

    A forked process inherits the state of its parent's library. Therefore it loads a copy, which has its own state.
    """
    global _loaded
    if not _loaded:
        _loaded = True
        return ctypes.CDLL(path)
    with tempfile.TemporaryDirectory(prefix="espeak-", ignore_cleanup_errors=True) as folder:
        return ctypes.CDLL(shutil.copy(path, folder))


class Engine:
    """The library of espeak-ng, loaded and initialized."""

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
        self.callback = _SYNTH_CALLBACK(self._receive)  # kept, since the library holds only its address
        sample_rate = self.library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(self.data), _INITIALIZE_DONT_EXIT
        )
        if sample_rate != ESPEAK_RATE:
            raise ImportError(f"espeak-ng does not start with the data in '{self.data}': reinstall espeakng-loader.")
        # Breath and other noises are random; the default seed is the time.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def set_voice(self, name: str) -> None:
        """Choose a language, ``name``, or a language and a variant, ``name+variant``."""
        folder = Path(self.data) / "voices" / "!v"
        _, _, variant = name.partition("+")
        # The library silently ignores an unknown variant.
        if variant and not (folder / variant).is_file():
            known = ", ".join(sorted(entry.name for entry in folder.iterdir()))
            raise ValueError(f"espeak-ng has no voice variant '{variant}': choose one of {known}.")
        if self.library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(
                f"espeak-ng has no voice '{name.partition('+')[0]}': use the name of a language's file, such as en "
                "(British), en-us, en-gb-scotland or de."
            )

    def synthesize(self, text: str) -> np.ndarray:
        """Speak a text; returns the samples, int16 (samples,)."""
        self.chunks.clear()
        encoded = text.encode()
        self.library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _CHARS_UTF8, None, None)
        self.library.espeak_Synchronize()
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)

    def phonemes(self, text: str) -> str:
        """Translate a text to the International Phonetic Alphabet."""
        encoded = ctypes.create_string_buffer(text.encode())
        position, clauses = ctypes.c_void_p(ctypes.addressof(encoded)), []
        # A call translates one clause and moves the position, at the end to null.
        while position.value:
            clauses.append(self.library.espeak_TextToPhonemes(ctypes.byref(position), _CHARS_UTF8, _PHONEMES_IPA))
        return " ".join(clause.decode().strip() for clause in clauses if clause.strip())

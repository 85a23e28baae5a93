"""Sound from a microphone that is none."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechbrain_mamba.cli.microphone import listen


class PortAudioError(Exception):
    pass


class InputStream:
    """Gives three pieces when it is opened, in a buffer that it uses again."""

    def __init__(self, samplerate, blocksize, *, channels, dtype, callback):
        if samplerate > 48000:
            raise PortAudioError("Invalid sample rate")
        self.buffer, self.callback = np.zeros((blocksize, channels), dtype), callback

    def __enter__(self):
        for number in range(3):
            self.buffer[:] = number
            self.callback(self.buffer, len(self.buffer), None, None)

    def __exit__(self, *_):
        self.buffer = None


@pytest.fixture(autouse=True)
def _sounddevice(monkeypatch):
    fake = SimpleNamespace(InputStream=InputStream, PortAudioError=PortAudioError)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)


def test_pieces_come_one_after_another():
    pieces = listen(8000, 4)
    assert torch.cat([next(pieces) for _ in range(3)], 1).tolist() == [[0.0] * 4 + [1.0] * 4 + [2.0] * 4]
    pieces.close()


def test_a_microphone_that_cannot_is_named():
    with pytest.raises(OSError, match=r"No microphone gives sound at 96000 Hz: Invalid sample rate\. Give a file"):
        next(listen(96000, 4))


def test_sounddevice_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ImportError, match=r"cannot be imported .*: pip install sounddevice, .* Or give a file"):
        next(listen(8000, 4))

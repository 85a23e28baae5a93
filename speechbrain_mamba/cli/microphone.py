"""Sound from the microphone."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import torch
from torch import Tensor


def listen(sample_rate: int, samples: int) -> Iterator[Tensor]:
    """Take pieces (1, samples) of sound from the default microphone until the consumer stops.

    Arguments
    ---------
    sample_rate : int
        Of the pieces, in Hz.
    samples : int
        Length of a piece.

    Raises
    ------
    ImportError
        When sounddevice is not installed, or finds no PortAudio.
    OSError
        When there is no microphone, or it does not give this rate.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise ImportError(
            f"The microphone is read by sounddevice, which cannot be imported ({error}): pip install sounddevice, on "
            "Debian and Ubuntu with apt install libportaudio2. Or give a file, or - for standard input."
        ) from error
    pieces: queue.SimpleQueue[Tensor] = queue.SimpleQueue()

    def heard(data: object, *_: object) -> None:
        pieces.put(torch.tensor(data).T)  # a copy: the buffer is used again

    try:
        stream = sounddevice.InputStream(sample_rate, samples, channels=1, dtype="float32", callback=heard)
    except sounddevice.PortAudioError as error:
        raise OSError(f"No microphone gives sound at {sample_rate} Hz: {error}. Give a file instead.") from error
    with stream:
        while True:
            yield pieces.get()

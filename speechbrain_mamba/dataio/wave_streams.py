"""WAV from a pipe, which nothing can seek in and whose header need not know the length."""

from __future__ import annotations

from typing import BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from speechbrain_mamba.dataio.audio import UnreadableAudioError

_EXTENSIBLE = 0xFFFE
_PLACEHOLDER = 0x7FFFF000
"""The least length of data that stands for an unknown one: SoX writes this one, ffmpeg 2**32 - 1."""
_SKIP = 2**16  # bytes
_TYPES = {(1, 8): "u1", (1, 16): "i2", (1, 24): "u1", (1, 32): "i4", (3, 32): "f4", (3, 64): "f8"}
_SUBTYPES = {"u1": "PCM_U8", "i2": "PCM_16", "i4": "PCM_32", "f4": "FLOAT", "f8": "DOUBLE"}


class Decoder(Protocol):
    """Audio that is decoded block by block: the facts of its source, and the samples.

    ``frames`` is None as long as their number is not known. What is ``live`` may arrive no faster than it is recorded.
    """

    live: bool

    sample_rate: int
    channels: int
    frames: int | None
    subtype: str
    notices: list[str]

    def read(self, frames: int) -> Tensor:
        """The next frames, float32 (channels, frames): fewer only at the end, and none past it."""

    def close(self) -> None:
        """Let go of the source."""


class WaveStream:
    """Read a WAV file of PCM or floats from a binary stream, as it arrives.

    Arguments
    ---------
    stream : binary stream
        It is read from where it is, and only as far as needed. The caller closes it.
    name : str
        The name of the source, for messages.

    Raises
    ------
    NotPlainWaveError
        When the stream holds something else. It has the bytes that were read.

    Example
    -------
    >>> import io
    >>> header = b"RIFF" + b"\\xff" * 4 + b"WAVEfmt " + bytes([16, 0, 0, 0, 1, 0, 1, 0])
    >>> header += (8000).to_bytes(4, "little") + (16000).to_bytes(4, "little") + bytes([2, 0, 16, 0])
    >>> wave = WaveStream(io.BytesIO(header + b"data" + b"\\xff" * 4 + bytes([0, 64, 0, 192])), "a pipe")
    >>> wave.sample_rate, wave.frames, wave.read(100)
    (8000, None, tensor([[ 0.5000, -0.5000]]))
    """

    live = True

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._header = b""
        self.notices: list[str] = []
        self._read_header()
        self._left = self.frames

    def _take(self, count: int) -> bytes:
        data = read_fully(self._stream, count)
        self._header += data
        if len(data) < count:
            raise NotPlainWaveError(self._header)
        return data

    def _read_header(self) -> None:
        kind = self._take(4)
        if kind not in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
            raise NotPlainWaveError(self._header)
        if self._take(8)[4:] != b"WAVE":
            raise NotPlainWaveError(self._header)
        self._big = kind == b"RIFX"
        long = None
        self._width = 0
        while True:
            head = self._take(8)
            name, length = head[:4], self._number(head[4:])
            if name == b"data":
                break
            if len(self._header) + length > _SKIP * 16:
                raise NotPlainWaveError(self._header)
            content = self._take(length + length % 2)
            if name == b"fmt ":
                self._read_format(content)
            elif name == b"ds64":
                long = self._number(content[8:16])
        if not self._width:
            raise NotPlainWaveError(self._header)
        if long is not None and length == 0xFFFFFFFF:
            length = long if 0 < long < 2**63 else 0
        elif length >= _PLACEHOLDER:
            length = 0
        self._header = b""
        self.frames = length // self._width if length else None

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "big" if self._big else "little")

    def _read_format(self, content: bytes) -> None:
        numbers = [self._number(content[place : place + 2]) for place in range(0, len(content) - 1, 2)]
        if len(numbers) < 8:
            raise NotPlainWaveError(self._header)
        tag = numbers[12] if numbers[0] == _EXTENSIBLE and len(numbers) > 12 else numbers[0]
        self.channels, self._width = numbers[1], numbers[6]
        self.sample_rate = self._number(content[4:8])
        self._bits = 8 * self._width // max(1, self.channels)
        kind = _TYPES.get((tag, self._bits))
        if kind is None or not self.channels or self._width != self.channels * self._bits // 8:
            raise NotPlainWaveError(self._header)
        self._type = np.dtype(kind).newbyteorder(">" if self._big else "<")
        self.subtype = "PCM_24" if self._bits == 24 else _SUBTYPES[kind]

    def read(self, frames: int) -> Tensor:
        """The next frames, as they arrive: float32 (channels, frames); fewer only at the end.

        Raises
        ------
        UnreadableAudioError
            When the stream ends before the length that its header gives.
        """
        wanted = frames if self._left is None else min(frames, self._left)
        data = read_fully(self._stream, wanted * self._width)
        got = len(data) // self._width
        if self._left is not None:
            if got < wanted:
                raise UnreadableAudioError(
                    f"The audio file '{self._name}' is cut short: it lacks "
                    f"{self._left - got} of {self.frames} samples; replace it.",
                    "cut short",
                )
            self._left -= got
        return self._decode(data[: got * self._width]).reshape(got, self.channels).T.contiguous()

    def _decode(self, data: bytes) -> Tensor:
        values: np.ndarray
        signal: np.ndarray
        if self._bits == 24:  # to the upper 24 of 32 bits
            triples = np.frombuffer(data, "u1").reshape(-1, 3)
            padded = np.zeros((len(triples), 4), "u1")
            padded[:, :3] = triples if self._big else triples[:, ::-1]  # from the highest byte on
            values = padded.view(">i4")[:, 0]
        else:
            values = np.frombuffer(data, self._type)
        with np.errstate(over="ignore"):  # a double may be infinite as a float, which a check of the samples finds
            signal = values.astype(np.float32)
        if self.subtype == "PCM_U8":
            signal = (signal - 128) / 128
        elif self.subtype.startswith("PCM"):
            signal = signal / np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
        return torch.from_numpy(signal)

    def close(self) -> None:
        """Nothing: the stream is the caller's."""


class NotPlainWaveError(Exception):
    """A stream holds something else than WAV of PCM or floats, and ``header`` is what was read of it."""

    def __init__(self, header: bytes) -> None:
        super().__init__("not WAV of PCM or floats")
        self.header = header


def read_fully(stream: BinaryIO, count: int) -> bytes:
    """Read some bytes from a stream that may give fewer at a time; fewer only at its end.

    Example
    -------
    >>> import io
    >>> read_fully(io.BytesIO(b"abc"), 5)
    b'abc'
    """
    parts = []
    while count and (data := stream.read(count)):
        parts.append(data)
        count -= len(data)
    return b"".join(parts)

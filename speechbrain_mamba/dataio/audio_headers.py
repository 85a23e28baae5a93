"""What the header of an audio file promises: libsndfile silently reads less if a file is cut short."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

_UNKNOWN = 0xFFFFFFFF
"""The length that a program writes which does not know it yet, since its output is a pipe."""

Reader = Callable[[int], bytes]
"""Returns the 64 bytes, or what there is of them, at a position."""


def missing_bytes(descriptor: int) -> int:
    """Count the bytes of audio that the header of an open file promises beyond the end of the file.

    This knows WAV (also RF64, W64 and big-endian), AIFF and AU. Formats that libsndfile decodes, such as FLAC, show
    their loss when they are read.

    Arguments
    ---------
    descriptor : int
        A file that is open for reading. Its position is at the beginning afterwards.

    Example
    -------
    >>> path = getfixture("tmp_path") / "cut.wav"
    >>> header = b"RIFF" + (136).to_bytes(4, "little") + b"WAVEdata" + (100).to_bytes(4, "little")
    >>> _ = path.write_bytes(header + bytes(90))
    >>> with open(path, "rb") as file:
    ...     missing_bytes(file.fileno())
    10
    """

    end = _promised_end(_reader(descriptor))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return 0 if end is None else max(0, end - os.fstat(descriptor).st_size)


def _reader(descriptor: int) -> Reader:
    def read(position: int) -> bytes:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, 64)

    return read


def is_unfinished_wave(descriptor: int) -> bool:
    """Whether an open WAV file says that it has no audio, but has: its program was stopped, or wrote to a pipe.

    Its position is at the beginning afterwards.

    Example
    -------
    >>> path = getfixture("tmp_path") / "stopped.wav"
    >>> _ = path.write_bytes(b"RIFF" + bytes(4) + b"WAVEdata" + bytes(4) + bytes(90))
    >>> with open(path, "rb") as file:
    ...     is_unfinished_wave(file.fileno())
    True
    """

    read = _reader(descriptor)
    head, unfinished = read(0), False
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        size, empty, end = os.fstat(descriptor).st_size, False, 12
        for name, start, length, _ in _chunks(read, "big" if head[:4] == b"RIFX" else "little"):
            empty = empty or (name == b"data" and not length)
            end = start + length + length % 2
        unfinished = empty and end != size  # else other chunks follow the empty one
    os.lseek(descriptor, 0, os.SEEK_SET)
    return unfinished


def _promised_end(read: Reader) -> int | None:
    """Where the audio ends by the header; None if the format is another one, or does not say."""
    head = read(0)
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return _wave_end(
            read, "big" if kind == b"RIFX" else "little", streamed=_number(head[4:8], "little") == _UNKNOWN
        )
    if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        for name, start, length, _ in _chunks(read, "big"):
            if name == b"SSND":
                return start + length
    if kind == b".snd":
        start, length = _number(head[4:8], "big"), _number(head[8:12], "big")
        return None if length == _UNKNOWN else start + length
    if kind == b"riff" and head[24:28] == b"wave":
        return _wave64_end(read)
    return None


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, order)  # type: ignore[arg-type]


def _chunks(read: Reader, order: str) -> Iterator[tuple[bytes, int, int, bytes]]:
    """Name, start, length and first bytes of each chunk of a RIFF or AIFF file."""
    position = 12
    while len(head := read(position)) >= 8:
        length = _number(head[4:8], order)
        yield head[:4], position + 8, length, head[8:]
        position += 8 + length + length % 2


def _wave_end(read: Reader, order: str, streamed: bool) -> int | None:
    long = None  # the 64-bit length of RF64
    for name, start, length, data in _chunks(read, order):
        if name == b"ds64":
            long = _number(data[8:16], "little")
        if name == b"data":
            if length == _UNKNOWN and (long is not None or streamed):
                return None if long is None else start + long
            return start + length
    return None


def _wave64_end(read: Reader) -> int | None:
    position = 40
    while len(head := read(position)) >= 24:
        length = _number(head[16:24], "little")  # with the 24 bytes of this header
        if head[:4] == b"data":
            return position + length
        position += -(-max(length, 24) // 8) * 8
    return None

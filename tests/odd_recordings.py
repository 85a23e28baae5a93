"""A folder of odd recordings, with what must become of each: the broken files of training data, and those that only
somebody who uses a model has.

    python -m tests.odd_recordings FOLDER

writes the folder. ``write_odd_recordings`` does so in a test, in a fifth of a second.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from tests.broken_data.audio import IGNORED, KINDS, SKIPPED, Kind, Write, _as, _bytes, _encode, _good, _link, _sound

READ, REFUSED = "read", "refused"
"""The fates of a recording: it is read, or there is one sentence that names it. IGNORED ones are not looked at."""

WORDS = {
    "empty file": "is empty",
    "no samples": "has no samples",
    "not audio": "cannot be read",
    "cut short": "is cut short",
    "corrupt": "is (corrupt|cut short)",
    "NaN or infinite": "holds NaN or infinite samples",
    "absurd level": "full scale is 1",
    "dangling link": "is a link to",
    "not a file": "is not a file",
    "no permission": "must not be read",
    "absurd rate": "has a sample rate of .* Hz, but",
    "needs ffmpeg": "ffmpeg|torchcodec",
}
"""What the sentence says, by the reason."""


@dataclass(frozen=True)
class OddRecording:
    """A file that was written: its path, the name of its kind, its fate, what the sentence must say (a regular
    expression), and samples per second, channels and frames of one that is read (frames None: by what it holds)."""

    path: Path
    kind: str
    fate: str
    words: str = ""
    sample_rate: int = 0
    channels: int = 0
    frames: int | None = None


def _raw(rate: int = 8000, channels: int = 1, length: int | None = None, riff: int | None = None) -> Write:
    """A WAV file whose header says anything."""

    def content(rng: np.random.Generator) -> bytes:
        data = (3000 * _sound(rng)).astype("<i2").tobytes()
        size = len(data) if length is None else length
        byte_rate = rate * channels * 2 & 0xFFFFFFFF
        form = struct.pack("<HHIIHH", 1, channels, rate, byte_rate, 2 * channels, 16)
        whole = 36 + len(data) if riff is None else riff
        return (
            b"RIFF" + struct.pack("<I", whole) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + data
        )

    return _bytes(content)


def _channels(values: np.ndarray, rate: int = 8000, subtype: str = "PCM_16") -> Write:
    return _bytes(lambda rng: _encode(_sound(rng)[:, None] * values, subtype=subtype, rate=rate))


def _long(rate: int, format: str = "WAV", subtype: str = "PCM_16") -> Write:
    return _bytes(lambda rng: _encode(_sound(rng, 60000), format, subtype, rate))


def _nested(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(exist_ok=True)
    _good(path, rng)


NEW = [
    Kind("1 Hz", _raw(rate=1), REFUSED, "absurd rate"),
    Kind("999 Hz", _as("WAV", "PCM_16", rate=999), REFUSED, "absurd rate"),
    Kind("1 kHz", _as("WAV", "PCM_16", rate=1000), READ),
    Kind("11025 Hz, 8 bits", _as("WAV", "PCM_U8", rate=11025), READ),
    Kind("44101 Hz", _as("WAV", "PCM_16", rate=44101), READ),
    Kind("192 kHz, 24 bits, FLAC", _long(192000, "FLAC", "PCM_24"), READ, suffix=".flac"),
    Kind("1 MHz", _long(1_000_000), READ),
    Kind("2 GHz", _raw(rate=2**31 - 1), REFUSED, "absurd rate"),
    Kind("0 Hz", _raw(rate=0), REFUSED, "not audio"),
    Kind("0 channels", _raw(channels=0), REFUSED, "not audio"),
    Kind("stereo, 44.1 kHz", _as("WAV", "PCM_16", 44100, 2), READ),
    Kind("stereo, Vorbis", _as("OGG", "VORBIS", 44100, 2), READ, suffix=".ogg"),
    Kind("stereo, Opus", _as("OGG", "OPUS", 48000, 2), READ, suffix=".opus"),
    Kind("stereo, MP3", _as("MP3", "MPEG_LAYER_III", 44100, 2), READ, suffix=".mp3"),
    Kind("stereo, AIFF", _as("AIFF", "PCM_24", 48000, 2), READ, suffix=".aiff"),
    Kind("stereo, CAF", _as("CAF", "ALAC_16", 48000, 2), READ, suffix=".caf"),
    Kind("stereo, AU", _as("AU", "FLOAT", 16000, 2), READ, suffix=".au"),
    Kind("seven channels", _as("WAVEX", "DOUBLE", 48000, 7), READ),
    Kind("channels that cancel", _channels(np.array([1.0, -1.0])), READ),
    Kind("one silent channel", _channels(np.array([1.0, 0.0]), 16000), READ),
    Kind("silent stereo", _channels(np.zeros(2), 44100), READ),
    Kind("NaN in one channel", _channels(np.array([1.0, np.nan]), 44100, "FLOAT"), REFUSED, "NaN or infinite"),
    Kind("one frame", _bytes(lambda rng: _encode(rng.uniform(-1, 1, (1, 2)), rate=44100)), READ),
    Kind("unfinished", _raw(length=0, riff=0), READ),
    Kind("m4a", _bytes(lambda rng: b"\0\0\0\x1cftypM4A \0\0\2\0" + rng.bytes(500)), REFUSED, "needs ffmpeg", ".m4a"),
    Kind("webm", _bytes(lambda rng: b"\x1a\x45\xdf\xa3" + rng.bytes(500)), REFUSED, "needs ffmpeg", ".webm"),
    Kind("aac", _bytes(lambda rng: b"\xff\xf1" + rng.bytes(500)), REFUSED, "needs ffmpeg", ".aac"),
    Kind("playlist as m4a", _bytes(lambda _: b"#EXTM3U\nfile:///etc/passwd\n"), REFUSED, "not audio", ".m4a"),
    Kind("spaces in name", _good, READ),
    Kind("dash in name", _good, READ),
    Kind("pattern in name", _good, READ),
    Kind("no name", _good, IGNORED),
    Kind("text beside it", _bytes(lambda _: b"notes"), IGNORED, suffix=".txt"),
    Kind("same name", _nested, READ),
    Kind("same name, other suffix", _as("FLAC", "PCM_16"), READ, suffix=".flac"),
    Kind("same name, other folder", _nested, READ),
]

_PATHS = {
    "spaces in name": "two  words .wav",
    "dash in name": "-rf.wav",
    "pattern in name": "[a]*?{b}.wav",
    "no name": ".wav",
    "same name": "first/same.wav",
    "same name, other suffix": "first/same.flac",
    "same name, other folder": "second/same.wav",
}
_READ_HERE = ("FLAC of no length", "line break in name", "tab in name", "bytes in name")
"""Kinds that no manifest takes, but a command does."""


def _fate(kind: Kind) -> str:
    if kind.fate == SKIPPED and kind.name not in _READ_HERE:
        return REFUSED
    if kind.fate in (REFUSED, IGNORED) and kind.name != "other suffix":
        return kind.fate
    return READ


def write_odd_recordings(folder: Path) -> list[OddRecording]:
    """Write one recording of each kind to a folder, some in folders below it; the same files each time.

    Links that lead back to the folder are ignored ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, kind in enumerate([*KINDS, *NEW]):
        path = folder / _PATHS.get(kind.name, kind.file_name(index))
        kind.write(path, np.random.default_rng(index))
        if kind.name == "folder with suffix":
            path = path / "inside.wav"
        fate = _fate(kind)
        if fate != READ:
            written.append(OddRecording(path, kind.name, fate, WORDS.get(kind.reason, "")))
            continue
        with open(path, "rb") as file:  # soundfile takes no names that are not UTF-8
            info = soundfile.info(file)
        known = kind.name not in ("FLAC of no length", "unfinished")
        written.append(
            OddRecording(path, kind.name, fate, "", info.samplerate, info.channels, info.frames if known else None)
        )
    _link("..")(folder / "first" / "loop", np.random.default_rng(0))
    return written


if __name__ == "__main__":
    write_odd_recordings(Path(sys.argv[1]))

"""Audio files with every kind of fault, and what a preparation at 8 kHz must do with each."""

from __future__ import annotations

import io
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
USABLE, SKIPPED, WRONG, IGNORED = "usable", "skipped", "wrong", "ignored"
"""The fates of a file: listed; left out with a reason; an error that names it; not looked at."""

Write = Callable[[Path, np.random.Generator], None]


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is written, its fate, and the reason by which it is skipped or an error."""

    name: str
    write: Write
    fate: str
    reason: str = ""
    suffix: str = ".wav"
    in_samples: bool = False
    """Whether only reading it completely finds the fault."""

    def file_name(self, index: int) -> str:
        """The name of a file of this kind."""
        return _NAMES.get(self.name, "{kind}-{index:04d}").format(kind=self.name, index=index) + self.suffix


@dataclass(frozen=True)
class Broken:
    """A file that was written: its path, and what must become of it."""

    path: str
    kind: Kind


_NAMES = {
    "line break in name": "{index:04d}\nbreak",
    "tab in name": "{index:04d}\ttab",
    "bytes in name": "{index:04d}\udcff\udc80",
    "unicode name": "{index:04d} Über 音声 'quoted', \"twice\"; 🎤",
    "long name": "{index:04d}" + "x" * 240,
    "hidden": ".{index:04d}",
}


def _sound(rng: np.random.Generator, most: int = 2400) -> np.ndarray:
    samples = int(rng.integers(most // 3, most))
    return 0.1 * np.sin(np.arange(samples) * rng.uniform(0.05, 0.3)) + 0.01 * rng.standard_normal(samples)


def _encode(signal: np.ndarray, format: str = "WAV", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, signal, rate, format=format, subtype=subtype)
    return file.getvalue()


def _encoded(rng: np.random.Generator, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    most = 40000 if format in ("FLAC", "MP3") else 2400  # several frames
    return _encode(_sound(rng, most), format, subtype)


def _as(format: str, subtype: str, rate: int = RATE, channels: int = 1) -> Write:
    return _bytes(lambda rng: _encode(np.stack([_sound(rng)] * channels, 1), format, subtype, rate))


def _bytes(content: Callable[[np.random.Generator], bytes | bytearray]) -> Write:
    def write(path: Path, rng: np.random.Generator) -> None:
        path.write_bytes(content(rng))

    return write


def _samples(values: Callable[[np.random.Generator], np.ndarray], subtype: str = "PCM_16") -> Write:
    return _bytes(lambda rng: _encode(values(rng), subtype=subtype))


def _with(value: float, subtype: str = "FLOAT") -> Write:
    """A sound with a strange sample."""

    def values(rng: np.random.Generator) -> np.ndarray:
        signal = _sound(rng)
        signal[rng.integers(len(signal))] = value
        return signal

    return _samples(values, subtype)


def _changed(change: Callable[[bytearray, np.random.Generator], bytes | bytearray], **options: str) -> Write:
    return _bytes(lambda rng: change(bytearray(_encoded(rng, **options)), rng))


def _cut(keep: float) -> Callable[[bytearray, np.random.Generator], bytearray]:
    return lambda data, _: data[: round(keep * len(data))]


def _lengths(riff: int | None, data: int) -> Callable[[bytearray, np.random.Generator], bytearray]:
    def change(content: bytearray, _: np.random.Generator) -> bytearray:
        content[40:44] = struct.pack("<I", data)
        content[4:8] = content[4:8] if riff is None else struct.pack("<I", riff)
        return content

    return change


def _flac_length(length: int) -> Callable[[bytearray, np.random.Generator], bytearray]:
    def change(content: bytearray, _: np.random.Generator) -> bytearray:
        content[21] = content[21] & 0xF0 | length >> 32
        content[22:26] = (length & 0xFFFFFFFF).to_bytes(4, "big")
        return content

    return change


def _flip(content: bytearray, rng: np.random.Generator) -> bytearray:
    middle = len(content) // 2
    content[middle : middle + 40] = rng.bytes(40)
    return content


def _link(target: str) -> Write:
    return lambda path, _: path.symlink_to(target.format(name=path.name))


def _good_link(path: Path, rng: np.random.Generator) -> None:
    target = path.parent / f".target-{path.name}"
    target.write_bytes(_encoded(rng))
    path.symlink_to(target.name)


def _folder(path: Path, rng: np.random.Generator) -> None:
    path.mkdir()
    (path / "inside.wav").write_bytes(_encoded(rng))


def _forbidden(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(_encoded(rng))
    path.chmod(0)


_good = _as("WAV", "PCM_16")
_CUT, _NONE, _BAD = "cut short", "not audio", "NaN or infinite"

KINDS = [
    Kind("good", _good, USABLE),
    Kind("24 bits", _as("WAV", "PCM_24"), USABLE),
    Kind("8 bits", _as("WAV", "PCM_U8"), USABLE),
    Kind("float", _as("WAV", "FLOAT"), USABLE),
    Kind("double", _as("WAV", "DOUBLE"), USABLE),
    Kind("mu-law", _as("WAV", "ULAW"), USABLE),
    Kind("A-law", _as("WAV", "ALAW"), USABLE),
    Kind("IMA ADPCM", _as("WAV", "IMA_ADPCM"), USABLE),
    Kind("MS ADPCM", _as("WAV", "MS_ADPCM"), USABLE),
    Kind("GSM", _as("WAV", "GSM610"), USABLE),
    Kind("extensible", _as("WAVEX", "PCM_16"), USABLE),
    Kind("RF64", _as("RF64", "PCM_16"), USABLE),
    Kind("Wave64", _as("W64", "PCM_16"), USABLE),
    Kind("AIFF", _as("AIFF", "PCM_16"), USABLE),
    Kind("AU", _as("AU", "PCM_16"), USABLE),
    Kind("FLAC", _as("FLAC", "PCM_16"), USABLE, suffix=".flac"),
    Kind("MP3 as WAV", _as("MP3", "MPEG_LAYER_III"), USABLE),
    Kind("Vorbis as WAV", _as("OGG", "VORBIS"), USABLE),
    Kind("Opus as FLAC", _as("OGG", "OPUS"), USABLE, suffix=".flac"),
    Kind("silent", _samples(lambda rng: np.zeros(rng.integers(1, 900))), USABLE),
    Kind("one sample", _samples(lambda rng: rng.uniform(-1, 1, 1)), USABLE),
    Kind("direct current", _samples(lambda rng: np.full(900, rng.uniform(-1, 1))), USABLE),
    Kind("clipped", _samples(lambda rng: np.sign(rng.standard_normal(900))), USABLE),
    Kind("loud float", _with(99.0), USABLE),
    Kind("stream", _changed(_lengths(0xFFFFFFFF, 0xFFFFFFFF)), USABLE),
    Kind("chunk behind", _changed(lambda data, rng: data + b"LIST\x0a\0\0\0" + rng.bytes(10)), USABLE),
    Kind("capital suffix", _good, USABLE, suffix=".WAV"),
    Kind("unicode name", _good, USABLE),
    Kind("long name", _good, USABLE),
    Kind("good link", _good_link, USABLE),
    Kind("folder with suffix", _folder, USABLE),
    Kind("empty file", _bytes(lambda _: b""), SKIPPED, "empty file"),
    Kind("no samples", _samples(lambda _: np.zeros(0)), SKIPPED, "no samples"),
    Kind("cut in the header", _changed(lambda data, rng: data[: rng.integers(1, 40)]), SKIPPED, _NONE),
    Kind("cut in the data", _changed(_cut(0.6)), SKIPPED, _CUT),
    Kind("one byte short", _changed(lambda data, _: data[:-1]), SKIPPED, _CUT),
    Kind("cut float", _changed(_cut(0.6), subtype="FLOAT"), SKIPPED, _CUT),
    Kind("cut RF64", _changed(_cut(0.6), format="RF64"), SKIPPED, _CUT),
    Kind("cut Wave64", _changed(_cut(0.6), format="W64"), SKIPPED, _CUT),
    Kind("cut AIFF", _changed(_cut(0.6), format="AIFF"), SKIPPED, _CUT),
    Kind("cut AU", _changed(_cut(0.6), format="AU"), SKIPPED, _CUT),
    Kind("cut FLAC", _changed(_cut(0.6), format="FLAC"), SKIPPED, "corrupt", ".flac"),
    Kind("cut MP3", _changed(_cut(0.6), format="MP3", subtype="MPEG_LAYER_III"), SKIPPED, _CUT),
    Kind("lie of 100 bytes", _changed(lambda data, rng: _lengths(None, len(data) + 56)(data, rng)), SKIPPED, _CUT),
    Kind("lie of 2 GB", _changed(_lengths(0x7FFFFFFF, 0x7FFFFFFF)), SKIPPED, _CUT),
    Kind("lie of 4 GB", _changed(_lengths(None, 0xFFFFFFFF)), SKIPPED, _CUT),
    Kind("lie of a FLAC", _changed(_flac_length(2**36 - 1), format="FLAC"), SKIPPED, "corrupt", ".flac"),
    Kind("FLAC of no length", _changed(_flac_length(0), format="FLAC"), SKIPPED, "unknown length", ".flac"),
    Kind("flipped FLAC", _changed(_flip, format="FLAC"), SKIPPED, "corrupt", ".flac", in_samples=True),
    Kind("random bytes", _bytes(lambda rng: b"\0\1\2\3" + rng.bytes(3000)), SKIPPED, _NONE),
    Kind("text", _bytes(lambda _: b"This is not audio.\n" * 50), SKIPPED, _NONE),
    Kind("web page", _bytes(lambda _: b"<!DOCTYPE html><html>404 Not Found</html>"), SKIPPED, _NONE, ".flac"),
    Kind("zeros", _bytes(lambda _: bytes(4000)), SKIPPED, _NONE),
    Kind("NaN", _with(np.nan), SKIPPED, _BAD),
    Kind("infinite", _with(np.inf), SKIPPED, _BAD),
    Kind("minus infinite", _with(-np.inf, "DOUBLE"), SKIPPED, _BAD),
    Kind("1e300", _with(1e300, "DOUBLE"), SKIPPED, _BAD),
    Kind("1e20", _with(1e20), SKIPPED, "absurd level"),
    Kind("-1e20", _with(-1e20, "DOUBLE"), SKIPPED, "absurd level"),
    Kind("scale of integers", _samples(lambda rng: 2**15 * _sound(rng), "FLOAT"), SKIPPED, "absurd level"),
    Kind("dangling link", _link("gone-{name}"), SKIPPED, "dangling link"),
    Kind("link to itself", _link("{name}"), SKIPPED, "dangling link"),
    Kind("pipe", lambda path, _: os.mkfifo(path), SKIPPED, "not a file"),
    Kind("line break in name", _good, SKIPPED, "control character in name"),
    Kind("tab in name", _good, SKIPPED, "control character in name"),
    Kind("bytes in name", _good, SKIPPED, "name is not UTF-8"),
    Kind("16 kHz", _as("WAV", "PCM_16", rate=16000), WRONG, "16000 Hz, but 8000 Hz are wanted"),
    Kind("44.1 kHz, FLAC", _as("FLAC", "PCM_16", rate=44100), WRONG, "44100 Hz, but 8000 Hz are wanted", ".flac"),
    Kind("stereo", _as("WAV", "PCM_16", channels=2), WRONG, "2 channels, but must be mono"),
    Kind("six channels", _as("WAV", "FLOAT", channels=6), WRONG, "6 channels, but must be mono"),
    Kind("hidden", _good, IGNORED),
    Kind("other suffix", _as("MP3", "MPEG_LAYER_III"), IGNORED, suffix=".mp3"),
    Kind("link to the folder above", _link(".."), IGNORED, suffix=""),
    Kind("link to the folder", _link("."), IGNORED, suffix=""),
]
if os.geteuid() != 0:  # whom nothing is forbidden
    KINDS.append(Kind("forbidden", _forbidden, SKIPPED, "no permission"))


def write_audio_files(folder: Path, count: int, speakers: int = 20, seed: int = 0) -> list[Broken]:
    """Write files of all kinds in turn to ``folder/speaker``; the same files each time.

    Returns what was written, links to folders and the files in folders included. Each speaker also gets a good file.
    """
    written = []
    good = KINDS[0]
    turn: Iterator[Kind] = itertools.chain([good] * speakers, itertools.cycle(KINDS))
    for index, kind in zip(range(count), turn):
        path = folder / f"s{index % speakers:02d}" / kind.file_name(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        kind.write(path, np.random.default_rng((seed, index)))
        written.append(Broken(str(path / "inside.wav" if kind.name == "folder with suffix" else path), kind))
    return written

"""Any recording: odd files, streams, blocks."""

import contextlib
import gc
import io
import os
import re
import struct
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from speechbrain_mamba.dataio import recordings
from speechbrain_mamba.dataio.audio import UnreadableAudioError
from speechbrain_mamba.dataio.recordings import open_recording, read_recording
from tests.odd_recordings import IGNORED, READ, write_odd_recordings


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return [odd for odd in write_odd_recordings(tmp_path_factory.mktemp("odd")) if odd.fate != IGNORED]


def test_every_odd_recording_is_read_or_refused_in_a_sentence_that_names_it(odd, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no ffmpeg
    differences = []
    for file in odd:
        try:
            recording = read_recording(file.path, 8000, "each")
        except (UnreadableAudioError, FileNotFoundError) as error:
            told = str(error)
            if file.fate == READ or not re.search(file.words, told) or file.path.name not in told or "\n" in told:
                differences.append(f"{file.kind}: {told}")
            continue
        source = recording.source
        length = -(-source.frames * 8000 // source.sample_rate)
        if file.fate != READ or recording.signal.shape != (file.channels, length):
            differences.append(f"{file.kind}: {recording.signal.shape}, {source}")
        if (source.sample_rate, source.frames) != (file.sample_rate, file.frames or source.frames):
            differences.append(f"{file.kind}: {source} instead of {file}")
        if not recording.signal.isfinite().all() or recording.signal.dtype != torch.float32:
            differences.append(f"{file.kind}: {recording.signal}")
        if ("silent" in file.kind and "one" not in file.kind) and recording.signal.any():
            differences.append(f"{file.kind}: not silent")
    assert differences == []
    assert len(odd) > 90 and sum(file.fate == READ for file in odd) > 50


def test_no_file_stays_open(odd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for file in odd:
            with contextlib.suppress(UnreadableAudioError, FileNotFoundError):
                read_recording(file.path)
        gc.collect()
        after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize(("channels", "count"), [("mix", 1), ("each", 2)])
def test_the_shape_does_not_depend_on_the_rate_of_the_file(tmp_path, rate, channels, count):
    signal = np.random.default_rng(0).uniform(-0.5, 0.5, (rate // 2, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", signal, rate, subtype="FLOAT")
    recording = read_recording(tmp_path / "a.wav", 8000, channels)
    assert recording.signal.shape == (count, 4000)
    wanted = torch.from_numpy(signal.T).double()
    wanted = wanted.mean(0, keepdim=True) if channels == "mix" else wanted
    wanted = torchaudio.functional.resample(wanted, rate, 8000)
    assert (recording.signal - wanted).abs().max() < 1e-5
    assert [("has 2 channels, which are mixed" in notice) for notice in recording.notices] == [True] * (count == 1)


@pytest.mark.parametrize("size", [1, 7, 999, 4000])
def test_blocks_are_the_whole(tmp_path, monkeypatch, size):
    monkeypatch.setattr(recordings, "_VALUES", 1000)
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-0.5, 0.5, (7001, 2)), 22050)
    whole = read_recording(tmp_path / "a.flac", 8000, "each").signal
    with open_recording(tmp_path / "a.flac", 8000, "each") as reader:
        assert reader.samples == whole.shape[1] == 2541
        blocks = list(reader.blocks(size))
        assert reader.read(5).shape == (2, 0)
    assert {block.shape[1] for block in blocks[:-1]} <= {size} and 0 < blocks[-1].shape[1] <= size
    torch.testing.assert_close(torch.cat(blocks, 1), whole, atol=1e-6, rtol=0)


def test_a_block_is_bounded_for_any_number_of_channels(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros((3000, 600)), 8000)
    asked = []
    read = recordings._SoundFileDecoder.read
    monkeypatch.setattr(
        recordings._SoundFileDecoder, "read", lambda self, frames: asked.append(frames) or read(self, frames)
    )
    assert read_recording(tmp_path / "a.wav").signal.shape == (1, 3000)
    assert max(asked) * 600 <= recordings._VALUES


def test_channels_that_cancel_are_told(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(tmp_path / "a.wav", np.stack([noise, -noise], 1), 8000)
    assert any("cancel each other" in notice for notice in read_recording(tmp_path / "a.wav").notices)
    assert read_recording(tmp_path / "a.wav", channels="each").notices == []
    soundfile.write(tmp_path / "b.wav", np.stack([noise, 0 * noise], 1), 8000)
    soundfile.write(tmp_path / "c.wav", np.zeros((4000, 2)), 8000)
    for name in ("b", "c"):
        assert len(read_recording(tmp_path / f"{name}.wav").notices) == 1


def test_durations_outside_of_the_limits_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(4000), 8000)
    soundfile.write(tmp_path / "one.wav", np.zeros(1), 8000)
    assert read_recording(tmp_path / "a.wav", min_seconds=0.5, max_seconds=0.5).seconds == 0.5
    with pytest.raises(
        UnreadableAudioError, match=r"one.wav' is too short: it lasts 0.125 ms \(1 samples\), and at least"
    ):
        read_recording(tmp_path / "one.wav", 16000, min_seconds=0.01)
    with pytest.raises(UnreadableAudioError, match=r"a.wav' is too long: it lasts 500 ms, and at most 250 ms are"):
        open_recording(tmp_path / "a.wav", max_seconds=0.25)


def test_wrong_arguments_are_told(tmp_path):
    with pytest.raises(ValueError, match="channels is 'left', but must be one of mix, each"):
        open_recording(tmp_path / "a.wav", channels="left")
    with pytest.raises(ValueError, match=r"sample_rate is 0.5, but must be a whole number"):
        open_recording(tmp_path / "a.wav", 0.5)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_recording(tmp_path / "a.wav")
    with pytest.raises(TypeError, match="open for text"):
        open_recording(io.StringIO("text"))


def test_a_fault_in_the_middle_comes_with_its_block(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "_VALUES", 1000)
    signal = np.zeros(5000, np.float32)
    signal[3500] = np.nan
    soundfile.write(tmp_path / "a.wav", signal, 8000, subtype="FLOAT")
    with open_recording(tmp_path / "a.wav") as reader:
        assert reader.read(3000).shape == (1, 3000)
        with pytest.raises(UnreadableAudioError, match=r"a\.wav' holds NaN"):
            reader.read(3000)


def test_a_file_whose_program_was_stopped_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.wav"
    data = bytearray(encoded(SIGNAL))
    data[4:8] = data[40:44] = bytes(4)
    path.write_bytes(data)
    recording = read_recording(path, channels="each")
    assert recording.notices == [f"The header of '{path}' says that it is empty: it is read to its end."]
    assert recording.source.frames == 1500
    path.write_bytes(bytes(data[:44]) + b"LIST\x04\0\0\0more")
    with pytest.raises(UnreadableAudioError, match="has no samples"):
        read_recording(path)


def test_what_is_added_while_it_is_read_is_left_out(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(4000, 0.5), 8000)
    with open_recording(path) as reader:
        with open(path, "ab") as file:
            file.write(bytes(1000))
        assert sum(block.shape[1] for block in reader.blocks(999)) == 4000
        assert reader.notices == [f"'{path}' grew while it was read: what was added is left out."]


def test_what_is_taken_while_it_is_read_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "_VALUES", 1000)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(40000, 0.5), 8000)
    with open_recording(path) as reader:
        os.truncate(path, 20000)
        with pytest.raises(UnreadableAudioError, match=r"a\.wav' is cut short: it lacks"):
            list(reader.blocks(1000))


def encoded(signal, format="WAV", subtype="PCM_16", rate=16000, endian="FILE"):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, signal.shape[1], subtype, endian, format) as sound:
        sound.write(signal)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives few bytes at a time."""

    def __init__(self, data):
        self.left = data

    def readable(self):
        return True

    def read(self, count=-1):
        count = min(100, len(self.left)) if count < 0 else min(count, 100)
        taken, self.left = self.left[:count], self.left[count:]
        return taken


SIGNAL = np.random.default_rng(0).uniform(-0.9, 0.9, (1500, 2))


@pytest.mark.parametrize(
    ("format", "subtype", "endian"),
    [
        *(("WAV", subtype, "FILE") for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")),
        *(("WAV", subtype, "BIG") for subtype in ("PCM_16", "PCM_24", "FLOAT")),
        ("WAVEX", "PCM_24", "FILE"), ("RF64", "PCM_16", "FILE"), ("FLAC", "PCM_24", "FILE"), ("OGG", "VORBIS", "FILE"),
    ],
)  # fmt: skip
def test_streams_are_read_like_files(tmp_path, format, subtype, endian):
    data = encoded(SIGNAL, format, subtype, endian=endian)
    (tmp_path / "a.wav").write_bytes(data)
    whole = read_recording(tmp_path / "a.wav", 8000, "each")
    stream = read_recording(Pipe(data), 8000, "each")
    assert torch.equal(stream.signal, whole.signal)
    assert (stream.source, stream.name) == (whole.source, "stream")
    with pytest.raises(UnreadableAudioError, match=r"'stream' (is cut short|is corrupt|cannot be read)"):
        read_recording(Pipe(data[: len(data) * 2 // 3]), 8000)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_stream_need_not_know_its_length(length):
    data = bytearray(encoded(SIGNAL))
    data[4:8], data[40:44] = struct.pack("<I", length), struct.pack("<I", length)
    with open_recording(Pipe(bytes(data)), 8000, "each") as reader:
        assert reader.source.frames is reader.samples is None
        signal = torch.cat(list(reader.blocks(300)), 1)
        assert (reader.source.frames, reader.samples) == (1500, 750)
    assert torch.equal(signal, read_recording(Pipe(encoded(SIGNAL)), 8000, "each").signal)
    with pytest.raises(UnreadableAudioError, match="is too short"):
        read_recording(Pipe(bytes(data)), min_seconds=1)
    with pytest.raises(UnreadableAudioError, match="is too long"):
        read_recording(Pipe(bytes(data)), max_seconds=0.01)
    with pytest.raises(UnreadableAudioError, match="has no samples"):
        read_recording(Pipe(bytes(data[:44])))


def test_a_stream_of_wav_is_read_as_it_arrives():
    ours, theirs = os.pipe()
    data = bytearray(encoded(SIGNAL))
    data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    with open(ours, "rb") as stream, open(theirs, "wb", buffering=0) as source:
        source.write(data[:44])
        with open_recording(stream, channels="each") as reader:
            threading.Timer(0.05, lambda: source.write(data[44:])).start()
            assert reader.read(100).shape == (2, 100)  # the pipe is still open
            assert reader.read(1400).shape == (2, 1400)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"not audio" * 99, b"RIFF\0\0\0\0WAVE" + b"fmt \xff\xff\xff\xff" * 9]
)
def test_a_stream_that_is_no_audio_is_refused(content):
    with pytest.raises(UnreadableAudioError, match=r"'stream' (is empty|cannot be read)"):
        read_recording(Pipe(content))


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(encoded(SIGNAL))))
    recording = read_recording("-", 8000)
    assert recording.signal.shape == (1, 750)
    assert recording.notices == ["'standard input' has 2 channels, which are mixed to one (their average)."]
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(UnreadableAudioError, match="Standard input is a terminal: pipe"):
        read_recording("-")


MEMORY = """
import resource, sys
from speechbrain_mamba.dataio.recording_writer import RecordingWriter, write_together
from speechbrain_mamba.dataio.recordings import open_recording
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_recording(sys.argv[1], 8000) as reader:
    with RecordingWriter(sys.argv[1] + "out.wav", 8000, like=reader) as writer:
        for block in reader.blocks(80000):
            writer.write(block)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024)
"""


@pytest.mark.slow
def test_ten_minutes_are_read_and_written_in_little_memory(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 22050, 2) as file:
        for _ in range(10):
            file.write(np.zeros((60 * 22050, 2), np.int16))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "a.wav")]
    megabytes = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert megabytes < 60  # all samples take 106 in float32
    assert soundfile.info(tmp_path / "a.wavout.wav").frames == 600 * 22050

"""Recordings that are written: as long as their source, complete or not at all."""

import io
import os
import sys
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from speechbrain_mamba.dataio import recording_writer
from speechbrain_mamba.dataio.recording_writer import RecordingWriter, write_recording, write_together
from speechbrain_mamba.dataio.recordings import open_recording, read_recording
from speechbrain_mamba.utils.files import remove_temporaries
from speechbrain_mamba.utils.mistakes import is_full


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def copy(source, target, model_rate, size=1000, channels="each", **options):
    """Read a file at a model's rate, and write what was read."""
    with (
        open_recording(source, model_rate, channels) as reader,
        RecordingWriter(target, model_rate, reader.channels, like=reader, **options) as writer,
    ):
        for block in reader.blocks(size):
            writer.write(block)
    return writer


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([8000, 11025, 16000, 22050, 44100, 44101, 48000, 192000]),
    st.sampled_from([8000, 16000]), st.integers(1, 3000), st.integers(1, 2), st.integers(50, 4000),
)  # fmt: skip
def test_the_file_has_the_rate_and_the_frames_of_its_source(tmp_path, rate, model_rate, frames, channels, size):
    signal = 0.5 * np.sin(np.arange(frames) * 2 * np.pi * 300 / rate)[:, None].repeat(channels, 1)
    soundfile.write(tmp_path / "in.wav", signal, rate, subtype="FLOAT")
    copy(tmp_path / "in.wav", tmp_path / "out.wav", model_rate, size, force=True)
    written, got_rate = soundfile.read(tmp_path / "out.wav", always_2d=True)
    assert (written.shape, got_rate) == (signal.shape, rate)
    inner = slice(rate // 50, frames - rate // 50)
    assert np.abs(written - signal)[inner].max(initial=0) < 0.01
    assert names(tmp_path) == ["in.wav", "out.wav"]


@pytest.mark.parametrize(
    ("suffix", "subtype", "written"),
    [
        *(("wav", same, same) for same in ("PCM_16", "PCM_24", "PCM_32", "FLOAT")),
        ("wav", "PCM_U8", "PCM_16"), ("wav", "DOUBLE", "FLOAT"), ("wav", "ULAW", "PCM_16"),
        ("flac", "PCM_16", "PCM_16"), ("flac", "FLOAT", "PCM_24"), ("flac", "PCM_32", "PCM_24"),
        ("ogg", "PCM_24", "VORBIS"), ("opus", "PCM_16", "OPUS"), ("mp3", "PCM_16", "MPEG_LAYER_III"),
        ("aiff", "PCM_24", "PCM_24"), ("au", "FLOAT", "FLOAT"),
    ],
)  # fmt: skip
def test_the_suffix_gives_the_format_and_the_source_that_of_the_samples(tmp_path, suffix, subtype, written):
    signal = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(tmp_path / "in.wav", signal, 16000, subtype=subtype)
    copy(tmp_path / "in.wav", tmp_path / f"out.{suffix}", 16000)
    info = soundfile.info(tmp_path / f"out.{suffix}")
    assert (info.subtype, info.frames, info.samplerate) == (written, 4000, 16000)
    if written == subtype in ("PCM_16", "PCM_24"):
        assert np.array_equal(*(soundfile.read(tmp_path / name)[0] for name in ("in.wav", f"out.{suffix}")))


def test_another_rate_and_subtype_by_option(tmp_path):
    soundfile.write(tmp_path / "in.wav", np.zeros(4411), 44100)
    copy(tmp_path / "in.wav", tmp_path / "out.wav", 8000, rate=8000, subtype="FLOAT")
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.frames, info.subtype) == (8000, 801, "FLOAT")


def write_blocks(path, signal, **options):
    """Write a file whose length is not known before its end."""
    with RecordingWriter(path, 8000, len(signal), **options) as writer:
        for block in signal.split(700, 1):
            writer.write(block)


def test_a_file_of_unknown_length_becomes_a_plain_wav_file(tmp_path, monkeypatch):
    signal = torch.randn(2, 3000) / 10
    write_recording(tmp_path / "known.wav", signal, 8000)
    write_blocks(tmp_path / "unknown.wav", signal)
    for name in ("known", "unknown"):
        with wave.open(str(tmp_path / f"{name}.wav")) as file:  # which knows no RF64
            assert file.getparams()[:4] == (2, 2, 8000, 3000)
        assert soundfile.info(tmp_path / f"{name}.wav").format == "WAV"
        rate, samples = wavfile.read(tmp_path / f"{name}.wav")
        assert (rate, samples.shape) == (8000, (3000, 2))
        read = read_recording(tmp_path / f"{name}.wav", channels="each").signal
        torch.testing.assert_close(read, signal, atol=4e-5, rtol=0)
    write_blocks(tmp_path / "float.wav", signal, subtype="FLOAT")
    assert torch.equal(read_recording(tmp_path / "float.wav", channels="each").signal, signal)
    monkeypatch.setattr(recording_writer, "_WAVE_BYTES", 10000)
    write_blocks(tmp_path / "large.wav", signal)
    assert soundfile.info(tmp_path / "large.wav").format == "RF64"
    read = read_recording(tmp_path / "large.wav", channels="each").signal
    torch.testing.assert_close(read, signal, atol=4e-5, rtol=0)


@pytest.mark.parametrize(("limit", "format"), [(12000, "WAV"), (11999, "RF64")])
def test_a_file_that_becomes_too_large_for_wav_is_rf64(tmp_path, monkeypatch, limit, format):
    monkeypatch.setattr(recording_writer, "_WAVE_BYTES", limit)
    soundfile.write(tmp_path / "in.wav", np.zeros((3000, 2)), 16000)
    copy(tmp_path / "in.wav", tmp_path / "out.wav", 8000)
    assert soundfile.info(tmp_path / "out.wav").format == format
    copy(tmp_path / "in.wav", tmp_path / "half.wav", 8000, rate=8000)
    assert soundfile.info(tmp_path / "half.wav").format == "WAV"


def test_nothing_is_replaced_without_force(tmp_path):
    target = tmp_path / "a.wav"
    target.write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.wav' exists: choose another name, or replace it with --force"):
        RecordingWriter(target, 8000)
    assert target.read_text() == "mine"
    write_recording(target, torch.zeros(9), 8000, force=True)
    assert soundfile.info(target).frames == 9
    late = tmp_path / "late.wav"
    with pytest.raises(FileExistsError, match=r"late\.wav' exists"), RecordingWriter(late, 8000) as writer:
        writer.write(torch.zeros(9))
        late.write_text("somebody else's")
    assert late.read_text() == "somebody else's"
    (tmp_path / "link.wav").symlink_to("gone.wav")
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path / "link.wav", 8000)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        RecordingWriter(tmp_path, 8000, force=True)
    assert names(tmp_path) == ["a.wav", "late.wav", "link.wav"]


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    write_recording(tmp_path / "a.wav", torch.zeros(9), 8000)
    with pytest.raises(FileExistsError), RecordingWriter(tmp_path / "b.wav", 8000) as writer:
        writer.write(torch.zeros(9))
        (tmp_path / "b.wav").write_text("somebody else's")
    assert names(tmp_path) == ["a.wav", "b.wav"] and (tmp_path / "b.wav").read_text() == "somebody else's"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_nothing_is_left_behind(tmp_path, error):
    (tmp_path / "old.wav").write_text("old")
    raised = error if isinstance(error, type) else OSError
    with pytest.raises(raised), RecordingWriter(tmp_path / "new" / "a.wav", 8000) as writer:
        writer.write(torch.zeros(99999))
        assert len(names(tmp_path / "new")) == 1
        raise error
    assert names(tmp_path / "new") == []
    writers = [RecordingWriter(tmp_path / name, 8000, force=True) for name in ("a.wav", "old.wav")]
    with pytest.raises(raised), write_together(writers):
        for writer in writers:
            writer.write(torch.zeros(9))
        raise error
    assert names(tmp_path) == ["new", "old.wav"] and (tmp_path / "old.wav").read_text() == "old"


def test_files_that_belong_together_appear_together(tmp_path):
    writers = [RecordingWriter(tmp_path / f"{number}.wav", 8000) for number in range(3)]
    with pytest.raises(FileExistsError, match=r"1\.wav' exists"), write_together(writers):
        for writer in writers:
            writer.write(torch.zeros(9))
        (tmp_path / "1.wav").write_text("mine")
    assert names(tmp_path) == ["1.wav"]
    pair = [RecordingWriter(tmp_path / f"{number}.wav", 8000) for number in (2, 3)]
    with pytest.raises(ValueError, match=r"There are no samples for '.*3\.wav'"), write_together(pair):
        pair[0].write(torch.zeros(9))
    assert names(tmp_path) == ["1.wav"]


def test_a_killed_writer_leaves_what_remove_temporaries_knows(tmp_path):
    writer = RecordingWriter(tmp_path / "a.wav", 8000)
    writer.write(torch.zeros(9))
    assert [path.suffix for path in remove_temporaries(tmp_path)] == [".wav"]
    writer.abort()


def test_samples_that_do_not_fit_the_source_are_an_error(tmp_path):
    soundfile.write(tmp_path / "in.wav", np.zeros(4410), 44100)
    recording = read_recording(tmp_path / "in.wav", 8000)
    for change in (-1, 1):
        with pytest.raises(ValueError, match=rf"out.wav' got {800 + change} samples, but its source has 800"):
            write_recording(tmp_path / "out.wav", torch.zeros(800 + change), 8000, like=recording)
    writer = RecordingWriter(tmp_path / "out.wav", 8000)
    with pytest.raises(ValueError, match=r"has shape \(2, 5\), but must be \(1, samples\)"), writer:
        writer.write(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="are NaN or infinite: nothing is written"):
        write_recording(tmp_path / "out.wav", torch.tensor([0.0, float("nan")]), 8000)
    assert names(tmp_path) == ["in.wav"]


def test_formats_that_cannot_be_written_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"has the suffix '.m4a', but audio is written to .wav, .flac"):
        RecordingWriter(tmp_path / "a.m4a", 8000)
    with pytest.raises(ValueError, match=r"a.mp3' cannot be written with 12345 Hz and 1 channels"):
        write_recording(tmp_path / "a.mp3", torch.zeros(9), 12345)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"file' is a file: nothing can be written below it"):
        write_recording(tmp_path / "file" / "a.wav", torch.zeros(9), 8000)
    assert names(tmp_path) == ["file"]


def test_clipped_samples_are_counted_but_floats_keep_theirs(tmp_path):
    signal = torch.tensor([0.0, 1.0, -1.0, 1.5, -3.0])
    assert write_recording(tmp_path / "a.wav", signal, 8000) == [
        f"2 of 5 samples in '{tmp_path / 'a.wav'}' were above full scale and are clipped."
    ]
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [0, 32767, -32768, 32767, -32768]
    assert write_recording(tmp_path / "b.wav", signal, 8000, subtype="FLOAT") == []
    assert soundfile.read(tmp_path / "b.wav")[0].tolist() == signal.tolist()


def test_names_of_any_bytes_and_any_length(tmp_path):
    for name in ("\udcff\udc80.wav", "x" * 250 + ".wav", "ü" * 120 + ".wav"):
        write_recording(tmp_path / name, torch.zeros(9), 8000)
        assert read_recording(tmp_path / name).signal.shape == (1, 9)


def test_standard_output(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    write_recording("-", torch.zeros(2, 99), 8000)
    out.buffer.seek(0)
    assert soundfile.read(out.buffer)[0].shape == (99, 2)
    monkeypatch.setattr(sys, "stdout", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(ValueError, match="Standard output is a terminal: redirect it"):
        RecordingWriter("-", 8000)


@pytest.mark.parametrize(
    ("free", "words", "full"),
    [(0, r"The disk is full, '.*a\.wav' is not written", True), (2**40, r"a\.wav' cannot be written \(.*\)\.", False)],
)
def test_a_full_disk_is_told(tmp_path, monkeypatch, free, words, full):
    writer = RecordingWriter(tmp_path / "a.wav", 8000)
    writer.write(torch.zeros(9))

    def write(*_):
        raise soundfile.LibsndfileError(2)  # "System error."

    monkeypatch.setattr(writer._file, "write", write)
    monkeypatch.setattr(recording_writer.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError, match=words) as caught, writer:
        writer.write(torch.zeros(9))
    assert is_full(caught.value) == full and names(tmp_path) == []

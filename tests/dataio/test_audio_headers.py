"""Headers that promise more than the file holds."""

import os
import struct

import numpy as np
import pytest
import soundfile

from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info, check_audio, read_audio
from speechbrain_mamba.dataio.audio_headers import missing_bytes

FORMATS = [
    *((format, subtype, "FILE") for format, subtype in [
        ("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"),
        ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"),
    ]),
    ("WAV", "PCM_16", "BIG"),
]  # fmt: skip


def missing(path):
    with open(path, "rb") as file:
        count = missing_bytes(file.fileno())
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0
        return count


@pytest.mark.parametrize(("format", "subtype", "endian"), FORMATS)
def test_a_file_that_is_cut_lacks_what_was_cut(tmp_path, format, subtype, endian):
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, subtype, endian, format) as file:
        file.write(np.sin(np.arange(4000)))
    assert missing(path) == 0
    assert check_audio(path, 8000, whole=True).samples >= 4000
    data = path.read_bytes()
    path.write_bytes(data + b"LIST\x04\0\0\0more")
    assert missing(path) == 0
    path.write_bytes(data[:-200])
    assert 198 <= missing(path) <= 200  # a chunk of odd length is filled up
    for function in (audio_info, read_audio, check_audio):
        with pytest.raises(UnreadableAudioError, match=r"a\.wav' is cut short: its header promises [12]") as caught:
            function(path)
        assert caught.value.reason == "cut short"
    path.write_bytes(data[:20])
    assert missing(path) == (len(data) - 20 if format == "AU" else 0)  # libsndfile tells


@pytest.mark.parametrize("chunk", [b"", b"LIST\x05\0\0\0hello\0"])
def test_a_chunk_before_the_audio_is_no_audio(tmp_path, chunk):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[:36] + chunk + data[36:-10])
    assert missing(tmp_path / "a.wav") == 10


@pytest.mark.parametrize(
    ("riff", "length", "lacks"),
    [(0xFFFFFFFF, 0xFFFFFFFF, 0), (236, 0xFFFFFFFF, 0xFFFFFFFF - 200), (0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 200)],
)
def test_only_a_stream_may_leave_its_length_open(tmp_path, riff, length, lacks):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(100, 0.5), 8000)
    data = bytearray(path.read_bytes())
    data[4:8], data[40:44] = struct.pack("<I", riff), struct.pack("<I", length)
    path.write_bytes(data)
    assert missing(path) == lacks
    if lacks:
        with pytest.raises(UnreadableAudioError, match=f"header promises {lacks} more bytes"):
            read_audio(path)
    else:
        assert read_audio(path).tolist() == [0.5] * 100


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0AVI data\xff\0\0\0", b"fLaC", b"?" * 99]
)
def test_other_files_promise_nothing(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert missing(tmp_path / "a") == 0

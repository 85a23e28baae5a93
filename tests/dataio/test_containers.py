"""Containers that libsndfile does not read, with stand-ins for ffmpeg and torchcodec.

ffmpeg itself was seen with the same arguments, version 9.0.2: the first bytes of its output and its messages are here.
"""

import io
import json
import os
import sys
import time
import types

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_mamba.dataio.audio import UnreadableAudioError
from speechbrain_mamba.dataio.containers import container_format, ffmpeg_arguments
from speechbrain_mamba.dataio.recordings import open_recording, read_recording

MP4 = b"\0\0\0\x1cftypM4A \0\0\2\0"
SIGNAL = np.random.default_rng(0).uniform(-0.5, 0.5, (30000, 2)).astype("<f4")

FFMPEG = """#!{python}
import json, sys, time
json.dump(sys.argv[1:], open({log!r}, "w"))
plan = json.load(open({plan!r}))
out = sys.stdout.buffer
out.write(open({output!r}, "rb").read()[:plan["bytes"]])
out.flush()
sys.stderr.write(plan["says"])
time.sleep(plan["waits"])
sys.exit(plan["status"])
"""


def wave_output():
    """What ffmpeg writes: a list of tags before the samples, and no lengths."""
    facts = (3).to_bytes(2, "little") + (2).to_bytes(2, "little") + (44100).to_bytes(4, "little")
    facts += (352800).to_bytes(4, "little") + (8).to_bytes(2, "little") + (32).to_bytes(2, "little") + b"\0\0"
    tags = b"INFOISFT\x0d\0\0\0Lavf63.1.102\0\0"
    unknown = b"\xff" * 4
    listed = b"LIST" + len(tags).to_bytes(4, "little") + tags
    return b"RIFF" + unknown + b"WAVEfmt \x12\0\0\0" + facts + listed + b"data" + unknown + SIGNAL.tobytes()


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Put a program called ffmpeg on PATH; the function returned sets what it does, and gives its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    files = {name: str(folder / name) for name in ("log", "plan", "output")}
    (folder / "output").write_bytes(wave_output())
    (folder / "ffmpeg").write_text(FFMPEG.format(python=f"{sys.executable} -IS", **files))
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))

    def plan(status=0, says="", size=None, waits=0):
        (folder / "plan").write_text(json.dumps({"bytes": size, "says": says, "waits": waits, "status": status}))
        return lambda: json.loads((folder / "log").read_text())

    return plan


def test_formats_are_known_by_their_first_bytes():
    assert container_format(MP4) == "mov"
    assert container_format(b"\x1a\x45\xdf\xa3....") == "matroska"
    assert container_format(b"\xff\xf1\x50\x80") == container_format(b"\xff\xf9\x50\x80") == "aac"
    assert container_format(b"\x30\x26\xb2\x75\x8e\x66") == "asf"
    assert container_format(b"#!AMR\n") == "amr"
    for other in (b"", b"\xff", b"RIFF....WAVE", b"fLaC", b"OggS", b"ID3\4", b"\xff\xfb\x90\x64", b"#EXTM3U\n"):
        assert container_format(other) is None


def test_the_arguments_of_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ffmpeg_arguments("-i http:x.m4a", "mov")
    assert given == [
        "-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", "-protocol_whitelist", "file,pipe",
        "-f", "mov", "-i", f"file:{tmp_path}/-i http:x.m4a",
        "-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1",
    ]  # fmt: skip


def test_ffmpeg_decodes(tmp_path, ffmpeg):
    arguments = ffmpeg()
    path = tmp_path / "a b.m4a"
    path.write_bytes(MP4)
    with open_recording(path, 16000, "each") as reader:
        assert (reader.source.frames, reader.samples) == (None, None)
        signal = torch.cat(list(reader.blocks(1000)), 1)
        assert (reader.source.frames, reader.samples) == (30000, 10885)
        assert (reader.source.sample_rate, reader.source.subtype, reader.notices) == (44100, "PCM_16", [])
    assert arguments() == ffmpeg_arguments(path, "mov")
    soundfile.write(tmp_path / "same.wav", SIGNAL, 44100, subtype="FLOAT")
    assert torch.equal(signal, read_recording(tmp_path / "same.wav", 16000, "each").signal)


def test_a_stream_is_decoded_by_ffmpeg_too(ffmpeg):
    arguments = ffmpeg()
    assert read_recording(io.BytesIO(MP4 + b"more")).signal.shape == (1, 30000)
    path = arguments()[arguments().index("-i") + 1].removeprefix("file:")
    assert os.path.isabs(path) and not os.path.exists(path)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"status": 183, "size": 0, "says": "[in#0 @ 0x564f72234200] moov atom not found\nError opening input"},
         r"ffmpeg cannot decode the audio file '.*a\.m4a' \(moov atom not found\): replace it\."),
        ({"status": 234, "size": 0, "says": "Stream map '' matches no streams.\n"}, "matches no streams"),
        ({"status": 1, "size": 0}, r"a\.m4a' \(no audio\)"),
        ({"size": 0}, r"a\.m4a' \(no audio\)"),
        ({"status": 183, "size": 90000, "says": "[aac @ 0x1] Input buffer exhausted"}, r"\(Input buffer exhausted\)"),
        ({"size": 90000, "says": "[in#0/matroska,webm @ 0x1] File ended prematurely\n"}, "is cut short .File ended"),
        ({"size": 90000, "status": -9}, r"\(no message\)"),
        ({"size": 80}, "has no samples"),
    ],
)  # fmt: skip
def test_what_ffmpeg_refuses_is_told_in_a_sentence(tmp_path, ffmpeg, plan, words):
    ffmpeg(**plan)
    (tmp_path / "a.m4a").write_bytes(MP4)
    with pytest.raises(UnreadableAudioError, match=words) as caught:
        read_recording(tmp_path / "a.m4a")
    assert "\n" not in str(caught.value)


def test_complaints_of_ffmpeg_are_notices(tmp_path, ffmpeg):
    ffmpeg(says="[mov @ 0x1] strange edit list\n")
    (tmp_path / "a.m4a").write_bytes(MP4)
    notices = read_recording(tmp_path / "a.m4a", channels="each").notices
    assert notices == [f"ffmpeg says of '{tmp_path / 'a.m4a'}': strange edit list"]


def test_ffmpeg_is_ended_with_the_reader(tmp_path, ffmpeg, monkeypatch):
    monkeypatch.setattr("speechbrain_mamba.dataio.recordings._VALUES", 1000)
    ffmpeg(waits=60)
    (tmp_path / "a.m4a").write_bytes(MP4)
    start = time.monotonic()
    with open_recording(tmp_path / "a.m4a") as reader:
        process = reader._decoder._process
        assert reader.read(10).shape == (1, 10)
    assert process.returncode is not None and time.monotonic() - start < 50


def test_without_a_decoder_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for name, content in (("a.m4a", MP4), ("a.webm", b"\x1a\x45\xdf\xa3")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableAudioError, match=f"{name}'.* install the program ffmpeg or, with .* torchcodec"):
            open_recording(tmp_path / name)


class AudioDecoder:
    """torchcodec's, of which version 0.11 was seen."""

    seconds, broken = SIGNAL.shape[0] / 44100, False

    def __init__(self, source):
        if self.broken:
            raise RuntimeError("Could not open input file: Invalid data\nmore")
        assert os.path.isabs(source)
        self.metadata = types.SimpleNamespace(sample_rate=44100, num_channels=2, duration_seconds=self.seconds)

    def get_all_samples(self):
        return types.SimpleNamespace(data=torch.from_numpy(SIGNAL.T.copy()), sample_rate=44100)


@pytest.fixture
def torchcodec(monkeypatch):
    module = types.ModuleType("torchcodec")
    module.__spec__ = types.SimpleNamespace(name="torchcodec")
    module.decoders = types.ModuleType("torchcodec.decoders")
    module.decoders.AudioDecoder = type("AudioDecoder", (AudioDecoder,), {})
    monkeypatch.setitem(sys.modules, "torchcodec", module)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module.decoders)
    monkeypatch.setenv("PATH", "")
    return module.decoders.AudioDecoder


@pytest.mark.parametrize("seconds", [SIGNAL.shape[0] / 44100, None])
def test_torchcodec_decodes(tmp_path, torchcodec, monkeypatch, seconds):
    monkeypatch.setattr(torchcodec, "seconds", seconds)
    (tmp_path / "a.m4a").write_bytes(MP4)
    with open_recording(tmp_path / "a.m4a", channels="each") as reader:
        assert (reader.source.sample_rate, reader.source.channels, reader.samples) == (44100, 2, 30000)
        signal = torch.cat(list(reader.blocks(999)), 1)
    assert torch.equal(signal, torch.from_numpy(SIGNAL.T.copy()))


def test_sound_that_torchcodec_does_not_find_is_told(tmp_path, torchcodec, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(MP4)
    assert read_recording(tmp_path / "a.m4a", channels="each").notices == []
    monkeypatch.setattr(torchcodec, "seconds", 2)
    notices = read_recording(tmp_path / "a.m4a", channels="each").notices
    assert notices == [f"'{tmp_path / 'a.m4a'}' holds 0.7 s of sound, but its header promises 2.0 s."]


def test_what_torchcodec_refuses_is_told(tmp_path, torchcodec, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(MP4)
    monkeypatch.setattr(torchcodec, "seconds", 7200)
    with pytest.raises(
        UnreadableAudioError, match=r"a\.m4a' takes 2.4 GB when torchcodec decodes it: install the prog"
    ):
        open_recording(tmp_path / "a.m4a")
    monkeypatch.setattr(torchcodec, "broken", True)
    with pytest.raises(
        UnreadableAudioError, match=r"torchcodec cannot decode .*a\.m4a' \(.*Invalid data\): replace it"
    ):
        open_recording(tmp_path / "a.m4a")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UnreadableAudioError, match=r"torchcodec does not find FFmpeg's libraries: install the program"):
        open_recording(tmp_path / "a.m4a")

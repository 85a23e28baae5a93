"""Reading and writing audio, and what is said about bad files."""

import os

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_mamba.dataio.audio import (
    MAX_PEAK,
    AudioInfo,
    UnreadableAudioError,
    audio_info,
    check_audio,
    read_audio,
    write_audio,
)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_what_is_written_is_read(tmp_path, suffix):
    signal = torch.linspace(-0.9, 0.9, 1000)
    write_audio(tmp_path / f"ramp{suffix}", signal, 16000)
    read = read_audio(tmp_path / f"ramp{suffix}", 16000)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, signal, atol=1 / 32768, rtol=0)
    assert audio_info(tmp_path / f"ramp{suffix}").seconds == 1000 / 16000
    assert soundfile.info(tmp_path / f"ramp{suffix}").format == suffix[1:].upper()
    assert soundfile.read(tmp_path / f"ramp{suffix}")[1] == 16000


def test_the_header_is_read_as_it_is(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(333), 22050)
    info = AudioInfo(sample_rate=22050, samples=333, channels=1)
    assert audio_info(tmp_path / "a.wav") == audio_info(tmp_path / "a.wav", 22050) == info
    assert len(read_audio(tmp_path / "a.wav")) == 333


def test_a_sample_alone_is_audio(tmp_path):
    write_audio(tmp_path / "a.wav", torch.tensor([0.5]), 8000)
    assert read_audio(tmp_path / "a.wav", 8000).tolist() == [0.5]


def test_peaks_beyond_full_scale_are_clipped_or_kept_by_the_format(tmp_path):
    signal = torch.tensor([1.5, -1.5, 1.0, -1.0, 0.5, 0.123456789])
    write_audio(tmp_path / "new" / "a.wav", signal, 8000)
    highest = 32767 / 32768
    clipped = torch.tensor([highest, -1.0, highest, -1.0, 0.5, round(0.123456789 * 32768) / 32768])
    torch.testing.assert_close(read_audio(tmp_path / "new" / "a.wav"), clipped, atol=1e-7, rtol=0)
    write_audio(tmp_path / "new" / "a.wav", signal.double().requires_grad_(), 8000, subtype="FLOAT")
    assert torch.equal(read_audio(tmp_path / "new" / "a.wav"), signal)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.wav"]


def test_a_part_is_the_part_of_the_whole(tmp_path):
    write_audio(tmp_path / "noise.wav", torch.randn(500) / 10, 8000)
    whole = read_audio(tmp_path / "noise.wav")
    assert torch.equal(read_audio(tmp_path / "noise.wav", start=100, frames=50), whole[100:150])
    assert torch.equal(read_audio(tmp_path / "noise.wav", start=450), whole[450:])
    assert torch.equal(read_audio(tmp_path / "noise.wav", start=450, frames=50), whole[450:])
    assert torch.equal(read_audio(tmp_path / "noise.wav", frames=1), whole[:1])
    assert torch.equal(read_audio(tmp_path / "noise.wav", 8000, 499), whole[499:])


@pytest.mark.parametrize(("start", "frames"), [(500, -1), (-1, 10), (400, 101), (0, 0), (100, 0), (9, -2), (501, 1)])
def test_a_part_outside_of_the_file_is_an_error(tmp_path, start, frames):
    write_audio(tmp_path / "noise.wav", torch.zeros(500), 8000)
    with pytest.raises(ValueError, match=r"noise.wav' has 500 samples"):
        read_audio(tmp_path / "noise.wav", start=start, frames=frames)


def test_integers_are_written_as_they_are(tmp_path):
    samples = torch.tensor([-32768, -1, 0, 1, 32767], dtype=torch.int16)
    write_audio(tmp_path / "int.wav", samples, 8000)
    assert torch.equal(read_audio(tmp_path / "int.wav") * 32768, samples.float())


def bad_file(folder, kind):
    path = folder / f"{kind}.wav"
    if kind == "stereo":
        soundfile.write(path, np.zeros((100, 2)), 8000)
    elif kind == "empty":
        soundfile.write(path, np.zeros(0), 8000)
    elif kind == "nothing":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not audio")
    elif kind == "rate":
        soundfile.write(path, np.zeros(100), 16000)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("gone.wav")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind != "missing":
        soundfile.write(path, np.array([0.0, float(kind)]), 8000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("kind", "reason", "words"),
    [
        ("missing", FileNotFoundError, "does not exist"),
        ("link", FileNotFoundError, "is a link to 'gone.wav', which does not exist"),
        ("loop", FileNotFoundError, "is a link to '.*loop.wav', which does not exist"),
        ("folder", "not a file", "is not a file"),
        ("pipe", "not a file", "is not a file"),
        ("nothing", "empty file", "is empty"),
        ("text", "not audio", r"cannot be read \(Format not"),
        ("empty", "no samples", "has no samples"),
        ("nan", "NaN or infinite", "NaN or infinite"),
        ("inf", "NaN or infinite", "NaN or infinite"),
        ("-inf", "NaN or infinite", "NaN or infinite"),
        ("1e20", "absurd level", r"holds samples of 1e\+20, but full scale is 1 and at most 100 is accepted"),
        ("-20000", "absurd level", r"samples of 2e\+04, .* divide floats in the scale of integers by their full scale"),
        ("stereo", ValueError, "2 channels, but must be mono"),
        ("rate", ValueError, "16000 Hz, but 8000 Hz are wanted: resample it, or change sample_rate"),
    ],
)
def test_a_bad_file_is_named(tmp_path, kind, reason, words):
    path = bad_file(tmp_path, kind)
    error = UnreadableAudioError if isinstance(reason, str) else reason
    in_samples = reason in ("NaN or infinite", "absurd level")
    for function in (read_audio, check_audio, *([] if in_samples else [audio_info])):
        with pytest.raises(error, match=words) as caught:
            function(path, 8000)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, UnreadableAudioError) == (error is UnreadableAudioError)
        assert not isinstance(reason, str) or caught.value.reason == reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    write_audio(tmp_path / "a.wav", torch.zeros(9), 8000)
    (tmp_path / "a.wav").chmod(0)
    with pytest.raises(UnreadableAudioError, match=r"a\.wav' must not be read by you") as caught:
        read_audio(tmp_path / "a.wav")
    assert caught.value.reason == "no permission"


def test_floats_up_to_the_largest_peak_are_accepted(tmp_path):
    signal = torch.tensor([0.0, MAX_PEAK, -MAX_PEAK, 1.0])
    write_audio(tmp_path / "a.wav", signal, 8000, subtype="FLOAT")
    assert torch.equal(read_audio(tmp_path / "a.wav"), signal)
    write_audio(tmp_path / "a.wav", 1.001 * signal, 8000, subtype="FLOAT")
    with pytest.raises(UnreadableAudioError, match="samples of 100"):
        read_audio(tmp_path / "a.wav")
    assert read_audio(tmp_path / "a.wav", start=3).tolist() == [pytest.approx(1.001)]


def test_a_file_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("speechbrain_mamba.dataio.audio._BLOCK", 7)
    signal = torch.arange(50, dtype=torch.int16)
    write_audio(tmp_path / "a.wav", signal, 8000)
    assert torch.equal(read_audio(tmp_path / "a.wav") * 32768, signal.float())
    assert torch.equal(read_audio(tmp_path / "a.wav", start=3, frames=14) * 32768, signal[3:17].float())


@pytest.mark.parametrize("subtype", ["GSM610", "ULAW", "MS_ADPCM"])
def test_compressed_files_are_read(tmp_path, subtype):
    signal = np.sin(np.arange(3200) / 9) / 2
    soundfile.write(tmp_path / "a.wav", signal, 8000, subtype=subtype)
    read = read_audio(tmp_path / "a.wav", 8000)[:3200]
    assert (read - torch.from_numpy(signal).float()).abs().mean() < 0.05
    assert check_audio(tmp_path / "a.wav", 8000).samples >= 3200


@pytest.mark.parametrize("length", [0, 2**36 - 1])
def test_a_flac_that_does_not_know_its_length_or_lies_is_unreadable(tmp_path, length):
    write_audio(tmp_path / "a.flac", torch.randn(5000) / 10, 8000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] = data[21] & 0xF0 | length >> 32
    data[22:26] = (length & 0xFFFFFFFF).to_bytes(4, "big")
    (tmp_path / "a.flac").write_bytes(data)
    reasons = set()
    for function in (read_audio, check_audio):
        with pytest.raises(UnreadableAudioError, match=r"a\.flac") as caught:
            function(tmp_path / "a.flac")
        reasons.add(caught.value.reason)
    assert reasons <= ({"cut short", "corrupt"} if length else {"unknown length"})


def test_a_truncated_flac_is_unreadable(tmp_path):
    path = tmp_path / "cut.flac"
    write_audio(path, torch.randn(20000) / 10, 8000)
    path.write_bytes(path.read_bytes()[:-10000])
    for function in (read_audio, check_audio):
        with pytest.raises(UnreadableAudioError, match=r"cut\.flac") as caught:
            function(path)
        assert caught.value.reason in ("corrupt", "cut short")


def test_samples_that_are_not_finite_are_not_written(tmp_path):
    for bad in ("nan", "inf"):
        with pytest.raises(ValueError, match="NaN or infinite"):
            write_audio(tmp_path / "bad.wav", torch.tensor([0.0, float(bad)]), 8000)
    with pytest.raises(ValueError, match=r"has shape \(1, 80\), but must be \(samples,\)"):
        write_audio(tmp_path / "bad.wav", torch.zeros(1, 80), 8000)
    assert list(tmp_path.iterdir()) == []

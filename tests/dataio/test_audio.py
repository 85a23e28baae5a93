"""Reading and writing audio, and what is said about bad files."""

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_mamba.dataio.audio import AudioInfo, UnreadableAudioError, audio_info, read_audio, write_audio


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
    elif kind in ("nan", "inf"):
        soundfile.write(path, np.array([0.0, float(kind)]), 8000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("missing", FileNotFoundError, "does not exist"),
        ("nothing", UnreadableAudioError, "cannot be read"),
        ("text", UnreadableAudioError, "cannot be read"),
        ("empty", UnreadableAudioError, "is empty"),
        ("nan", UnreadableAudioError, "NaN or infinite"),
        ("inf", UnreadableAudioError, "NaN or infinite"),
        ("stereo", ValueError, "2 channels, but must be mono"),
        ("rate", ValueError, "16000 Hz, but 8000 Hz are wanted: resample it, or change sample_rate"),
    ],
)
def test_a_bad_file_is_named(tmp_path, kind, error, words):
    path = bad_file(tmp_path, kind)
    with pytest.raises(error, match=words) as caught:
        read_audio(path, 8000)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, UnreadableAudioError) == (error is UnreadableAudioError)
    if words != "NaN or infinite":  # which no header says
        with pytest.raises(error, match=words):
            audio_info(path, 8000)


def test_a_truncated_flac_is_unreadable(tmp_path):
    path = tmp_path / "cut.flac"
    write_audio(path, torch.randn(20000) / 10, 8000)
    path.write_bytes(path.read_bytes()[:-10000])
    with pytest.raises(UnreadableAudioError, match=r"cut\.flac"):
        read_audio(path)


def test_samples_that_are_not_finite_are_not_written(tmp_path):
    for bad in ("nan", "inf"):
        with pytest.raises(ValueError, match="NaN or infinite"):
            write_audio(tmp_path / "bad.wav", torch.tensor([0.0, float(bad)]), 8000)
    with pytest.raises(ValueError, match=r"has shape \(1, 80\), but must be \(samples,\)"):
        write_audio(tmp_path / "bad.wav", torch.zeros(1, 80), 8000)
    assert list(tmp_path.iterdir()) == []

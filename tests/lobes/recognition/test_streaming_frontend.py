"""Audio in pieces through features and front end."""

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.recognition.speech_features import StreamableFbank
from speechbrain_mamba.lobes.models.recognition.streaming_frontend import StreamingFrontEnd
from tests.errors import relative_error
from tests.lobes.recognition.test_convolution import FRONT_ENDS

FEATURES = {
    "published small": dict(n_mels=80, n_fft=400),
    "published large": dict(n_mels=80, n_fft=512, win_length=32),
    "8 kHz": dict(n_mels=80, n_fft=512, sample_rate=8000),
}


@pytest.fixture(params=FEATURES)
def features(request):
    return Fbank(**FEATURES[request.param])


@pytest.fixture(params=FRONT_ENDS)
def frontend(request):
    return ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS[request.param]).eval()


def speech(samples):
    """Noise whose level rises and falls, never by 80 dB."""
    return torch.randn(2, samples) * (1.1 + torch.sin(torch.arange(samples) / 800)) / 10


@pytest.mark.parametrize("split", [[16123], [5120, 5120, 5120, 763], [1] * 40 + [333] * 48 + [99], [15000, 1123]])
def test_pieces_equal_one_go(features, frontend, split):
    normalize = InputNormalization(norm_type="global", update_until_epoch=2)
    normalize(features(speech(16000)) * 2 + 1, torch.ones(2), epoch=0)
    normalize.eval()
    wavs = speech(sum(split))
    stream = StreamingFrontEnd(features, normalize, frontend)
    with torch.no_grad():
        whole = frontend(normalize(features(wavs)))
        for _ in range(2):  # a stream begins where another ended
            pieces = [*(stream(piece) for piece in wavs.split(split, 1)), stream.finish()]
            assert relative_error(torch.cat(pieces, 1), whole) < 1e-4


def band_limited(samples):
    """Speech of half the rate: nothing in the upper mel bands."""
    spectrum = torch.fft.rfft(speech(samples))
    spectrum[:, spectrum.shape[1] // 2 :] = 0
    return torch.fft.irfft(spectrum, samples)


def late(samples):
    """Very quiet, and loud from the middle on."""
    return speech(samples) * (torch.arange(samples) > samples // 2).float().clamp(min=1e-6)


AUDIO = {
    "band-limited": band_limited,
    "loud late": lambda samples: 30 * late(samples),
    "band-limited and loud late": lambda samples: band_limited(samples) * (torch.arange(samples) / samples) ** 8,
    "silent": lambda samples: torch.zeros(2, samples),
    "silence first": lambda samples: torch.cat([torch.zeros(2, samples // 2), speech(samples - samples // 2)], 1),
    "very quiet": lambda samples: 1e-5 * speech(samples),
    "loud and quiet in a batch": lambda samples: speech(samples) * torch.tensor([[1.0], [1e-5]]),
}


@pytest.mark.parametrize("audio", AUDIO)
@pytest.mark.parametrize("split", [[5120, 5120, 5120, 763], [15000, 1123]])
def test_pieces_equal_one_go_whatever_the_audio(audio, split):
    features = StreamableFbank(running=True, n_mels=80)
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]).eval()
    wavs, stream = AUDIO[audio](sum(split)), StreamingFrontEnd(features, torch.nn.Identity(), frontend)
    with torch.no_grad():
        whole = frontend(features(wavs))
        pieces = [*(stream(piece) for piece in wavs.split(split, 1)), stream.finish()]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=2e-3, rtol=1e-3)


def test_running_features_are_speechbrains_but_for_what_comes():
    wavs = torch.cat([torch.zeros(2, 4000), speech(8000), 1e-7 * speech(4000)], 1)
    running, theirs = (StreamableFbank(flag, n_mels=80)(wavs) for flag in (True, False))
    assert torch.equal(theirs, Fbank(n_mels=80)(wavs))
    for i in range(2):
        loudest = int(theirs[i].amax(1).argmax())
        assert torch.equal(running[i, loudest:], theirs[i, loudest:])
    assert running[:, :20].eq(-100).all() and theirs[:, :20].gt(-90).all()
    start = StreamableFbank(True, n_mels=80)(wavs[:, :8000])
    torch.testing.assert_close(running[:, :48], start[:, :48])  # whatever comes
    with pytest.raises(ValueError, match="deltas or context are on, but look ahead"):
        StreamableFbank(True, deltas=True)


def test_frames_come_early_and_memory_stays_small():
    features, kept = Fbank(n_mels=80), []
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]).eval()
    stream, frames = StreamingFrontEnd(features, torch.nn.Identity(), frontend), 0
    with torch.no_grad():
        for index in range(20):
            frames += stream(torch.randn(1, 5120)).shape[1]
            kept.append(stream.samples.shape[1] + stream.feats.numel())
            assert 8 * (index + 1) - frames <= 1
    assert len(set(kept[2:])) == 1 and kept[-1] < 2 * 5120


def test_quiet_frames_are_clipped_below_the_loudest_so_far():
    features = Fbank(n_mels=80)
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]).eval()
    wavs = torch.cat([speech(8000), torch.zeros(2, 8000)], 1)
    stream = StreamingFrontEnd(features, torch.nn.Identity(), frontend)
    with torch.no_grad():
        pieces = [*(stream(piece) for piece in wavs.split(3200, 1)), stream.finish()]
        assert relative_error(torch.cat(pieces, 1), frontend(features(wavs))) < 1e-4


@pytest.mark.parametrize("end", ["finish", "reset"])
def test_a_stream_knows_nothing_of_an_earlier_one(end):
    """Not even how loud it was: a quiet stream is not clipped below it, nor does audio of it linger."""
    features = Fbank(n_mels=80)
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]).eval()
    wavs = torch.cat([1e-2 * speech(8000), torch.zeros(2, 3000)], 1)
    stream = StreamingFrontEnd(features, torch.nn.Identity(), frontend)
    with torch.no_grad():
        stream(1e4 * speech(9000))
        getattr(stream, end)()
        pieces = [*(stream(piece) for piece in wavs.split(3200, 1)), stream.finish()]
        assert relative_error(torch.cat(pieces, 1), frontend(features(wavs))) < 1e-4


@pytest.mark.parametrize(
    "name, changes, options",
    [
        ("published", {}, {}),
        ("published", {"kernel_sizes": (1, 1)}, {}),
        ("uneven", {}, {"hop_length": 7}),
        ("residual", {}, {}),
    ],
)
def test_frames_come_as_soon_as_later_samples_cannot_change_them(name, changes, options):
    features = Fbank(n_mels=80, **options)
    frontend = ConvolutionFrontEnd((8, 10, 80), **{**FRONT_ENDS[name], **changes}).eval()
    wavs = 1 + torch.rand(1, 6000)
    with torch.no_grad():
        whole = frontend(features(wavs))
        for samples in (1, 199, 200, 900, 1603, 1604, 2400, 3333, 4800):
            other = torch.cat([wavs[:, :samples], 1 + torch.rand(1, 6000 - samples)], 1)
            changed = (frontend(features(other)) - whole).abs().amax((0, 2, 3)) > 1e-5
            stream = StreamingFrontEnd(features, torch.nn.Identity(), frontend)
            assert stream(wavs[:, :samples]).shape[1] == changed.int().argmax()


def test_streams_without_enough_audio():
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]).eval()
    stream = StreamingFrontEnd(Fbank(n_mels=80), torch.nn.Identity(), frontend)
    with pytest.raises(ValueError, match="The stream ended without any audio"):
        stream.finish()
    assert stream(torch.zeros(1, 100)).shape == (1, 0, 20, 4)
    with pytest.raises(ValueError, match="but needs more than"):
        stream.finish()

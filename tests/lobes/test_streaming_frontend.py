"""Audio in pieces through features and front end."""

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from speechbrain_mamba.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.streaming_frontend import StreamingFrontEnd
from tests.errors import relative_error
from tests.lobes.test_convolution import FRONT_ENDS

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


def test_frames_come_early_and_memory_stays_small():
    features, kept = Fbank(n_mels=80), []
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]).eval()
    stream, frames = StreamingFrontEnd(features, torch.nn.Identity(), frontend), 0
    with torch.no_grad():
        for index in range(20):
            frames += stream(torch.randn(1, 5120)).shape[1]
            kept.append(stream.samples.shape[1])
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


def test_streams_without_enough_audio():
    frontend = ConvolutionFrontEnd((8, 10, 80), **FRONT_ENDS["published"]).eval()
    stream = StreamingFrontEnd(Fbank(n_mels=80), torch.nn.Identity(), frontend)
    with pytest.raises(ValueError, match="The stream ended without any audio"):
        stream.finish()
    assert stream(torch.zeros(1, 100)).shape == (1, 0, 20, 4)
    with pytest.raises(ValueError, match="but needs more than"):
        stream.finish()

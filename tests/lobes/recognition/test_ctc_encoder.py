"""From waveforms to log-probabilities: features with exact lengths, and the parts in their order."""

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.transformer.TransformerASR import EncoderWrapper
from speechbrain.nnet.linear import Linear
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.recognition.ctc_encoder import CTCEncoder
from speechbrain_mamba.lobes.models.recognition.speech_features import compute_padded_features
from speechbrain_mamba.lobes.models.recognition.transformer_asr import TransformerASR
from tests.errors import relative_error

SAMPLES = [8000, 7999, 4161, 1350]


def waveforms():
    wavs = torch.randn(4, 8000)
    for i, length in enumerate(SAMPLES):
        wavs[i, length:] = float("nan")
    return wavs, torch.tensor(SAMPLES) / 8000


@pytest.mark.parametrize("options", [{}, {"n_mels": 23, "hop_length": 7}, {"sample_rate": 8000, "win_length": 20}])
def test_features_and_their_lengths_are_those_of_each_waveform_alone(options):
    fbank, (wavs, wav_lens) = Fbank(**options), waveforms()
    feats, feat_lens = compute_padded_features(fbank, wavs, wav_lens)
    for i, length in enumerate(SAMPLES):
        alone = fbank(wavs[i : i + 1, :length])[0]
        assert round(feat_lens[i].item() * feats.shape[1], 3) == len(alone)
        assert relative_error(feats[i, : len(alone)], alone) < 1e-4


def make_encoder(**options):
    normalize = InputNormalization(norm_type="global", update_until_epoch=2)
    fbank = Fbank(n_mels=20)
    normalize(fbank(torch.randn(2, 8000)) * 2 + 1, torch.ones(2), epoch=0)
    cnn = ConvolutionFrontEnd((8, 10, 20), 2, 1, (4, 4), (3, 3), (2, 2), residuals=(False, False))
    net = TransformerASR(
        tgt_vocab=7, input_size=20, d_model=12, nhead=2, num_encoder_layers=2, num_decoder_layers=0, d_ffn=16,
        normalize_before=True, causal=False, attention_type="RelPosMHAXL", encoder_module="conmamba", kernel_size=5,
        mamba_config={"d_state": 4},
    )  # fmt: skip
    return CTCEncoder(fbank, normalize, cnn, EncoderWrapper(net), Linear(input_size=12, n_neurons=7), **options).eval()


@pytest.mark.parametrize("options, blank", [({}, 0), ({"blank_index": 3}, 3)])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_waveforms_in_a_batch_get_the_log_probabilities_of_each_alone(options, blank, chunk_size):
    config = DynChunkTrainConfig(chunk_size) if chunk_size else None
    model, (wavs, wav_lens) = make_encoder(chunk_config=config, **options), waveforms()
    with torch.no_grad():
        log_probs = model(wavs, wav_lens)
        certain = torch.full((7,), float("-inf"))
        certain[blank] = 0
        for i, length in enumerate(SAMPLES):
            normalized = model.normalize(model.compute_features(wavs[i : i + 1, :length]), torch.ones(1))
            encoded = model.encoder(model.CNN(normalized), dynchunktrain_config=config)
            alone = model.ctc_lin(encoded).log_softmax(-1)[0]
            assert relative_error(log_probs[i, : len(alone)], alone) < 1e-4
            assert (log_probs[i, len(alone) :] == certain).all()


def test_chunks_change_the_result():
    whole, (wavs, wav_lens) = make_encoder(), waveforms()
    chunked = make_encoder(chunk_config=DynChunkTrainConfig(4))
    chunked.load_state_dict(whole.state_dict())
    with torch.no_grad():
        assert (chunked(wavs, wav_lens)[0] - whole(wavs, wav_lens)[0]).abs().max() > 1e-3

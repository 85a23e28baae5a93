"""Judges that are models of transformers."""

from __future__ import annotations

import builtins

import pytest
import torch

from speechbrain_mamba.inference.judges import load_speaker_encoder
from speechbrain_mamba.inference.transformers_judges import load_opinion_judge, load_xvector_encoder

RATE = 16000


def test_a_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for load in (load_opinion_judge, load_xvector_encoder):
        with pytest.raises(ImportError, match=r"'a/b' is a model of .*transformers, .* pip install .*\[judges\]"):
            load("a/b")


@pytest.fixture
def wavlm(tmp_path):
    """Folders of tiny models of transformers with random weights: x-vectors, and classifiers by outputs."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 4), "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "tdnn_dim": (16, 16), "tdnn_kernel": (3, 1),
        "tdnn_dilation": (1, 1), "xvector_output_dim": 8, "classifier_proj_size": 8,
    }  # fmt: skip

    def make(kind, name, **options):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(transformers.WavLMConfig(**sizes, **options)).eval()
        model.save_pretrained(tmp_path / name)
        extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True)
        extractor.save_pretrained(tmp_path / name)
        return model, str(tmp_path / name)

    return make


def test_voices_are_compared_by_an_x_vector_model(wavlm):
    model, folder = wavlm("WavLMForXVector", "sv")
    embed = load_speaker_encoder(f"transformers:{folder}")
    wav = torch.randn(8000)
    with torch.no_grad():
        normalized = (wav - wav.mean()) / (wav.var(unbiased=False) + 1e-7).sqrt()
        expected = model(normalized[None]).embeddings[0]
    assert torch.allclose(embed(wav, RATE), expected / expected.norm(), atol=1e-4)
    assert embed(wav[:4000], RATE // 2).norm() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="is not a model that AutoModelForAudioXVector of transformers loads"):
        load_xvector_encoder(str(folder) + "/none")


def test_opinions_are_predicted_by_a_classifier_with_one_output(wavlm):
    model, folder = wavlm("WavLMForSequenceClassification", "mos", num_labels=1)
    rate = load_opinion_judge(folder)
    wav = torch.randn(8000)
    with torch.no_grad():
        normalized = (wav - wav.mean()) / (wav.var(unbiased=False) + 1e-7).sqrt()
        expected = model(normalized[None]).logits[0, 0]
    assert rate(3 * wav + 1, RATE) == pytest.approx(float(expected), abs=1e-4)
    _, emotions = wavlm("WavLMForSequenceClassification", "emotions", num_labels=4)
    with pytest.raises(ValueError, match="has 4 outputs, but a predictor of opinion scores has one"):
        load_opinion_judge(emotions)

"""Judges that are models of transformers, or TorchScript programs."""

from __future__ import annotations

import builtins

import pytest
import torch
from torch import Tensor, nn

from speechbrain_mamba.inference.judges import load_judges, load_speaker_encoder
from speechbrain_mamba.inference.transformers_judges import load_opinion_judge, load_xvector_encoder

RATE = 16000


class Loudness(nn.Module):
    """Rates a waveform by its length and mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean() + x.shape[1] / 1000


class Pair(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[0, :2]


def program(path, module):
    torch.jit.script(module).save(str(path))
    return str(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_program_rates_at_16_khz_if_it_is_trusted(tmp_path):
    path = program(tmp_path / "utmos.jit", Loudness())
    with pytest.raises(ValueError, match=r"utmos\.jit' is a TorchScript program, .*by --trust_judge"):
        load_opinion_judge(path)
    judges = load_judges(None, None, naturalness=path, trusted=True)
    rate = judges["rate_naturalness"]
    assert rate(torch.full((4000,), 0.5), RATE) == pytest.approx(4.5)
    assert rate(torch.full((4000,), 0.5), RATE // 2) == pytest.approx(8.5, abs=0.01)
    bad = load_opinion_judge(program(tmp_path / "pair.jit", Pair()), trusted=True)
    with pytest.raises(ValueError, match="returned no single score"):
        bad(torch.ones(100), RATE)


def test_what_is_no_program_is_named(tmp_path):
    (tmp_path / "x.jit").write_bytes(b"no program")
    with pytest.raises(ValueError, match=r"x\.jit' is not a TorchScript program"):
        load_opinion_judge(str(tmp_path / "x.jit"), trusted=True)
    with pytest.raises(FileNotFoundError, match=r"There is no file 'none\.jit': give one, or HUB_ID:FILE"):
        load_opinion_judge("none.jit", trusted=True)


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

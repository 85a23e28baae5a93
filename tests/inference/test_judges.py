"""Recognisers and speaker encoders that were exported, loaded as judges and by SpeechBrain itself."""

import pytest
import torch
from speechbrain.inference.ASR import EncoderASR

from speechbrain_mamba.dataio.hparams import load_hparams, read_hparams
from speechbrain_mamba.dataio.tokenizer import train_tokenizer
from speechbrain_mamba.inference.judges import load_judges
from speechbrain_mamba.inference.recognition import export_recognizer
from speechbrain_mamba.inference.speaker import export_speaker_encoder
from tests.conftest import HPARAMS

SIZES = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "data_folder": "unused"}


@pytest.fixture
def recognizer(request, tmp_path):
    """A recogniser with random weights, and its folder."""
    path, sizes = HPARAMS / "asr/mini_conmamba_ctc_fsdd.yaml", {**SIZES, **getattr(request, "param", {})}
    tokenizer = train_tokenizer(tmp_path / "tokenizer/tokenizer.ckpt", ["ONE TWO", "TWO ONE"], 9, token_type="char")
    sizes["output_neurons"] = tokenizer.vocab_size()
    torch.manual_seed(1)
    hparams = load_hparams(path, sizes)
    modules = hparams["modules"]
    modules["normalize"].train()
    modules["normalize"](torch.randn(4, 100, 40) * 3 + 2, torch.ones(4), epoch=1)
    with torch.no_grad():
        modules["ctc_lin"].w.weight.mul_(5)  # hardly trained: make it say something
    folder = tmp_path / "inference"
    export_recognizer(folder, read_hparams(path, sizes), modules, tmp_path / "tokenizer", hparams["streaming"])
    return hparams, folder


@pytest.mark.parametrize("recognizer", [{}, {"streaming": True}], ids=["offline", "streaming"], indirect=True)
def test_speechbrain_loads_an_exported_recognizer(recognizer, tmp_path):
    hparams, folder = recognizer
    asr = EncoderASR.from_hparams(str(folder), savedir=str(tmp_path / "cache"))
    wavs, lens = torch.randn(2, 8000), torch.tensor([1.0, 0.6])
    modules = {name: module.eval() for name, module in hparams["modules"].items()}
    with torch.no_grad():
        feats = modules["normalize"](hparams["compute_features"](wavs[:1]), torch.ones(1))
        chunks = hparams["chunk_config"] if hparams["streaming"] else None
        expected = modules["ctc_lin"](modules["Encoder"](modules["CNN"](feats), dynchunktrain_config=chunks))
        log_probs = asr.encode_batch(wavs, lens)
        alone = asr.encode_batch(wavs[1:, :4800], torch.ones(1))
    torch.testing.assert_close(log_probs[:1], expected.log_softmax(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_probs[1:, : alone.shape[1]], alone, atol=1e-4, rtol=1e-4)
    assert log_probs[1, alone.shape[1] :].argmax(-1).eq(0).all()


def test_judges_hear_any_rate(recognizer, tmp_path):
    path = HPARAMS / "tts/speaker_mini.yaml"
    sizes = {"manifest_folder": "unused", "emb_dim": 8}
    modules = load_hparams(path, sizes)["modules"]
    export_speaker_encoder(tmp_path / "speaker", read_hparams(path, sizes), modules)
    judges = load_judges(str(recognizer[1]), str(tmp_path / "speaker"))
    wav = torch.randn(16000)
    assert isinstance(judges["recognize"](wav, 16000), str)
    assert judges["embed"](wav, 16000).shape == (8,)
    assert load_judges(None, None) == {}


def test_a_missing_judge_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no hyperparams\.yaml"):
        load_judges(str(tmp_path), None)
    with pytest.raises(FileNotFoundError, match=r"has no hyperparams\.yaml"):
        load_judges(None, str(tmp_path))

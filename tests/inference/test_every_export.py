"""What each hyper-parameter file exports is loaded without trust by our classes, and by SpeechBrain's own."""

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR, StreamingASR
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.separation import SepformerSeparation

from speechbrain_mamba.inference.judges import load_recognizer, load_speaker_encoder
from speechbrain_mamba.inference.pretrained import open_model
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.inference.speaker import export_speaker_encoder
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.utils.hparams import read_hparams
from tests.conftest import HPARAMS
from tests.errors import same_weights
from tests.hparams.settings import read_text
from tests.inference.test_synthesis import GREEDY, write_model
from tests.inference.tiny_recognizers import make_recognizer

QUICK = {"mini_mambatasnet", "mini_conmamba_ctc_streaming", "mini_conmambamamba_s2s", "mini_vallm", "mini_speaker"}
"""Files that are tried in every run; the others with the slow tests."""


def files(task):
    paths = sorted((HPARAMS / task).glob("*.yaml"))
    return [pytest.param(p.stem, marks=() if p.stem in QUICK else pytest.mark.slow, id=p.stem) for p in paths]


def is_older(folder, name):
    """Make a folder what versions 0.1 and 0.2 left, of some files."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    return name in QUICK


@pytest.mark.parametrize("name", files("separation"))
def test_separators(name, tmp_path):
    path = HPARAMS / "separation" / f"{name}.yaml"
    sizes, there = {"N_encoder_out": 16, "out_channels": 8, "data_folder": "unused"}, read_text(path)
    sizes |= {key: 1 for key in ("n_mamba", "n_mamba_dp", "n_transformer", "num_layers") if f"\n{key}:" in there}
    sizes |= {"nhead": 2, "d_ffn": 16} if "\nnhead:" in there else {}
    text = read_hparams(path, sizes)
    modules = load_hyperpyyaml(text)["modules"]
    export_separator(tmp_path / "model", text, modules)
    ours, mix = SpeechSeparator.from_hparams(tmp_path / "model"), torch.randn(1, 400)
    theirs = SepformerSeparation.from_hparams(str(tmp_path / "model"), savedir=str(tmp_path / "cache"))
    assert all(same_weights(ours.mods[part], module) for part, module in modules.items())
    torch.testing.assert_close(ours.separate_batch(mix), theirs.separate_batch(mix))
    if is_older(tmp_path / "model", name):
        assert same_weights(SpeechSeparator.from_hparams(tmp_path / "model").mods, ours.mods)


@pytest.mark.parametrize("name", files("asr"))
def test_recognizers(name, tmp_path):
    made = make_recognizer(tmp_path, name)
    opened, wavs = open_model(made.folder), torch.randn(1, made.hparams["sample_rate"])
    kind = EncoderASR if "decoding_function" in opened.plan else EncoderDecoderASR
    assert opened.kind == "recognizer"
    ours, theirs = opened.load(kind), kind.from_hparams(str(made.folder), savedir=str(tmp_path / "cache"))
    torch.testing.assert_close(ours.encode_batch(wavs, torch.ones(1)), theirs.encode_batch(wavs, torch.ones(1)))
    assert same_weights(ours.mods, theirs.mods)
    if name in QUICK:
        words = load_recognizer(str(made.folder))(wavs[0], made.hparams["sample_rate"])
        assert words == theirs.transcribe_batch(wavs, torch.ones(1))[0][0]
    if "fea_streaming_extractor" in opened.plan:
        assert same_weights(opened.load(StreamingASR).mods, StreamingASR.from_hparams(str(made.folder)).mods)
    if is_older(made.folder, name):
        assert same_weights(open_model(made.folder).load(kind).mods, ours.mods)


@pytest.mark.parametrize("name", files("tts"))
def test_synthesizers(name, tmp_path):
    made = write_model(tmp_path / "model", name)
    ours = SpeechSynthesizer.from_hparams(tmp_path / "model")
    assert all(same_weights(ours.mods[part], made.modules[part]) for part in ("ar", "nar")) and same_weights(
        ours.codec, made.codec
    )
    assert GREEDY["max_seconds"] == ours.hparams.max_seconds


@pytest.mark.parametrize("name", files("speaker"))
def test_speaker_encoders(name, tmp_path):
    path, sizes = HPARAMS / "speaker" / f"{name}.yaml", {"manifest_folder": "unused", "emb_dim": 8}
    text = read_hparams(path, sizes)
    export_speaker_encoder(tmp_path / "model", text, load_hyperpyyaml(text)["modules"], ["a"], 100)
    theirs = EncoderClassifier.from_hparams(str(tmp_path / "model"), savedir=str(tmp_path / "cache"))
    embed = load_speaker_encoder(str(tmp_path / "model"))
    wav = torch.randn(8000)
    torch.testing.assert_close(embed(wav, 8000), theirs.encode_batch(wav[None])[0, 0])
    opened = open_model(tmp_path / "model")
    assert opened.kind == "speaker encoder" and same_weights(opened.load(EncoderClassifier).mods, theirs.mods)

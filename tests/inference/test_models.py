"""The networks themselves, as users of the Hub know models."""

import json

import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin

from speechbrain_mamba.inference.models import RecognitionModel, SeparationModel, SynthesisModel
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.text.tokenizer import train_tokenizer
from tests.conftest import HPARAMS
from tests.hub_server import TOKEN
from tests.inference.test_synthesis import write_model
from tests.inference.tiny_recognizers import make_recognizer

SIZES = {"n_mamba": 1, "N_encoder_out": 16, "out_channels": 8}


def tiny_separator(name="mini_mambatasnet", **sizes):
    return SeparationModel.from_settings(HPARAMS / "separation" / f"{name}.yaml", {**SIZES, **sizes})


def same(one, other):
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(map(torch.equal, *(state.values() for state in states)))


def test_a_model_goes_to_the_hub_and_comes_back(local_hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model = tiny_separator()
    assert isinstance(model, ModelHubMixin) and model.training
    model.push_to_hub("me/model", private=True, model_card_kwargs={"license": "cc0-1.0"})
    other = SeparationModel.from_pretrained("me/model", cache_dir=tmp_path / "elsewhere")
    assert same(model, other) and not other.training
    assert any((tmp_path / "elsewhere").rglob("masknet.safetensors"))
    card = ModelCard(local_hub.repositories["me/model"].files["README.md"].decode())
    assert card.data.license == "cc0-1.0" and card.data.pipeline_tag == "audio-to-audio"
    mix = torch.randn(2, 900)
    speaking = SpeechSeparator.from_hparams("me/model").separate_batch(mix)
    assert torch.equal(speaking, other(mix))
    with torch.no_grad():
        other.decoder.weight.zero_()
    other.save_pretrained(tmp_path / "here", repo_id="me/other", push_to_hub=True)
    assert not SeparationModel.from_pretrained("me/other")(mix).any()


def test_a_model_is_loaded_from_the_cache_without_a_network(local_hub, tmp_path):
    tiny_separator().save_pretrained(tmp_path / "model")
    local_hub.add("me/model", {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()})
    with pytest.raises(FileNotFoundError, match="the network is not used"):
        SeparationModel.from_pretrained("me/model", local_files_only=True)
    SeparationModel.from_pretrained("me/model")
    asked = len(local_hub.asked)
    SeparationModel.from_pretrained("me/model", local_files_only=True)
    assert len(local_hub.asked) == asked
    SeparationModel.from_pretrained("me/model", revision="main")
    assert len(local_hub.asked) > asked


def test_padding_has_no_effect(tmp_path):
    model = tiny_separator().eval()
    mix = torch.randn(2, 900)
    both = model(mix, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(both[1:, :450], model(mix[1:, :450]))
    assert not both[1, 450:].any()


def test_copies_of_a_block_have_their_own_weights():
    model = tiny_separator("dpmamba_XS", n_dp=2, chunk_size=20)
    first, second = (block.intra_mdl for block in model.masknet.dual_mdl)
    assert not same(first, second)


def test_models_of_the_package_and_other_kinds(tmp_path):
    assert SeparationModel.from_pretrained("separator").sample_rate == 8000
    with pytest.raises(ValueError, match="'separator' holds a separator, but RecognitionModel loads a recognizer"):
        RecognitionModel.from_pretrained("separator")
    with pytest.raises(FileNotFoundError, match="There is no model 'seperator'"):
        SeparationModel.from_pretrained("seperator")


@pytest.mark.parametrize("name", ["mini_conmamba_ctc_fsdd", "mini_conmambamamba_s2s_fsdd"])
def test_recognizers_are_saved_as_trainings_export_them(tmp_path, name):
    made = make_recognizer(tmp_path, name)
    model = RecognitionModel.from_pretrained(made.folder)
    model.save_pretrained(tmp_path / "again")
    files = {path.name for path in made.folder.iterdir()}
    assert files | {"README.md"} == {path.name for path in (tmp_path / "again").iterdir()}
    wavs, lens = torch.randn(2, 8000), torch.tensor([1.0, 0.6])
    again = RecognitionModel.from_pretrained(tmp_path / "again")
    assert torch.equal(model(wavs, lens), again(wavs, lens))
    texts = [
        Recognizer.from_hparams(folder).transcribe_batch([wavs[0]])[0] for folder in (made.folder, tmp_path / "again")
    ]
    assert texts[0] == texts[1]
    encoded, frames = model.encode(wavs, lens)
    torch.testing.assert_close(encoded[1:, : int((frames[1] * encoded.shape[1]).round())].shape[2], 16)
    assert not encoded[1, -1].any() and frames[0] == 1


def test_a_fresh_recognizer_is_saved_when_it_is_complete(tmp_path):
    tokenizer = train_tokenizer(tmp_path / "tokenizer.ckpt", ["ONE TWO", "TWO ONE"], 9, token_type="char")
    sizes = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "output_neurons": tokenizer.vocab_size()}
    path = HPARAMS / "asr" / "mini_conmamba_ctc.yaml"
    with pytest.raises(ValueError, match="has no tokenizer"):
        RecognitionModel.from_settings(path, sizes).save_pretrained(tmp_path / "model")
    model = RecognitionModel.from_settings(path, sizes, tmp_path / "tokenizer.ckpt")
    with pytest.raises(ValueError, match="has no statistics of its features yet"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    built = model.parts.built
    built["normalize"](built["compute_features"](torch.randn(2, 8000)), torch.ones(2), epoch=1)
    model(torch.randn(1, 8000)).sum().backward()
    assert any(one.grad is not None for one in model.parameters())
    model.save_pretrained(tmp_path / "model")
    assert same(RecognitionModel.from_pretrained(tmp_path / "model"), model)


def test_synthesizers_are_saved_with_inventory_and_codec(tmp_path):
    made = write_model(tmp_path / "made", "mini_vallm")
    model = SynthesisModel.from_pretrained(tmp_path / "made")
    model.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "made").iterdir()} < {
        path.name for path in (tmp_path / "again").iterdir()
    }
    voice = torch.randn(4000)
    one, other = (
        SpeechSynthesizer.from_hparams(tmp_path / name).synthesize("one", voice, prompt_text="two", seed=1)
        for name in ("made", "again")
    )
    assert torch.equal(one.wav, other.wav)
    sizes = {"token_folder": "unused", "n_codebooks": 4, "codebook_size": 16, "num_layers": 1, "d_model": 16}
    path = HPARAMS / "tts" / "mini_vallm.yaml"
    with pytest.raises(ValueError, match="has no tokenizer and no codec"):
        SynthesisModel.from_settings(path, sizes).save_pretrained(tmp_path / "fresh")
    fresh = SynthesisModel.from_settings(path, sizes, TextTokenizer.train(["one"], "characters"), made.codec)
    fresh.save_pretrained(tmp_path / "fresh")
    assert same(SynthesisModel.from_pretrained(tmp_path / "fresh").ar, fresh.ar)
    assert json.loads((tmp_path / "fresh" / "codec.json").read_text())["sample_rate"] == 8000

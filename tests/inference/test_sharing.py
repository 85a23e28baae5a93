"""Folders to share: what is in them, and their way to the Hub and back."""

import json
import re
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from speechbrain.inference.separation import SepformerSeparation

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.inference.pretrained import KINDS, open_model
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.inference.sharing import export_model, push_model
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from speechbrain_mamba.utils.weights import read_weights
from tests.conftest import HPARAMS
from tests.hub_server import TOKEN
from tests.inference.test_synthesis import write_model
from tests.inference.tiny_recognizers import make_recognizer

SECRET = "/home/somebody/secret"


@pytest.fixture
def run(tmp_path):
    """The output folder of a separator's run that has ended."""
    folder, sizes = tmp_path / "run", {"N_encoder_out": 16, "out_channels": 8, "n_mamba": 1}
    path = HPARAMS / "separation" / "mini_mambatasnet.yaml"
    export_separator(folder / "inference", read_hparams(path, sizes), load_hparams(path, sizes)["modules"])
    (folder / "test").mkdir()
    (folder / "save").mkdir()
    summary = {"mixtures": 100, "unscored": 0, "si_snr": 5.5, "si_snr_i": 5.4321, "sdr": None}
    (folder / "test" / "summary.json").write_text(json.dumps(summary))
    (folder / "hyperparams.yaml").write_text(f"corpus: mini\nseed: 3\nlr: 0.001\ndata_folder: {SECRET}\n")
    (folder / "training.csv").write_text("epoch,seconds\n1,1800\n2,1800\n")
    return folder


def examples(card):
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_a_run_becomes_a_folder_that_says_what_was_measured(run, tmp_path):
    made = export_model(run, tmp_path / "two-voices", license="cc-by-4.0", repository="me/two-voices")
    assert set(made.files) == {path.name for path in made.folder.iterdir()}
    card = ModelCard.load(made.folder / "README.md")
    assert (card.data.license, card.data.pipeline_tag, card.data.library_name) == (
        "cc-by-4.0",
        "audio-to-audio",
        "speechbrain",
    )
    results = {(one.metric_type, one.metric_value, one.dataset_split) for one in card.data.eval_results}
    assert results == {("si-snr", 5.5, "test"), ("si-snri", 5.432, "test")}
    for words in ("| SI-SNRi, dB | 5.43 |", "2 epochs", "1.0 hours", "| `seed` | 3 |", "`cc-by-4.0`", "1 x mamba"):
        assert words in card.content
    assert SECRET not in "".join(path.read_text("utf-8", "replace") for path in made.folder.iterdir())
    metrics = json.loads((made.folder / "metrics.json").read_text())
    assert metrics["results"] == [{"test": "test", "mixtures": 100, "unscored": 0, "si_snr": 5.5, "si_snr_i": 5.4321}]
    parameters = sum(
        value.numel() for path in made.folder.glob("*.safetensors") for value in read_weights(path).values()
    )
    assert metrics["parameters"] == made.parameters == parameters
    mix = torch.randn(1, 800)
    ours = SpeechSeparator.from_hparams(made.folder).separate_batch(mix)
    theirs = SepformerSeparation.from_hparams(str(made.folder), savedir=str(tmp_path / "cache")).separate_batch(mix)
    assert torch.equal(ours, SpeechSeparator.from_hparams(run / "inference").separate_batch(mix))
    torch.testing.assert_close(ours, theirs)


def test_the_example_of_the_card_runs(run, tmp_path, monkeypatch):
    export_model(run, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    write_audio(tmp_path / "mixture.wav", 0.1 * torch.randn(4000), 8000)
    (code,) = examples((tmp_path / "model" / "README.md").read_text())
    names = {}
    exec(code, names)
    assert names["estimates"].shape == (1, 4000, 2)


@pytest.mark.slow
def test_every_kind_is_shared(tmp_path, monkeypatch):
    """Recognizer, synthesizer, codec and speaker encoder; their examples run."""
    monkeypatch.chdir(tmp_path)
    for name in ("talk", "voice"):
        write_audio(tmp_path / f"{name}.wav", 0.1 * torch.randn(6000), 8000)
    torch.manual_seed(0)
    path, sizes = HPARAMS / "speaker/mini_speaker.yaml", {"manifest_folder": "unused", "emb_dim": 8}
    from speechbrain_mamba.codecs import save_codec
    from speechbrain_mamba.inference.speaker import export_speaker_encoder

    export_speaker_encoder(
        tmp_path / "speaker", read_hparams(path, sizes), load_hparams(path, sizes)["modules"], ["a"], 100
    )
    tokenizer = TextTokenizer.train(["one two three four"], "characters")
    made = write_model(tmp_path / "synthesizer", "mini_vallm", tokenizer)
    (tmp_path / "coding" / "codec").mkdir(parents=True)
    save_codec(made.codec, tmp_path / "coding" / "codec")
    recognizer = make_recognizer(tmp_path / "recognizing")
    kinds = {}
    for source in ("speaker", "synthesizer", "coding", "recognizing"):
        shared = export_model(source, f"shared_{source}")
        kinds[source] = shared.kind
        (code,) = examples((shared.folder / "README.md").read_text())
        exec(code, {})
        assert shared.parameters > 0 and "It was not tested" in (shared.folder / "README.md").read_text()
    assert kinds == dict(zip(kinds, ("speaker encoder", "synthesizer", "codec", "recognizer"))) and set(KINDS) - set(
        kinds.values()
    ) == {"separator"}
    assert (tmp_path / "shared_recognizing/tokenizer.ckpt").read_bytes() == (
        recognizer.folder / "tokenizer.ckpt"
    ).read_bytes()


def test_a_model_of_the_package_keeps_its_card(tmp_path):
    made = export_model("separator", tmp_path / "mine", safetensors_only=True)
    text = (made.folder / "README.md").read_text()
    assert f'from_hparams("{made.folder}")' in text and "Free Spoken Digit Dataset" in text
    assert not list(made.folder.glob("*coder.ckpt"))
    both = export_model("separator", tmp_path / "both")
    weights = read_weights(both.folder / "encoder.ckpt"), read_weights(both.folder / "encoder.safetensors")
    assert all(map(torch.equal, *(one.values() for one in weights)))


@pytest.mark.parametrize("wanted", [{"license": "mit"}, {"language": "de"}])
def test_a_card_that_is_kept_has_to_say_what_is_wanted(tmp_path, wanted):
    """It was kept without a word, whatever the options said."""
    (name, value) = next(iter(wanted.items()))
    with pytest.raises(ValueError, match=rf"has a card, which is kept, and its {name} is .*, not {value}: leave out"):
        export_model("separator", tmp_path / "mine", **wanted)
    assert not (tmp_path / "mine").exists()


def test_what_cannot_be_exported_is_named(run, tmp_path):
    with pytest.raises(FileExistsError, match="exists and is not overwritten"):
        export_model(run, run)
    with pytest.raises(ValueError, match="license is 'Apache 2', but must be the Hub's name"):
        export_model(run, tmp_path / "out", license="Apache 2")
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*none'"):
        export_model(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no model"):
        export_model(tmp_path / "empty", tmp_path / "out")
    state = torch.load(run / "inference" / "encoder.ckpt", weights_only=True)
    (run / "inference" / "encoder.safetensors").unlink()
    torch.save({key: value * torch.nan for key, value in state.items()}, run / "inference" / "encoder.ckpt")
    with pytest.raises(ValueError, match="not finite"):
        export_model(run, tmp_path / "out")
    shutil.rmtree(run / "inference")
    with pytest.raises(FileNotFoundError, match=r"its training is not finished\. Give the same command again"):
        export_model(run, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


# ---------------------------------------------------------------------------------------------------- the Hub


def test_a_folder_goes_to_the_hub_and_comes_back(run, tmp_path, local_hub, monkeypatch, caplog):
    folder = export_model(run, tmp_path / "model").folder
    with pytest.raises(PermissionError, match=r"'me/model' was not written on the Hub: .*'hf auth login'"):
        push_model(folder, "me/model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    address = push_model(folder, "me/model", private=True)
    assert "states no license" in caplog.text
    repository = local_hub.repositories["me/model"]
    assert repository.private and address.startswith(local_hub.url)
    there = {name: data for name, data in repository.files.items() if name != "README.md"}
    assert there == {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}
    assert 'from_hparams("me/model")' in repository.files["README.md"].decode()
    mix = torch.randn(1, 800)
    ours = SpeechSeparator.from_hparams("me/model").separate_batch(mix)
    assert torch.equal(ours, SpeechSeparator.from_hparams(folder).separate_batch(mix))
    push_model(folder, "me/model", branch="small", message="A branch")
    assert repository.messages[-1] == "A branch" and "small" in repository.names
    assert open_model("me/model", revision="small").kind == "separator"


def test_what_cannot_be_pushed_is_named(run, tmp_path, local_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ValueError, match="is not an exported model"):
        push_model(run, "me/model")
    with pytest.raises(FileNotFoundError, match=r"has no README\.md"):
        push_model(run / "inference", "me/model")
    folder = export_model(run, tmp_path / "model").folder
    with pytest.raises(ValueError, match="'model' is not the id of a model"):
        push_model(folder, "model")
    with pytest.raises(PermissionError, match=r"'you/model' was not written on the Hub: it does not let you \(403\)"):
        push_model(folder, "you/model")
    (folder / "README.md").write_text("no metadata")
    with pytest.raises(ValueError, match="does not begin with metadata"):
        push_model(folder, "me/model")
    assert not local_hub.repositories

"""Recognizers and speaker encoders that were exported, loaded as judges and by SpeechBrain itself."""

import itertools
from types import SimpleNamespace

import pytest
import torch
import torchaudio.functional
from speechbrain.inference.ASR import EncoderASR
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.inference.judges import load_judges, load_recognizer, load_speaker_encoder
from speechbrain_mamba.inference.pretrained import OpenedModel
from speechbrain_mamba.inference.recognition_export import export_recognizer
from speechbrain_mamba.inference.speaker import export_speaker_encoder
from speechbrain_mamba.text.tokenizer import load_tokenizer, train_tokenizer
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS

SIZES = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "data_folder": "unused"}


@pytest.fixture
def recognizer(request, tmp_path):
    """A recognizer with random weights, and its folder."""
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
    export_recognizer(folder, read_hparams(path, sizes), modules, tokenizer, hparams["streaming"])
    return hparams, folder


def transcribe(log_probs, folder, blank):
    """The likeliest path by hand: repeated tokens once, without blanks."""
    tokenizer = load_tokenizer(folder, log_probs.shape[-1])
    return tokenizer.decode([token for token, _ in itertools.groupby(log_probs.argmax(-1).tolist()) if token != blank])


@pytest.mark.parametrize(
    "recognizer",
    [{}, {"blank_index": 3, "sample_rate": 10000}, {"streaming": True}, {"streaming": True, "chunk_size": 4}],
    ids=["offline", "another blank", "streaming", "other chunks"],
    indirect=True,
)
def test_speechbrain_loads_an_exported_recognizer(recognizer, tmp_path):
    hparams, folder = recognizer
    asr = EncoderASR.from_hparams(str(folder), savedir=str(tmp_path / "cache"))
    samples = hparams["sample_rate"]
    wavs, lens = torch.randn(2, samples), torch.tensor([1.0, 0.6])
    short = round(0.6 * samples)
    modules = {name: module.eval() for name, module in hparams["modules"].items()}
    with torch.no_grad():
        feats = modules["normalize"](hparams["compute_features"](wavs[:1]), torch.ones(1))
        src = modules["CNN"](feats)
        chunks = hparams["chunk_config"] if hparams["streaming"] else None
        expected = modules["ctc_lin"](modules["Encoder"](src, dynchunktrain_config=chunks))
        at_once = modules["ctc_lin"](modules["Encoder"](src))
        log_probs = asr.encode_batch(wavs, lens)
        alone = asr.encode_batch(wavs[1:, :short], torch.ones(1))
    torch.testing.assert_close(log_probs[:1], expected.log_softmax(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_probs[1:, : alone.shape[1]], alone, atol=1e-4, rtol=1e-4)
    blank = hparams["blank_index"]
    assert log_probs[1, alone.shape[1] :].argmax(-1).eq(blank).all()
    assert torch.allclose(expected, at_once, atol=1e-3) != hparams["streaming"]

    texts, _ = asr.transcribe_batch(wavs, lens)
    assert texts == [transcribe(example, folder.parent / "tokenizer", blank) for example in log_probs]
    assert any(texts) and asr.audio_normalizer.sample_rate == samples


@pytest.fixture
def speaker(request, tmp_path):
    """A speaker encoder with random weights, and its folder."""
    path = HPARAMS / "speaker/mini_speaker.yaml"
    sizes = {"manifest_folder": "unused", "emb_dim": 8, **getattr(request, "param", {})}
    hparams = load_hparams(path, sizes)
    folder = tmp_path / "speaker"
    speakers = ["ben", "anna 2", "007"]
    export_speaker_encoder(folder, read_hparams(path, sizes), hparams["modules"], speakers, hparams["n_speakers"])
    return hparams, folder


@pytest.mark.parametrize("speaker", [{}, {"sample_rate": 16000, "n_speakers": 7}], indirect=True)
def test_speechbrain_loads_an_exported_speaker_encoder(speaker, tmp_path):
    hparams, folder = speaker
    encoder = EncoderClassifier.from_hparams(str(folder), savedir=str(tmp_path / "cache"))
    modules = {name: module.eval() for name, module in hparams["modules"].items()}
    wavs, lens = torch.randn(2, 8000), torch.tensor([1.0, 0.6])
    with torch.no_grad():
        expected = modules["embedding_model"](modules["mean_var_norm"](modules["compute_features"](wavs), lens), lens)
        scores = modules["classifier"](expected)[:, 0]
    torch.testing.assert_close(encoder.encode_batch(wavs, lens), expected)
    assert scores.shape == (2, hparams["n_speakers"])
    assert encoder.audio_normalizer.sample_rate == hparams["sample_rate"]
    networks = {f"{name}{suffix}" for name in ("embedding_model", "classifier") for suffix in (".ckpt", ".safetensors")}
    files = {"hyperparams.yaml", "label_encoder.ckpt"} | networks
    assert {path.name for path in folder.iterdir()} == files


@pytest.mark.filterwarnings("error")
def test_speechbrain_names_the_speakers_that_an_exported_classifier_knows(speaker, tmp_path):
    encoder = EncoderClassifier.from_hparams(str(speaker[1]), savedir=str(tmp_path / "cache"))
    wavs = torch.randn(2, 8000)
    assert encoder.hparams.label_encoder.ind2lab[2] == "007"
    for best, label in ((0, "ben"), (1, "anna 2"), (2, "007"), (3, "(no speaker 3)"), (99, "(no speaker 99)")):
        side = 2 * (torch.arange(100) == best).float()[:, None] - 1
        encoder.mods.classifier.weight.data.copy_(side * encoder.encode_batch(wavs[:1])[0])
        scores, _, index, labels = encoder.classify_batch(wavs[:1])
        assert (index.tolist(), labels) == ([best], [label]) and scores.shape == (1, 100)
    write_audio(tmp_path / "ben.wav", 0.1 * wavs[0], 8000)
    assert encoder.classify_file(str(tmp_path / "ben.wav"))[3] == ["(no speaker 99)"]


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 24000, 44100])
def test_features_of_a_speaker_encoder_follow_the_sample_rate(sample_rate):
    sizes = {"manifest_folder": "unused", "sample_rate": sample_rate}
    fbank = load_hparams(HPARAMS / "speaker/mini_speaker.yaml", sizes)["compute_features"]
    assert fbank(torch.randn(1, sample_rate)).shape == (1, 101, 40)
    assert fbank.compute_STFT.n_fft >= fbank.compute_STFT.win_length
    assert sample_rate != 8000 or fbank.compute_STFT.n_fft == 256  # as for published results


def test_judges_hear_any_rate(recognizer, speaker):
    judges = load_judges(str(recognizer[1]), str(speaker[1]))
    wav = torch.randn(16000)
    heard = torchaudio.functional.resample(wav, 16000, 8000)
    asr, encoder = EncoderASR.from_hparams(str(recognizer[1])), EncoderClassifier.from_hparams(str(speaker[1]))
    assert judges["recognize"](wav, 16000) == asr.transcribe_batch(heard[None], torch.ones(1))[0][0] != ""
    torch.testing.assert_close(judges["embed"](wav, 16000), encoder.encode_batch(heard)[0, 0], rtol=1e-3, atol=1e-3)
    assert judges["embed"](wav, 8000).shape == (8,)
    assert not torch.allclose(judges["embed"](wav, 8000), judges["embed"](wav, 16000), atol=1e-3)


def test_what_is_not_asked_for_is_not_loaded(recognizer, speaker):
    assert load_judges(None, None) == {}
    assert set(load_judges(str(recognizer[1]), None)) == {"recognize"}
    assert set(load_judges(None, str(speaker[1]))) == {"embed"}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder of a published model, and how it was loaded and called, without one."""
    made = SimpleNamespace(folder=tmp_path / "published", loaded=[], normalized=[], heard=[], words=["SO ES IST"])
    made.folder.mkdir()

    def normalize(wav, sample_rate):
        made.normalized.append((len(wav), sample_rate))
        return wav[::2]

    def transcribe(wavs, lens):
        made.heard.append((wavs, lens))
        return made.words, None

    def encode(wavs):
        made.heard.append(wavs)
        return torch.arange(6.0).reshape(1, 2, 3)

    def load(opened, kind, run_opts=None):
        made.loaded.append((kind.__name__, opened.files.source, opened.files.savedir, run_opts))
        return SimpleNamespace(audio_normalizer=normalize, transcribe_batch=transcribe, encode_batch=encode)

    monkeypatch.setattr(OpenedModel, "load", load)
    return made


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("modules:\n  encoder: 1\ndecoding_function: !name:speechbrain.decoders.ctc.ctc_greedy_decode", "EncoderASR"),
        ("modules:\n  whisper: 1\ndecoding_function: !name:speechbrain.decoders.ctc.ctc_greedy_decode", "EncoderASR"),
        ("modules:\n  whisper: 1\nencoder: 2", "WhisperASR"),
        ("modules:\n  encoder: 1\nwhisper: 2", "EncoderDecoderASR"),
        ("encoder: 1", "EncoderDecoderASR"),
    ],
    ids=["CTC", "CTC with Whisper's encoder", "Whisper", "no Whisper among the modules", "no modules"],
)
@pytest.mark.parametrize(("device", "savedir"), [("cpu", None), ("meta", "cache")])
def test_a_recognizer_is_loaded_by_its_kind(published, text, kind, device, savedir, tmp_path):
    savedir = savedir and str(tmp_path / savedir)
    (published.folder / "hyperparams.yaml").write_text(text)
    recognize = load_recognizer(str(published.folder), device, savedir)
    assert published.loaded == [(kind, str(published.folder), savedir, {"device": device})]
    assert recognize(torch.arange(10.0), 16000) == "SO ES IST"
    assert published.normalized == [(10, 16000)]
    ((wavs, lens),) = published.heard
    assert wavs.shape == (1, 5) and wavs.device.type == device and lens.tolist() == [1.0]
    published.words = [["SO", "ES", "IST"]]
    assert recognize(torch.arange(10.0), 16000) == "SO ES IST"


@pytest.mark.parametrize(("device", "savedir"), [("cpu", None), ("cuda:1", "cache")])
def test_a_speaker_encoder_is_loaded_where_it_shall_compute(published, device, savedir, tmp_path):
    savedir = savedir and str(tmp_path / savedir)
    (published.folder / "hyperparams.yaml").write_text("modules: 1")
    embed = load_speaker_encoder(str(published.folder), device, savedir)
    assert published.loaded == [("EncoderClassifier", str(published.folder), savedir, {"device": device})]
    assert embed(torch.arange(10.0), 16000).tolist() == [0, 1, 2]
    assert published.normalized == [(10, 16000)] and published.heard[0].tolist() == [0, 2, 4, 6, 8]


def test_both_judges_compute_on_the_device(published):
    (published.folder / "hyperparams.yaml").write_text("decoding_function: 1")
    load_judges(str(published.folder), str(published.folder), "cuda:1")
    load_judges(published.folder, published.folder)
    assert [(kind, options["device"]) for kind, _, _, options in published.loaded] == [
        ("EncoderASR", "cuda:1"),
        ("EncoderClassifier", "cuda:1"),
        ("EncoderASR", "cpu"),
        ("EncoderClassifier", "cpu"),
    ]
    assert all(isinstance(source, str) for _, source, _, _ in published.loaded)


def test_a_missing_judge_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no hyperparams\.yaml"):
        load_judges(str(tmp_path), None)
    with pytest.raises(FileNotFoundError, match=r"has no hyperparams\.yaml"):
        load_judges(None, str(tmp_path))

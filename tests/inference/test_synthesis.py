"""The synthesizer that is loaded from a folder: what it says, and what it makes of bad input."""

from __future__ import annotations

import inspect
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import torchaudio.functional
from hyperpyyaml import load_hyperpyyaml

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec, save_codec
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.decoders.sampling import TokenSampler
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer, export_synthesizer
from speechbrain_mamba.lobes.models.synthesis import VallE
from speechbrain_mamba.lobes.models.synthesis.speech import speak
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.hparams import read_hparams
from tests.conftest import HPARAMS

CODEC = {
    "sample_rate": 8000,
    "ratios": (8, 5, 4),
    "n_codebooks": 4,
    "codebook_size": 16,
    "dimension": 8,
    "n_filters": 2,
}
GREEDY = {
    "token_folder": "unused", "n_codebooks": 4, "codebook_size": 16, "num_layers": 2, "d_model": 16,
    "max_seconds": 0.5, "attention_interval": 2,
}  # fmt: skip


def write_model(folder, name: str, tokenizer=None, codec=None, **options):
    """A small synthesizer with random weights that takes the likeliest tokens; its parts are returned."""
    torch.manual_seed(0)
    changes = {**GREEDY, "sampler": {"temperature": 0}, "prompt_level": None, **options}
    text = read_hparams(HPARAMS / "tts" / f"{name}.yaml", changes)
    codec = EnCodec(**{**CODEC, **(codec or {})})
    codec(torch.randn(4, 4000))  # fills the codebooks
    modules = load_hyperpyyaml(text)["modules"]
    tokenizer = tokenizer or TextTokenizer.train(["one two three"], "characters")
    export_synthesizer(folder, text, modules, tokenizer, codec)
    return SimpleNamespace(modules=modules, tokenizer=tokenizer, codec=codec.eval())


def load_model(folder, **options) -> SpeechSynthesizer:
    return SpeechSynthesizer.from_hparams(source=str(folder), savedir=str(folder.parent / "cache"), **options)


@pytest.fixture(scope="module", params=["mini_vallm", "mini_valle"])
def synthesizer(request, tmp_path_factory) -> SpeechSynthesizer:
    """A synthesizer as users load it."""
    folder = tmp_path_factory.mktemp(request.param)
    write_model(folder / "model", request.param)
    return SpeechSynthesizer.from_hparams(source=str(folder / "model"), savedir=str(folder / "cache"))


def test_a_batch_says_what_each_example_says_alone(synthesizer):
    texts, said = ["one", "two three"], ["three one", "two"]
    prompts = torch.randn(2, 6000)
    prompts[1, 3000:] = 0
    speech = synthesizer.synthesize_batch(texts, prompts, torch.tensor([1.0, 0.5]), prompt_texts=said)
    for example, samples in enumerate((6000, 3000)):
        alone = synthesizer.synthesize_batch(
            texts[example : example + 1],
            prompts[example : example + 1, :samples],
            prompt_texts=said[example : example + 1],
        )
        length = int(alone.lengths[0])
        assert 0 < length == int(speech.lengths[example]) <= 4000
        torch.testing.assert_close(speech.wavs[example, :length], alone.wavs[0, :length], rtol=1e-3, atol=1e-4)


def test_a_prompt_at_another_rate_is_resampled(synthesizer, tmp_path):
    time = torch.arange(16000) / 16000
    write_audio(tmp_path / "prompt.wav", 0.5 * torch.sin(2 * torch.pi * 200 * time), 16000)
    wav = synthesizer.synthesize_file("one", tmp_path / "prompt.wav", "two")
    assert wav.dim() == 1
    assert 0 < len(wav) <= 4000
    assert wav.isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": torch.randn(1, 159)}, "has 159 samples, which is shorter than one frame of the codec, 160"),
        ({"prompts": torch.randn(1, 40000)}, "250 frames, but the model takes at most 150"),
        ({"texts": [" "]}, "has nothing to say"),
        ({"texts": ["zero"]}, "symbols that the model was not trained with: z"),
        ({"prompt_texts": [""]}, "has nothing to say"),
        ({"texts": ["one", "two"]}, "There are 2 texts, 1 prompts"),
    ],
)
def test_bad_input_is_named(synthesizer, change, words):
    inputs = {"texts": ["one"], "prompts": torch.randn(1, 4000), "prompt_texts": ["two"]} | change
    with pytest.raises(ValueError, match=words):
        synthesizer.synthesize_batch(inputs["texts"], inputs["prompts"], prompt_texts=inputs["prompt_texts"])


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_a_prompt_without_a_voice_is_named(synthesizer, broken):
    prompts = torch.randn(2, 4000)
    prompts[1, :3200] = broken
    state = "silent" if broken == 0 else "not finite"
    with pytest.raises(ValueError, match=f"Prompt 1 is {state}"):
        synthesizer.synthesize_batch(["one"] * 2, prompts, torch.tensor([1.0, 0.8]), prompt_texts=["two"] * 2)
    with pytest.raises(ValueError, match="There is no text to say"):
        synthesizer.synthesize_batch([], prompts[:0], prompt_texts=[])


def test_predictions_that_are_not_finite_are_named(synthesizer, monkeypatch):
    start = synthesizer.model.ar.start

    def broken(prompt, phonemes):
        logits, state = start(prompt, phonemes)
        logits[1] = torch.nan
        return logits, state

    monkeypatch.setattr(synthesizer.model.ar, "start", broken)
    with pytest.raises(RuntimeError, match=r"speech of 1 of 2 texts, such as number 1, is not finite: .* Try fp32"):
        synthesizer.synthesize_batch(["one"] * 2, torch.randn(2, 4000), prompt_texts=["two"] * 2)


def test_a_codec_that_does_not_fit_is_named(tmp_path):
    write_model(tmp_path / "model", "mini_vallm")
    save_codec(EnCodec(**{**CODEC, "codebook_size": 32}), tmp_path / "codec")
    options = {"source": str(tmp_path / "model"), "savedir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="a codebook_size of 16, but the codec given has 32"):
        SpeechSynthesizer.from_hparams(codec=str(tmp_path / "codec"), **options)
    (tmp_path / "model" / "text.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no text\.json"):
        SpeechSynthesizer.from_hparams(**options)


@pytest.fixture
def asked(monkeypatch):
    """What the language models are asked for, by the names of the arguments, with what follows from the context."""
    calls, generate = [], VallE.generate

    def spy(*arguments, **options):
        call = inspect.signature(generate).bind(*arguments, **options)
        call.apply_defaults()
        calls.append({**call.arguments, "autocast": torch.is_autocast_enabled("cpu")})
        return generate(*arguments, **options)

    monkeypatch.setattr(VallE, "generate", spy)
    return calls


@pytest.fixture
def languages(synthesizer, monkeypatch):
    """The texts that are turned into numbers, with their languages."""
    texts, encode = [], synthesizer.tokenizer.encode

    def spy(text, language=None):
        texts.append((text, language))
        return encode(text)

    monkeypatch.setattr(synthesizer.tokenizer, "encode", spy)
    return texts


def test_each_text_follows_the_text_and_the_sound_of_its_prompt(synthesizer, asked):
    texts, said = ["one", "two three", "we"], ["three one", "two", "three"]
    prompts, lengths = torch.randn(3, 6000), [6000, 3000, 160]
    # rounded: 3000.4 and 159.6 samples
    lens = torch.tensor([6000, 3000.4, 159.6]) / 6000
    synthesizer.synthesize_batch(texts, prompts, lens, prompt_texts=said)
    (call,) = asked
    encode = TextTokenizer.train(["one two three"], "characters").encode
    for example, (text, prompt, length) in enumerate(zip(texts, said, lengths)):
        parts = call["prompt"].phonemes, call["phonemes"], call["prompt"].codes
        before, phonemes, sound = (values[example, : lengths[example]] for values, lengths in parts)
        assert before.tolist() == encode(f"{prompt} ") and phonemes.tolist() == encode(text)
        codes, frames = synthesizer.codec.encode(prompts[example : example + 1, :length])
        assert len(sound) == frames[0] == -(-length // 160)
        assert torch.equal(sound, codes[0])
    assert call["max_frames"] == 25 and call["sampler"] is synthesizer.hparams.sampler


def test_without_lengths_prompts_are_heard_to_their_end(synthesizer, asked):
    synthesizer.synthesize_batch(["one", "two"], torch.randn(2, 4000), prompt_texts=["two", "one"])
    assert asked[0]["prompt"].codes.lengths.tolist() == [25, 25]


@pytest.mark.parametrize("given", [["de", None], None])
def test_each_text_and_its_prompt_have_their_language(synthesizer, languages, given):
    synthesizer.synthesize_batch(["one", "two"], torch.randn(2, 4000), prompt_texts=["three", "net"], languages=given)
    first, second = given or [None, None]
    assert sorted(languages) == [("net", second), ("one", first), ("three", first), ("two", second)]


@pytest.mark.parametrize(
    "change",
    [{"prompts": torch.randn(2, 4000)}, {"prompt_texts": ["one", "two"]}, {"languages": ["de", "en"]}, {"texts": []}],
)
def test_each_text_needs_one_of_each(synthesizer, change):
    inputs = {"texts": ["one"], "prompts": torch.randn(1, 4000), "prompt_texts": ["two"], "languages": [None]} | change
    counts = [len(inputs[name]) for name in ("texts", "prompts", "prompt_texts", "languages")]
    words = "There are {} texts, {} prompts, {} texts of prompts and {} languages".format(*counts)
    with pytest.raises(ValueError, match=words):
        synthesizer.synthesize_batch(**inputs)


@pytest.mark.parametrize("rate", [8000, 11025])
@pytest.mark.parametrize("language", [None, "de"])
def test_a_file_is_said_as_its_waveform_is(synthesizer, languages, tmp_path, rate, language):
    write_audio(tmp_path / "prompt.wav", 0.1 * torch.randn(rate // 2), rate)
    wav = torchaudio.functional.resample(read_audio(tmp_path / "prompt.wav"), rate, synthesizer.sample_rate)
    expected = synthesizer.synthesize_batch(["one"], wav[None], prompt_texts=["two"])
    languages.clear()
    speech = synthesizer.synthesize_file("one", tmp_path / "prompt.wav", "two", language)
    torch.testing.assert_close(speech, expected.wavs[0])
    assert sorted(languages) == [("one", language), ("two", language)]
    assert synthesizer.sample_rate == 8000


@pytest.mark.parametrize("name", ["mini_vallm", "mini_valle"])
def test_what_was_exported_says_what_the_model_said(tmp_path, name):
    made = write_model(tmp_path / "model", name)
    prompt = torch.randn(1, 4000)
    said, phonemes = (Padded.collate([made.tokenizer.encode(text)]) for text in ("two ", "one"))
    voice = Utterances(said, Padded(*made.codec.encode(prompt)))
    model = VallE(made.modules["ar"], made.modules["nar"]).eval()
    expected = speak(model, made.codec, voice, phonemes, 25, TokenSampler(temperature=0))
    speech = load_model(tmp_path / "model").synthesize_batch(["one"], prompt, prompt_texts=["two"])
    torch.testing.assert_close(speech.wavs, expected.wavs)
    assert torch.equal(speech.finished, expected.finished) and torch.equal(speech.lengths, expected.lengths)


@pytest.mark.parametrize(
    ("tokenizer", "n_codebooks"),
    [
        (TextTokenizer(["a", "ö", " "], "characters", "de"), 6),
        (TextTokenizer(["θ", "iː"], "ipa", "fr-fr"), 4),
        (TextTokenizer.train(["one two three one two"], "bpe", "it", 16), 5),
    ],
)
def test_an_export_keeps_tokenizer_codec_and_sampler_whole(tmp_path, tokenizer, n_codebooks):
    sampler = {"temperature": 0.7, "top_k": 3, "top_p": 0.8, "repetition_window": 5, "repetition_ratio": 0.2, "seed": 9}
    made = write_model(tmp_path / "model", "mini_vallm", tokenizer, {"n_codebooks": n_codebooks}, sampler=sampler)
    loaded = load_model(tmp_path / "model")
    assert {name: getattr(loaded.hparams.sampler, name) for name in sampler} == sampler
    for name in ("symbols", "kind", "language", "model"):
        assert getattr(loaded.tokenizer, name) == getattr(tokenizer, name)
    assert loaded.codec.n_codebooks == 4  # as many as the model has
    state, expected = loaded.codec.state_dict(), made.codec.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    assert not loaded.codec.training


@pytest.mark.parametrize(("max_seconds", "frames"), [(0.25, 12), (0.37, 18)])
def test_speech_is_at_most_so_long(tmp_path, max_seconds, frames):
    write_model(tmp_path / "model", "mini_vallm", max_seconds=max_seconds)
    loaded = load_model(tmp_path / "model")
    loaded.hparams.sampler = lambda logits, history=None: torch.zeros(len(logits), dtype=torch.long)  # never ends
    speech = loaded.synthesize_batch(["one"], torch.randn(1, 4000), prompt_texts=["two"])
    assert speech.lengths.tolist() == [160 * frames] and not speech.finished[0]
    overridden = load_model(tmp_path / "model", overrides={"max_seconds": 0.1})
    assert overridden.max_frames == 5


@pytest.mark.parametrize(("prompt_seconds", "frames"), [(0.5, 25), (0.33, 16)])
def test_prompts_are_at_most_so_long(tmp_path, prompt_seconds, frames):
    write_model(tmp_path / "model", "mini_vallm", prompt_seconds=prompt_seconds)
    loaded = load_model(tmp_path / "model")
    loaded.synthesize_batch(["one"], torch.randn(1, 160 * frames), prompt_texts=["two"])
    with pytest.raises(ValueError, match=f"{frames + 1} frames, but the model takes at most {frames}"):
        loaded.synthesize_batch(["one"], torch.randn(1, 160 * frames + 1), prompt_texts=["two"])


def test_all_its_files_come_from_one_version_on_the_hub(tmp_path, monkeypatch):
    parts = write_model(tmp_path / "model", "mini_vallm")
    asked, snapshot = {}, tmp_path / "hub" / "models--someone--model" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)

    def download(repo_id, filename, revision=None, **options):
        asked[filename] = revision
        if not (tmp_path / "model" / filename).is_file():
            raise OSError("404")
        return shutil.copy(tmp_path / "model" / filename, snapshot / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = SpeechSynthesizer.from_hparams("someone/model", revision="v1")
    torch.testing.assert_close(loaded.codec.state_dict(), parts.codec.state_dict())
    assert loaded.tokenizer.encode("one") == parts.tokenizer.encode("one")
    assert asked.pop("hyperparams.yaml") == "v1" and {"text.json", "codec.json", "codec.safetensors"} <= asked.keys()
    assert set(asked.values()) == {"abc123"}


def test_another_codec_can_be_given(tmp_path):
    write_model(tmp_path / "model", "mini_vallm")
    other = EnCodec(**{**CODEC, "n_codebooks": 5})
    save_codec(other, tmp_path / "codec")
    for codec, same in ((None, False), (str(tmp_path / "codec"), True)):
        loaded = load_model(tmp_path / "model", codec=codec)
        weights = zip(loaded.codec.parameters(), other.parameters())
        assert all(torch.equal(ours, theirs) for ours, theirs in weights) == same
        assert loaded.codec.n_codebooks == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_that_of_the_run(asked, tmp_path, monkeypatch, precision):
    monkeypatch.setattr("speechbrain_mamba.inference.precision.bf16_unavailable", lambda: None)
    write_model(tmp_path / "model", "mini_vallm")
    loaded = load_model(tmp_path / "model", run_opts={"precision": precision}, freeze_params=False)
    assert not any(module.training for module in (*loaded.model.modules(), *loaded.codec.modules()))
    loaded.synthesize_batch(["one"], torch.randn(1, 4000), prompt_texts=["two"])
    assert asked[0]["autocast"] == (precision == "bf16")

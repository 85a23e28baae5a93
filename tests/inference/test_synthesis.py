"""The synthesiser that is loaded from a folder: what it says, and what it makes of bad input."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec, save_codec
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.hparams import load_hparams, read_hparams
from speechbrain_mamba.dataio.phonemes import TextTokenizer
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer, export_synthesizer
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
    "max_seconds": 0.5,
}  # fmt: skip


def write_model(folder, name: str):
    """A small synthesiser with random weights that takes the likeliest tokens."""
    torch.manual_seed(0)
    text = read_hparams(HPARAMS / "tts" / f"{name}.yaml", {**GREEDY, "sampler": {"temperature": 0}})
    codec = EnCodec(**CODEC)
    codec(torch.randn(4, 4000))  # fills the codebooks
    modules = load_hparams(HPARAMS / "tts" / f"{name}.yaml", GREEDY)["modules"]
    export_synthesizer(folder, text, modules, TextTokenizer.train(["one two three"], "characters"), codec)


@pytest.fixture(scope="module", params=["mini_vallm", "mini_valle"])
def synthesizer(request, tmp_path_factory) -> SpeechSynthesizer:
    """A synthesiser as users load it."""
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


def test_a_codec_that_does_not_fit_is_named(tmp_path):
    write_model(tmp_path / "model", "mini_vallm")
    save_codec(EnCodec(**{**CODEC, "codebook_size": 32}), tmp_path / "codec")
    options = {"source": str(tmp_path / "model"), "savedir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="a codebook_size of 16, but the codec given has 32"):
        SpeechSynthesizer.from_hparams(codec=str(tmp_path / "codec"), **options)
    (tmp_path / "model" / "text.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no text\.json"):
        SpeechSynthesizer.from_hparams(**options)

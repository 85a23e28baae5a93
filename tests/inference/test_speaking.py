"""Texts of any length in the voice of any recording: seeds, pieces, limits, and what users are told."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.decoders.sampling import TokenSampler
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.weights import read_weights
from tests.inference.test_synthesis import load_model, write_model

SAMPLER = {"temperature": 1.0, "top_p": 0.9, "repetition_window": 10, "repetition_ratio": 0.3, "seed": 4}
VOICE = 0.3 * torch.sin(torch.arange(6000) / 7) * torch.linspace(0.5, 1, 6000)
SAID = "two three one two"  # at 0.044 s a letter, seven of which make a piece


@pytest.fixture(scope="module")
def synthesizer(tmp_path_factory):
    """A synthesizer with random weights that samples, and says at most half a second at once."""
    folder = tmp_path_factory.mktemp("speaking")
    write_model(folder / "model", "mini_vallm", sampler=SAMPLER)
    return load_model(folder / "model")


def say(synthesizer, text="one", prompt=VOICE, said=SAID, **options):
    return synthesizer.synthesize(text, prompt, said, **options)


class TestSeeds:
    def test_the_same_seed_gives_the_same_speech_alone_and_in_a_batch(self, synthesizer):
        texts, seeds = ["one", "two", "one"], [7, 8, 7]
        batch = synthesizer.synthesize_batch(texts, VOICE.expand(3, -1), prompt_texts=[SAID] * 3, seed=seeds)
        for place, (text, seed) in enumerate(zip(texts, seeds)):
            alone = say(synthesizer, text, seed=seed)
            assert len(alone.wav) == batch.lengths[place]
            torch.testing.assert_close(batch.wavs[place, : len(alone.wav)], alone.wav, rtol=1e-3, atol=1e-4)
        assert not torch.equal(say(synthesizer, seed=8).wav, say(synthesizer, seed=7).wav)
        every = synthesizer.synthesize_batch(["one"] * 2, VOICE.expand(2, -1), prompt_texts=[SAID] * 2, seed=7)
        assert torch.equal(every.wavs[0], every.wavs[1])
        # a processor's libraries may sum the codec's products in another order for another number of examples
        torch.testing.assert_close(every.wavs[0], batch.wavs[0, : every.wavs.shape[1]], rtol=1e-3, atol=1e-4)

    def test_global_random_numbers_are_left_alone(self, synthesizer):
        torch.manual_seed(1)
        expected = torch.rand(())
        torch.manual_seed(1)
        say(synthesizer, seed=5)
        say(synthesizer)
        assert torch.rand(()) == expected

    def test_without_a_seed_it_is_that_of_the_sampler(self, synthesizer, monkeypatch):
        spoken = say(synthesizer)
        assert spoken.seed == 4 and torch.equal(spoken.wav, say(synthesizer, seed=4).wav)
        monkeypatch.setattr(synthesizer.hparams, "sampler", TokenSampler(top_p=0.9))
        first, second = say(synthesizer), say(synthesizer)
        assert first.seed != second.seed and torch.equal(first.wav, say(synthesizer, seed=first.seed).wav)

    @pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "a", True])
    def test_what_is_no_seed_is_refused(self, synthesizer, seed):
        with pytest.raises(ValueError, match=r"seed is .*, but must be a whole number from 0 to 2\*\*63 - 1"):
            say(synthesizer, seed=seed)

    def test_other_samplers_and_other_counts_are_refused(self, synthesizer, monkeypatch):
        with pytest.raises(ValueError, match="There are 2 seeds for 1 texts"):
            synthesizer.synthesize_batch(["one"], VOICE[None], prompt_texts=["two"], seed=[1, 2])
        monkeypatch.setattr(synthesizer.hparams, "sampler", lambda logits, history: logits.argmax(-1))
        with pytest.raises(TypeError, match="which has no for_examples"):
            say(synthesizer, seed=1)


class TestLongTexts:
    TEXT = "one two three. three two, one one. two"

    def test_a_text_is_said_in_pieces_with_pauses(self, synthesizer):
        spoken = say(synthesizer, self.TEXT, seed=3)
        assert [piece.text for piece in spoken.pieces] == ["one two", "three.", "three", "two,", "one one.", "two"]
        gaps = [round(b.start - a.end, 3) for a, b in zip(spoken.pieces, spoken.pieces[1:])]
        assert gaps == [0.05, 0.3, 0.05, 0.15, 0.3]
        assert spoken.pieces[0].start == 0 and spoken.pieces[-1].end == pytest.approx(spoken.seconds)
        for before, after in zip(spoken.pieces, spoken.pieces[1:]):
            assert not spoken.wav[round(before.end * 8000) : round(after.start * 8000)].any()
        frames = sum(round((piece.end - piece.start) * 50) for piece in spoken.pieces)
        assert spoken.codes.shape == (frames, 4)

    def test_pieces_do_not_depend_on_the_batches(self, synthesizer):
        done = []
        one = say(synthesizer, self.TEXT, seed=3, batch_size=1)
        two = say(synthesizer, self.TEXT, seed=3, batch_size=4, progress=lambda *given: done.append(given))
        assert done == [(4, 6), (6, 6)] and torch.equal(one.codes, two.codes)
        torch.testing.assert_close(one.wav, two.wav, rtol=1e-3, atol=1e-4)
        assert torch.equal(one.codes[: round(50 * one.pieces[0].end)], say(synthesizer, "one two", seed=3).codes)

    def test_what_does_not_fit_is_left_out_and_said(self, synthesizer, monkeypatch):
        whole = say(synthesizer, self.TEXT, seed=3)
        limit = whole.pieces[3].start - 0.01
        spoken = say(synthesizer, self.TEXT, seed=3, max_seconds=limit)
        assert len(spoken.pieces) == 3 and spoken.seconds <= limit and not spoken.finished
        assert any(
            "does not fit into max_seconds" in one and "3 of 6 pieces" in one and "'two,'" in one
            for one in spoken.notices
        )

    def test_speech_that_does_not_end_is_cut_and_said(self, synthesizer, monkeypatch):
        never = TokenSampler(temperature=0)
        monkeypatch.setattr(
            never, "for_examples", lambda seeds: lambda logits, history: logits[:, :-1].argmax(-1), raising=False
        )
        monkeypatch.setattr(synthesizer.hparams, "sampler", never)
        spoken = say(synthesizer, seed=1)
        assert not spoken.finished and spoken.seconds == 0.5 and not spoken.pieces[0].finished
        assert any("The speech did not end within 0.50 s and was cut there: 'one'" in one for one in spoken.notices)
        assert say(synthesizer, seed=1, max_seconds=0.1).seconds == pytest.approx(0.1)

    @pytest.mark.parametrize("limit", [0, -1, 0.01, float("nan"), "2", True])
    def test_limits_out_of_range_are_refused(self, synthesizer, limit):
        with pytest.raises(ValueError, match=r"max_seconds is .* at least 0.02 seconds"):
            say(synthesizer, max_seconds=limit)


class TestTexts:
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"text": " \n"}, ValueError, "text is empty: give the words that are said"),
            ({"said": ""}, ValueError, "prompt_text is empty: give the words that are heard"),
            ({"text": 5}, TypeError, "text is of type int, but must be a string"),
            ({"text": "one zero"}, ValueError, "symbols that the model was not trained with: z"),
            ({"text": "!?"}, ValueError, "nothing to say"),
            ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ],
    )
    def test_what_cannot_be_said_is_named(self, synthesizer, change, error, words):
        with pytest.raises(error, match=words):
            say(synthesizer, **change)

    def test_case_and_punctuation_are_brought_to_the_inventory(self, synthesizer):
        spoken = say(synthesizer, "Two!", seed=2)
        assert torch.equal(spoken.wav, say(synthesizer, "two", seed=2).wav)
        assert any(one.endswith("which were left out: !") for one in spoken.notices)

    def test_a_prompt_that_hardly_says_its_text_is_noticed(self, synthesizer):
        assert any("is it what is said?" in one for one in say(synthesizer, said="o").notices)
        assert not any("is it what is said?" in one for one in say(synthesizer).notices)

    def test_a_missing_espeak_is_named(self, synthesizer, monkeypatch):
        from speechbrain_mamba.text import espeak

        monkeypatch.setitem(sys.modules, "espeakng_loader", None)
        monkeypatch.setattr(synthesizer, "tokenizer", TextTokenizer(["w", " "], "ipa"))
        espeak._engine.cache_clear()
        with pytest.raises(ImportError, match=r"the package espeakng-loader is not installed: run pip install"):
            say(synthesizer)
        with pytest.raises(TypeError, match="texts is one string: give a list"):
            synthesizer.synthesize_batch("one", VOICE[None], prompt_texts=["two"])


class TestPrompts:
    def test_any_recording_is_taken(self, synthesizer, tmp_path):
        """At the model's rate and twice that, of one channel or two, 8 bits to floats, as a file, stream and tensor."""
        expected = say(synthesizer, seed=1)
        path = tmp_path / "voice.wav"
        soundfile.write(path, VOICE.numpy(), 8000, "FLOAT")
        for prompt in (path, str(path), io.BytesIO(path.read_bytes())):
            assert torch.equal(say(synthesizer, prompt=prompt, seed=1).codes, expected.codes)
        soundfile.write(path, np.stack([VOICE.numpy()] * 2, 1), 8000, "FLOAT")
        mixed = say(synthesizer, prompt=path, seed=1)
        assert torch.equal(mixed.codes, expected.codes) and any("channels" in one for one in mixed.notices)
        soundfile.write(tmp_path / "fast.flac", np.repeat(VOICE.numpy(), 2), 16000)
        assert say(synthesizer, prompt=tmp_path / "fast.flac", seed=1).wav.isfinite().all()

    def test_any_samples_are_taken(self, synthesizer):
        expected = say(synthesizer, seed=1).codes
        whole = (VOICE * 2**15).round()
        for prompt in (
            VOICE.double(), VOICE.numpy(), VOICE.requires_grad_(False)[None], VOICE.expand(2, -1),
        ):  # fmt: skip
            assert torch.equal(say(synthesizer, prompt=prompt, seed=1).codes, expected)
        rounded = say(synthesizer, prompt=whole / 2**15, seed=1).codes
        for prompt in (whole.to(torch.int16), whole.numpy().astype(np.int16), (whole * 2**16).to(torch.int32)):
            assert torch.equal(say(synthesizer, prompt=prompt, seed=1).codes, rounded)
        half = say(synthesizer, prompt=VOICE.half(), seed=1).codes
        assert torch.equal(half, say(synthesizer, prompt=VOICE.half().float(), seed=1).codes)
        batch = synthesizer.synthesize_batch(["one"], whole.to(torch.int16)[None], [1.0], prompt_texts=[SAID], seed=1)
        assert batch.lengths[0] == 160 * len(rounded)

    def test_samples_of_another_rate_are_resampled(self, synthesizer, tmp_path):
        fast = torch.nn.functional.interpolate(VOICE[None, None], scale_factor=2, mode="linear")[0, 0]
        soundfile.write(tmp_path / "fast.wav", fast.numpy(), 16000, "FLOAT")
        as_file = say(synthesizer, prompt=tmp_path / "fast.wav", seed=1)
        assert torch.equal(say(synthesizer, prompt=fast, prompt_rate=16000, seed=1).codes, as_file.codes)
        with pytest.raises(ValueError, match="prompt_rate is 0, but"):
            say(synthesizer, prompt_rate=0)
        with pytest.raises(ValueError, match="a recording says its own rate"):
            say(synthesizer, prompt=tmp_path / "fast.wav", prompt_rate=8000)

    @pytest.mark.parametrize(
        ("prompt", "error", "words"),
        [
            (torch.zeros(4000), ValueError, "The prompt is silent"),
            (torch.full((4000,), torch.nan), ValueError, "The prompt holds NaN or infinite samples"),
            (torch.ones(1), ValueError, "The prompt has 1 samples at 8000 Hz, which is shorter than one frame"),
            (torch.ones(0), ValueError, r"The prompt has shape \(0,\)"),
            (torch.ones(4000, 2), ValueError, r"\(samples, channels\): swap both axes"),
            (torch.ones(1, 2, 4000), ValueError, r"must be \(samples,\) or \(channels, samples\)"),
            (torch.ones(4000, dtype=torch.bool), TypeError, "samples of type bool"),
            (torch.ones(4000, dtype=torch.cfloat), TypeError, "samples of type complex64"),
            (None, TypeError, "give a tensor or an array"),
            ("no.wav", FileNotFoundError, "'no.wav' does not exist"),
        ],
    )
    def test_what_is_no_prompt_is_named(self, synthesizer, prompt, error, words):
        with pytest.raises(error, match=words):
            say(synthesizer, prompt=prompt)

    def test_silence_around_a_long_prompt_is_cut_away(self, synthesizer):
        long = torch.cat([1e-4 * torch.randn(16000), VOICE, torch.zeros(8000)])  # 3.75 s, the limit is 3 s
        spoken = say(synthesizer, prompt=long, seed=1)
        assert any("3.75 s, of which" in one and "silence at its ends were cut away" in one for one in spoken.notices)
        kept = torch.cat([long[16000 - 400 : 16000], VOICE, torch.zeros(400)])
        assert torch.equal(spoken.codes, say(synthesizer, prompt=kept, seed=1).codes)

    def test_a_prompt_that_is_too_long_is_refused_with_a_place_to_cut(self, synthesizer):
        long = torch.cat([VOICE, torch.zeros(2000), VOICE, VOICE, VOICE, VOICE])
        with pytest.raises(ValueError, match=r"4\.00 s of speech.* at most 3\.00 s: .* pause at 0\.8\d s"):
            say(synthesizer, prompt=long)
        with pytest.raises(ValueError, match=r"give the text of what is left\.$"):
            say(synthesizer, prompt=VOICE.repeat(5))

    def test_the_level_of_prompts_is_that_of_the_training(self, tmp_path):
        write_model(tmp_path / "model", "mini_vallm", prompt_level=0.08)
        loaded = load_model(tmp_path / "model")
        quiet, loud = (say(loaded, prompt=gain * VOICE, seed=1) for gain in (0.01, 1.0))
        level = VOICE * 0.08 / VOICE.square().mean().sqrt()
        write_model(tmp_path / "plain", "mini_vallm")
        plain = say(load_model(tmp_path / "plain"), prompt=level, seed=1)
        assert torch.equal(quiet.codes, loud.codes) and torch.equal(quiet.codes, plain.codes)


def test_speech_is_saved_as_it_is(synthesizer, tmp_path):
    spoken = say(synthesizer, seed=1)
    with pytest.raises(ValueError, match=r"has the suffix '\.txt', but audio is written to"):
        spoken.save(tmp_path / "speech.txt")
    assert not list(tmp_path.iterdir())
    spoken.save(tmp_path / "deep" / "speech.wav")
    torch.testing.assert_close(read_audio(tmp_path / "deep" / "speech.wav"), spoken.wav.clamp(-1, 1), atol=1e-4, rtol=0)
    assert spoken.wav.dtype == torch.float32 and spoken.wav.dim() == 1 and spoken.sample_rate == 8000


def test_an_export_of_version_0_2_loads(tmp_path):
    """It has no prompt_level, and only .ckpt files."""
    write_model(tmp_path / "model", "mini_vallm", sampler=SAMPLER)
    for path in (tmp_path / "model").glob("*.safetensors"):
        torch.save(read_weights(path), path.with_suffix(".ckpt"))
        path.unlink()
    file = tmp_path / "model" / "hyperparams.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("prompt_level")))
    assert say(load_model(tmp_path / "model"), seed=1).seconds > 0

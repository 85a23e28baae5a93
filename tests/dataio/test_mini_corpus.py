"""The embedded corpus."""

import json
import re

import numpy as np
import pytest

from speechbrain_mamba.dataio.audio import audio_info, read_audio
from speechbrain_mamba.dataio.espeak import espeak_available, phonemes
from speechbrain_mamba.dataio.mini_corpus import build_mini_corpus
from speechbrain_mamba.dataio.sentences import DIGITS, digit_string, make_sentences
from speechbrain_mamba.dataio.voices import HIGH_VARIANTS, LOW_VARIANTS, make_speakers

needs_espeak = pytest.mark.skipif(not espeak_available(), reason="espeakng-loader is not installed")
TINY = {"sample_rate": 8000, "speakers": (3, 1, 2), "sentences": 3, "digit_strings": 1, "distinct_sentences": 50}


def test_sentences_are_distinct_plain_and_varied():
    sentences = make_sentences(1000, np.random.default_rng(0))
    assert len(set(sentences)) == 1000
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)+", sentence) for sentence in sentences)
    assert len({word for sentence in sentences for word in sentence.split()}) > 500
    assert make_sentences(1000, np.random.default_rng(0)) == sentences
    assert make_sentences(1000, np.random.default_rng(1)) != sentences


def test_digit_strings_are_digits():
    digits = digit_string(50, np.random.default_rng(0)).split()
    assert len(digits) == 50
    assert set(digits) <= set(DIGITS)


def test_no_variant_speaks_in_two_splits():
    for variants in (LOW_VARIANTS, HIGH_VARIANTS):
        everyone = [variant for split in variants.values() for variant in split]
        assert len(everyone) == len(set(everyone))


def test_speakers_differ():
    speakers = make_speakers((40, 6, 8), np.random.default_rng(0))
    assert len({speaker.id for speaker in speakers}) == 54
    sounds = {(speaker.variant, speaker.pitch, speaker.played_rate, speaker.rate) for speaker in speakers}
    assert len(sounds) == 54
    for split in ("train", "valid", "test"):
        high = [speaker.high for speaker in speakers if speaker.split == split]
        assert sum(high) == len(high) / 2
    with pytest.raises(ValueError, match="three counts"):
        make_speakers((4, 0, 1), np.random.default_rng(0))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    if not espeak_available():
        pytest.skip("espeakng-loader is not installed")
    return build_mini_corpus(tmp_path_factory.mktemp("mini") / "corpus", seed=7, processes=2, **TINY)


def lines_of(folder, kind):
    return dict(
        line.split(" ", 1) for path in sorted(folder.rglob(f"*.{kind}.txt")) for line in path.read_text().splitlines()
    )


def test_the_layout_is_that_of_librispeech(corpus):
    for split, speakers in zip(("train", "valid", "test"), TINY["speakers"]):
        assert len([entry for entry in (corpus / split).iterdir() if entry.is_dir()]) == speakers
        wavs = {path.stem: path for path in (corpus / split).rglob("*.wav")}
        assert len(wavs) == 4 * speakers
        assert wavs.keys() == lines_of(corpus / split, "trans").keys() == lines_of(corpus / split, "phonemes").keys()
        for name, path in wavs.items():
            speaker, chapter, _ = name.split("-")
            assert path.relative_to(corpus / split).parts[:2] == (speaker, chapter)
    assert len((corpus / "SPEAKERS.TXT").read_text().splitlines()) == 1 + sum(TINY["speakers"])


def test_splits_share_no_sentence(corpus):
    texts = {
        split: {text for name, text in lines_of(corpus / split, "trans").items() if name.split("-")[1] == "1"}
        for split in ("train", "valid", "test")
    }
    assert all(text == text.upper() for split in texts.values() for text in split)
    assert not (texts["train"] & texts["test"] or texts["train"] & texts["valid"] or texts["valid"] & texts["test"])


def test_phonemes_are_those_of_the_transcript(corpus):
    speakers = {speaker["id"]: speaker for speaker in json.loads((corpus / "corpus.json").read_text())["speakers"]}
    spoken = lines_of(corpus, "phonemes")
    for name, text in lines_of(corpus, "trans").items():
        assert spoken[name] == phonemes(text.lower(), speakers[name.split("-")[0]]["accent"])


def test_the_speech_is_trimmed_and_does_not_clip(corpus):
    for path in corpus.rglob("*.wav"):
        signal = read_audio(path, 8000).abs()
        assert 0.5 < len(signal) / 8000 < 8
        assert 0.05 < float(signal.max()) < 0.999
        loud = (signal > 0.02 * signal.max()).nonzero()
        assert loud[0] < 0.15 * 8000
        assert len(signal) - loud[-1] < 0.3 * 8000


def test_high_voices_are_higher_than_low_ones(corpus):
    def pitch(path):
        """The lag, within 60 to 400 Hz, where the autocorrelation of the loudest 100 ms peaks."""
        signal = read_audio(path).numpy().astype(float)
        middle = max(400, min(len(signal) - 400, int(np.argmax(np.convolve(signal**2, np.ones(800), "same")))))
        frame = signal[middle - 400 : middle + 400]
        correlation = np.correlate(frame, frame, "full")[800:]
        return 8000 / (20 + np.argmax(correlation[19:133]))

    def median(speaker):
        return np.median([pitch(path) for path in sorted((corpus / "train" / speaker).rglob("*.wav"))])

    assert median("101") > 1.2 * median("100")


def test_a_second_build_returns_at_once_and_a_different_one_is_refused(corpus):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert build_mini_corpus(corpus, seed=7, **TINY) == corpus
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before
    with pytest.raises(ValueError, match="was built with seed=7 instead of 8"):
        build_mini_corpus(corpus, seed=8, **TINY)


def test_a_seed_makes_the_same_files(corpus, tmp_path):
    again = build_mini_corpus(tmp_path / "again", seed=7, processes=1, **TINY)
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for path in files:
        assert (corpus / path).read_bytes() == (again / path).read_bytes()


@needs_espeak
def test_the_sample_rate_is_the_one_asked_for(tmp_path):
    settings = {**TINY, "speakers": (1, 1, 1), "sample_rate": 24000}
    folder = build_mini_corpus(tmp_path / "corpus", processes=2, **settings)
    assert {audio_info(path).sample_rate for path in folder.rglob("*.wav")} == {24000}


@needs_espeak
def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("speechbrain_mamba.dataio.mini_corpus._write_speaker", fail)
    with pytest.raises(OSError, match="disk full"):
        build_mini_corpus(tmp_path / "corpus", processes=1, **TINY)
    assert list(tmp_path.iterdir()) == []


def fail(task):
    raise OSError("disk full")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sentences": 0}, "sentences is 0"),
        ({"distinct_sentences": 3}, "distinct_sentences is 3"),
        ({"sample_rate": 8}, "8"),
    ],
)
def test_counts_that_are_too_small_are_named(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        build_mini_corpus(tmp_path / "corpus", **settings)


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is no mini corpus"):
        build_mini_corpus(tmp_path)
    assert (tmp_path / "thesis.txt").exists()

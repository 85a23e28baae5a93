"""The embedded corpus."""

import dataclasses
import functools
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechbrain_mamba.corpora.mini import build as module
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.corpora.mini.sentences import DIGITS
from speechbrain_mamba.dataio.audio import audio_info, read_audio
from speechbrain_mamba.text.espeak import espeak_available, phonemes

needs_espeak = pytest.mark.skipif(not espeak_available(), reason="espeakng-loader is not installed")
TINY = {"sample_rate": 8000, "speakers": (3, 1, 2), "sentences": 3, "digit_strings": 1, "distinct_sentences": 50}


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
    with pytest.raises(ValueError, match=r"was built with other settings \(seed is 7, not 8\)"):
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
    monkeypatch.setattr(module, "_write_speaker", fail)
    with pytest.raises(OSError, match="disk full"):
        build_mini_corpus(tmp_path / "corpus", processes=1, **TINY)
    assert list(tmp_path.iterdir()) == []


def fail(task):
    raise OSError("disk full")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sentences": -1}, "sentences is -1, but must be at least 0"),
        ({"sentences": 0, "digit_strings": 0}, "sentences and digit_strings are both 0"),
        ({"digit_strings": -1}, "digit_strings is -1, but must be at least 0"),
        ({"distinct_sentences": 24}, "distinct_sentences is 24, but must be at least 25"),
        ({"sample_rate": 999}, "sample_rate is 999, but must be at least 1000"),
        ({"speakers": (1, 1, 0)}, "three counts in 1 to 100"),
    ],
)
def test_counts_that_are_too_small_are_named(tmp_path, monkeypatch, settings, words):
    monkeypatch.setattr(module, "espeak_version", lambda: "0")
    with pytest.raises(ValueError, match=words):
        build_mini_corpus(tmp_path / "corpus", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="was not written by this preparation"):
        build_mini_corpus(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


# From here on it is not espeak-ng that speaks, and all speak in this process.
RATE = 22050


class Pool:
    """Works through its tasks in this process."""

    def __init__(self, *_, **__):
        self.threads = torch.get_num_threads()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        torch.set_num_threads(self.threads)

    def imap(self, function, tasks, **_):
        return map(function, tasks)

    def close(self):
        pass

    join = close


def speak(text, asked, amplitude, **settings):
    """Silence, 0.2 s too soft to be heard, 0.4 s of a tone, 0.2 s just loud enough, silence."""
    asked.append({"text": text, **settings})
    seconds = torch.arange(RATE * 14 // 10) / RATE
    envelope = torch.zeros(len(seconds))
    for start, stop, decibels in ((0.3, 0.5, -45.5), (0.5, 0.9, 0), (0.9, 1.1, -44.5)):
        envelope[round(start * RATE) : round(stop * RATE)] = 10 ** (decibels / 20)
    return amplitude * envelope * torch.sin(2 * torch.pi * 440 * seconds), RATE


def build_told(folder, amplitude=0.5, **settings):
    """Build a corpus with the voice of the test, and read what was asked of it."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.multiprocessing, "get_context", lambda method: SimpleNamespace(Pool=Pool))
        patch.setattr(module, "synthesize", functools.partial(speak, asked=asked, amplitude=amplitude))
        patch.setattr(module, "phonemes", lambda text, voice: f"{voice} says {text}")
        patch.setattr(module, "espeak_version", lambda: "1.2.3")
        built = build_mini_corpus(folder, **{**TINY, **settings})
    return built, json.loads((built / "corpus.json").read_text(encoding="utf-8")), asked


@pytest.fixture
def told(tmp_path):
    return build_told(tmp_path / "corpus", sample_rate=16000, sentences=2, digit_strings=1)


def texts_of(folder, speaker, chapter):
    (path,) = folder.glob(f"*/{speaker}/{chapter}/{speaker}-{chapter}.trans.txt")
    return [line.split(" ", 1)[1] for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_text_is_spoken_in_the_voice_of_its_speaker(told):
    folder, content, asked = told
    assert len(content["speakers"]) == 6
    expected = [
        {
            "text": text.lower(),
            "voice": speaker["accent"],
            "variant": speaker["variant"],
            "pitch": speaker["pitch"],
            "pitch_range": speaker["pitch_range"],
            "rate": round(speaker["rate"] * RATE / speaker["played_rate"]),
        }
        for speaker in content["speakers"]
        for chapter in (1, 2)
        for text in texts_of(folder, speaker["id"], chapter)
    ]
    assert asked == expected
    spoken, written = lines_of(folder, "phonemes"), lines_of(folder, "trans")
    accents = {speaker["id"]: speaker["accent"] for speaker in content["speakers"]}
    assert len(set(accents.values())) > 2
    assert spoken == {name: f"{accents[name[:3]]} says {text.lower()}" for name, text in written.items()}


def test_speech_is_played_at_the_rate_of_its_speaker_and_trimmed(told):
    """The soft part at the end stays, the softer one at the beginning does not; 50 ms are kept around."""
    folder, content, _ = told
    assert len({speaker["played_rate"] for speaker in content["speakers"]}) > 2
    for speaker in content["speakers"]:
        signal = read_audio(folder / speaker["split"] / speaker["id"] / "1" / f"{speaker['id']}-1-0000.wav", 16000)
        seconds = 0.6 * RATE / speaker["played_rate"]
        assert len(signal) / 16000 == pytest.approx(seconds + 0.1, abs=0.005)
        tone = signal[800 : 800 + round(0.39 * RATE / speaker["played_rate"] * 16000)]
        spectrum = torch.fft.rfft(tone * torch.hann_window(len(tone))).abs()
        assert int(spectrum.argmax()) * 16000 / len(tone) == pytest.approx(440 * speaker["played_rate"] / RATE, abs=3)


def test_pauses_have_a_floor_of_noise_of_their_own(told, tmp_path):
    again, _, _ = build_told(tmp_path / "again", sample_rate=16000, seed=8, speakers=(1, 1, 1), sentences=1)
    paths = sorted(path for folder in (told[0], again) for path in folder.rglob("*.wav"))
    noises = torch.stack([read_audio(path)[-700:] for path in paths])
    rms = noises.square().mean(dim=1).sqrt()
    assert ((rms > 0.9e-4) & (rms < 1.1e-4)).all()
    assert float((torch.corrcoef(noises) - torch.eye(len(paths))).abs().max()) < 0.2


@pytest.mark.parametrize(("amplitude", "peak"), [(0.25, 0.25), (0.9, 0.9), (1.5, 0.99)])
def test_only_what_would_clip_is_made_softer(tmp_path, amplitude, peak):
    folder, _, _ = build_told(tmp_path / "corpus", amplitude, speakers=(1, 1, 1), sentences=1, digit_strings=0)
    for path in folder.rglob("*.wav"):
        assert float(read_audio(path).abs().max()) == pytest.approx(peak, rel=0.01)


def test_a_corpus_of_digits_alone(tmp_path):
    folder, _, _ = build_told(tmp_path / "corpus", speakers=(1, 1, 1), sentences=0, digit_strings=3)
    assert {path.parent.name for path in folder.rglob("*.wav")} == {"2"}
    assert len(list(folder.rglob("*.wav"))) == 9
    said = {text for text in lines_of(folder, "trans").values()}
    assert said and all(set(text.lower().split()) <= set(DIGITS) for text in said)


def test_the_speakers_of_a_split_go_through_its_own_sentences_in_turn(tmp_path):
    folder, content, _ = build_told(tmp_path / "corpus", sentences=15, digit_strings=0)
    counts = {"train": 40, "valid": 4, "test": 6}  # 80, 8 and 12 per cent of the 50 sentences
    assert not [path for path in folder.rglob("*-2*")]
    everything = []
    for split, count in counts.items():
        speakers = [speaker["id"] for speaker in content["speakers"] if speaker["split"] == split]
        read = [text for speaker in speakers for text in texts_of(folder, speaker, 1)]
        assert len(read) == 15 * len(speakers)
        assert read == [read[index % count] for index in range(len(read))]
        everything += read[:count]
    assert len(everything) == len(set(everything)) == 50


def test_strings_of_digits_have_three_to_seven(tmp_path):
    folder, content, _ = build_told(tmp_path / "corpus", speakers=(1, 1, 1), digit_strings=20)
    strings = [text.split() for speaker in content["speakers"] for text in texts_of(folder, speaker["id"], 2)]
    assert len(strings) == 60
    assert {len(digits) for digits in strings} == {3, 4, 5, 6, 7}
    assert {digit.lower() for digits in strings for digit in digits} == set(DIGITS)


def test_the_tables_say_how_it_was_built(told):
    folder, content, _ = told
    assert content["settings"] == {
        "version": 1, "sample_rate": 16000, "seed": 1234, "speakers": [3, 1, 2], "sentences": 2, "digit_strings": 1,
        "distinct_sentences": 50,
    }  # fmt: skip
    assert content["espeak-ng"] == "1.2.3"
    seconds = {
        speaker["id"]: sum(audio_info(path).seconds for path in folder.rglob(f"{speaker['id']}-*.wav"))
        for speaker in content["speakers"]
    }
    assert content["hours"] == pytest.approx(sum(seconds.values()) / 3600, abs=5e-4)
    header, *lines = (folder / "SPEAKERS.TXT").read_text(encoding="utf-8").splitlines()
    assert header.startswith(";") and len(lines) == 6
    for line, speaker in zip(lines, content["speakers"]):
        number, sex, split, minutes, voice = [field.strip() for field in line.split("|")]
        assert (number, sex, split) == (speaker["id"], "F" if speaker["high"] else "M", speaker["split"])
        assert float(minutes) == pytest.approx(seconds[number] / 60, abs=0.006)
        assert voice == "{accent}+{variant}, pitch {pitch}, {rate} words per minute".format(**speaker)
    assert {line.split("|")[1].strip() for line in lines} == {"F", "M"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sample_rate", 16000, "sample_rate is 8000, not 16000"),
        ("seed", 8, "seed is 7, not 8"),
        ("speakers", (3, 2, 1), r"speakers is \[3, 1, 2\], not \[3, 2, 1\]"),
        ("sentences", 4, "sentences is 3, not 4"),
        ("digit_strings", 0, "digit_strings is 1, not 0"),
        ("distinct_sentences", 51, "distinct_sentences is 50, not 51"),
        ("version", 2, "version is 1, not 2"),
    ],
)
def test_a_corpus_of_another_setting_is_not_taken_for_this_one(tmp_path, monkeypatch, name, value, words):
    settings = {**TINY, "seed": 7}
    parameters = {**settings, "version": 1, "speakers": list(TINY["speakers"])}
    (tmp_path / "corpus.json").write_text(json.dumps({"settings": parameters, "done": True}), encoding="utf-8")
    assert build_mini_corpus(tmp_path, **settings) == tmp_path
    if name == "version":
        monkeypatch.setattr(module, "_VERSION", value)
    else:
        settings[name] = value
    with pytest.raises(ValueError, match=rf"was built with other settings \({words}\): choose another folder"):
        build_mini_corpus(tmp_path, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.json"]


def test_an_empty_folder_is_built_in_and_a_file_is_left_alone(tmp_path):
    (tmp_path / "corpus").mkdir()
    built, _, _ = build_told(tmp_path / "corpus", speakers=(1, 1, 1), sentences=1)
    assert (built / "SPEAKERS.TXT").is_file()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and was not written by"):
        build_mini_corpus(tmp_path / "file", **TINY)
    assert (tmp_path / "file").read_text() == "precious"


def note(task):
    folder, speaker, chapters, sample_rate, seed = task
    note = [dataclasses.asdict(speaker), chapters, sample_rate, seed]
    folder.mkdir(exist_ok=True)
    (folder / speaker.id).write_text(json.dumps(note))
    return 90.0


def test_the_default_corpus_of_this_version_is_the_one_that_was_measured(tmp_path, monkeypatch):
    """Whoever changes what the default settings make raises the version, so that no older corpus is taken for it."""
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda method: SimpleNamespace(Pool=Pool))
    monkeypatch.setattr(module, "_write_speaker", note)
    monkeypatch.setattr(module, "espeak_version", lambda: "1.2.3")
    folder = build_mini_corpus(tmp_path / "corpus")
    content = json.loads((folder / "corpus.json").read_text())
    assert content["settings"].pop("version") == 1
    assert content["settings"] == {
        "sample_rate": 16000, "seed": 1234, "speakers": [40, 6, 8], "sentences": 26, "digit_strings": 4,
        "distinct_sentences": 1200,
    }  # fmt: skip
    assert content["hours"] == 54 * 90 / 3600
    notes = [json.loads((folder / speaker["id"]).read_text()) for speaker in content["speakers"]]
    assert [speaker for speaker, *_ in notes] == content["speakers"]
    assert all([rate, seed] == [16000, 1234] for _, _, rate, seed in notes)
    chapters = [chapters for _, chapters, *_ in notes]
    assert {tuple(map(len, both)) for both in chapters} == {(26, 4)}
    digest = hashlib.sha256(json.dumps([content["speakers"], chapters]).encode()).hexdigest()
    assert digest[:16] == "934eba8d707860d1"


def test_two_processes_that_want_it_at_once_build_it_once(tmp_path, monkeypatch):
    built = []

    def build(stamp, processes):
        built.append(processes)
        time.sleep(0.2)
        stamp.finish()

    monkeypatch.setattr(module, "_build", build)
    monkeypatch.setattr("speechbrain_mamba.utils.waiting._SECONDS", 0.01)
    with ThreadPoolExecutor() as pool:
        folders = list(pool.map(lambda _: build_mini_corpus(tmp_path / "mini", **TINY), range(2)))
    assert folders == [tmp_path / "mini"] * 2 and len(built) == 1

"""The models that come with the package, and what their cards say of them."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechbrain_mamba.corpora.fsdd_digits import prepare_fsdd_digits
from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.dataio.manifests import TRANSCRIBED, read_manifest
from speechbrain_mamba.evaluation.new_voices import say_in_voices
from speechbrain_mamba.evaluation.unseen_speakers import digit_mixtures, score_mixtures, summarize
from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words
from speechbrain_mamba.inference.bundled import (
    CARD,
    FOLDER,
    SCORES,
    BundledModel,
    bundled_models,
    find_bundled,
    read_front_matter,
)
from speechbrain_mamba.inference.pretrained import find_source
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.inference.streaming import StreamingRecognizer
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.training.init_source import find_init_source
from speechbrain_mamba.utils.weights import SAFETENSORS, read_weights
from tests.conftest import GOLDEN

ROOT = Path(__file__).parents[2]
FSDD = Path(os.environ.get("SPEECHBRAIN_MAMBA_FSDD", "/nowhere"))
MODELS = bundled_models()
BYTES = 18_000_000
"""All models together."""

needs_fsdd = pytest.mark.skipif(
    not FSDD.is_dir(), reason="SPEECHBRAIN_MAMBA_FSDD is not the folder of the Free Spoken Digit Dataset"
)
ONE = """---
summary: Separates.
limits: Hardly.
sample_rate: 8000
license: mit
figures: {WER: 3.5}
---
# one
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CARD).write_text(ONE)
    (tmp_path / "notes").mkdir()  # without a card it is none
    return tmp_path


def rows(name):
    with open(MODELS[name].folder / SCORES, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestNames:
    def test_a_model_is_what_its_card_says(self, folder):
        assert list(bundled_models(folder)) == ["one", "other"]
        model = bundled_models(folder)["one"]
        assert model == BundledModel("one", folder / "one", "Separates.", "Hardly.", 8000, "mit", {"WER": 3.5})
        assert model.card == folder / "one" / CARD

    def test_a_name_finds_its_folder(self, folder):
        assert find_bundled("other", folder) == folder / "other"

    @pytest.mark.parametrize(
        ("name", "advice"),
        [("othr", "Did you mean 'other'?"), ("xyz", "Give one of these, a folder, or the id of a model on the Hub.")],
    )
    def test_an_unknown_name_is_told_what_there_is(self, folder, name, advice):
        with pytest.raises(
            FileNotFoundError, match=f"There is no model '{name}': the package has one, other. "
        ) as error:
            find_bundled(name, folder)
        assert str(error.value).endswith(advice)

    def test_a_package_without_models_says_so(self, tmp_path):
        assert bundled_models(tmp_path) == bundled_models(tmp_path / "missing") == {}
        with pytest.raises(FileNotFoundError, match="this version of the package has none"):
            find_bundled("separator", tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("# A model\n", "has no front matter"),
            ("---\nsummary: x\n", "has no front matter"),
            ("text\n---\nsummary: x\n---\n", "has no front matter"),
            ("---\na: [1\n---\n", "is not valid YAML"),
            ("---\n- a list\n---\n", "lacks summary, limits, sample_rate, license, figures"),
            (ONE.replace("limits", "limit"), "lacks limits"),
        ],
    )
    def test_a_bad_card_is_named(self, tmp_path, text, message):
        (tmp_path / CARD).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_front_matter(tmp_path / CARD)


def test_all_models_are_small_and_hold_nothing_else():
    files = [path for path in FOLDER.rglob("*") if path.is_file()] if FOLDER.is_dir() else []
    assert sum(path.stat().st_size for path in files) <= BYTES
    assert {path.parent.name for path in files} == set(MODELS)
    assert {path.suffix for path in files} <= {".md", ".csv", ".yaml", ".json", ".ckpt", SAFETENSORS}
    for path in files:
        assert not (path.suffix == ".ckpt" and path.with_suffix(SAFETENSORS).exists())


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_in_half_precision_and_finite(name):
    found = [read_weights(path) for path in MODELS[name].folder.glob(f"*{SAFETENSORS}")]
    values = [value for state in found for value in state.values() if value.is_floating_point()]
    assert values and all(value.isfinite().all() for value in values)
    assert sum(value.numel() for value in values if value.dtype != torch.float16) < 0.01 * sum(map(torch.numel, values))


@pytest.mark.parametrize("name", MODELS)
def test_a_card_tells_its_figures_in_a_table_and_its_limits(name):
    model = MODELS[name]
    text = model.card.read_text(encoding="utf-8")
    for figure, value in model.figures.items():
        assert f"| {figure} | {value} |" in text
    assert "$" not in text
    for part in ("## Figures", "## Data", "## Limits", "## How it was made"):
        assert part in text


@pytest.fixture(scope="module")
def separator():
    return SpeechSeparator.from_hparams("separator")


class TestSeparator:
    def scores(self, seconds):
        return [
            {"speakers": row["speakers"], "si_snr_i": float(row["si_snr_i"]), "sdr_i": float(row["sdr_i"])}
            for row in rows("separator")
            if float(row["seconds"]) == seconds
        ]

    def test_the_figures_are_the_means_of_the_scores(self):
        figures = dict(MODELS["separator"].figures)
        for seconds in (2, 8):
            found = summarize(self.scores(seconds))
            assert len(self.scores(seconds)) >= 50
            assert figures.pop(f"SI-SNRi of {seconds} s, dB") == pytest.approx(found["si_snr_i"], abs=0.006)
            assert figures.pop(f"SDRi of {seconds} s, dB") == pytest.approx(found["sdr_i"], abs=0.006)
            assert figures.pop(f"made worse of {seconds} s, %") == pytest.approx(found["worse"], abs=0.06)
        assert not figures

    def test_it_is_worth_something_to_people_who_were_in_no_training(self):
        found = summarize(self.scores(2))
        limits = MODELS["separator"].limits
        assert found["si_snr_i"] >= 2.0
        assert f"gains {found['si_snr_i']:.1f} dB" in limits and f"makes {found['worse']:.0f} %" in limits

    def test_it_separates_a_few_recordings_as_its_card_says(self, separator):
        """Mixtures of people of FSDD, the first ones of the test of the card."""
        for index, expected in enumerate(self.scores(2)[:4]):
            sources = torch.stack([read_audio(GOLDEN / f"fsdd/{index}_{i}.flac", 8000) for i in (1, 2)], 1)
            with torch.no_grad():
                estimates = separator.separate_batch(sources.sum(1)[None])[0]
            (found,) = score_mixtures(lambda mix, made=estimates: made[None], [Mixed(sources)])
            assert found["si_snr_i"] == pytest.approx(expected["si_snr_i"], abs=0.3)

    def test_files_of_its_estimates_have_the_sign_of_the_sources(self, separator):
        """Which its own estimates need not have, as SI-SNR does not care."""
        sources = torch.stack([read_audio(GOLDEN / f"fsdd/0_{i}.flac", 8000) for i in (1, 2)])
        (result,) = separator.separate_long(sources.sum(0)).estimates
        found = torch.corrcoef(torch.cat([sources, result.T]))[:2, 2:]
        assert max(found.trace(), found.fliplr().trace()) > 1.5

    @needs_fsdd
    @pytest.mark.slow
    def test_it_separates_all_of_fsdd_as_its_card_says(self, separator):
        expected = self.scores(2)
        with torch.no_grad():
            found = score_mixtures(separator.separate_batch, digit_mixtures(FSDD, len(expected), 2.0))
        assert [row["speakers"] for row in found] == [row["speakers"] for row in expected]
        assert summarize(found)["si_snr_i"] == pytest.approx(summarize(expected)["si_snr_i"], abs=0.05)
        assert summarize(found)["worse"] == pytest.approx(summarize(expected)["worse"], abs=2)


class Mixed:
    """A mixture of sources (samples, speakers)."""

    speakers = ("a", "b")

    def __init__(self, sources):
        self.sources, self.mix = sources.T, sources.sum(1)


def error_rate(rows, heard="heard"):
    errors = WordErrors()
    for row in rows:
        errors.add(row["id"], normalize_words(row[heard]), normalize_words(row["said"]))
    return errors.rate()


def by_test(name):
    """The scores of a model, by the names of its tests."""
    tests = {}
    for row in rows(name):
        tests.setdefault(row["test"], []).append(row)
    return tests


class TestRecognizers:
    NAMES = tuple(name for name in MODELS if name.startswith("recognizer"))

    @pytest.mark.parametrize("name", NAMES)
    def test_the_figures_are_those_of_the_texts(self, name):
        figures, tests = MODELS[name].figures, by_test(name)
        assert {figure for figure in figures if figure.startswith("WER")} == {f"WER of {test}, %" for test in tests}
        for test, own in tests.items():
            assert figures[f"WER of {test}, %"] == pytest.approx(error_rate(own), abs=0.006)
        assert f"{error_rate(next(iter(tests.values()))):.0f} % of the words wrong" in MODELS[name].limits


@pytest.mark.skipif("recognizer-digits" not in MODELS, reason="this version has no recognizer of digits")
class TestRecognizerOfDigits:
    def test_it_hears_a_few_recordings_as_its_card_says_in_pieces_too(self):
        """Of the speaker who was in no training."""
        recognizer = StreamingRecognizer.from_hparams("recognizer-digits")
        expected = {row["id"]: row["heard"] for row in by_test("recognizer-digits")["an unseen speaker"]}
        for path in sorted((GOLDEN / "fsdd").glob("theo_*.flac")):
            signal = read_audio(path, 8000)
            for piece in signal.split(800):
                recognizer.add(piece)
            assert recognizer.finish() == recognizer.recognize(signal) == expected[path.stem.removeprefix("theo_")]
        assert recognizer.latency == pytest.approx(
            MODELS["recognizer-digits"].figures["latency of a stream, s"], abs=0.006
        )

    def test_it_is_worth_something_to_a_speaker_who_was_in_no_training(self):
        unseen = by_test("recognizer-digits")["an unseen speaker"]
        assert len(unseen) >= 100 and error_rate(unseen) < 25

    @needs_fsdd
    @pytest.mark.slow
    def test_it_hears_a_speaker_of_fsdd_as_its_card_says(self, tmp_path):
        options = {"counts": (3000, 100, 300), "level": 0.08, "test_speakers": ["theo"]}
        items = read_manifest(prepare_fsdd_digits(FSDD, tmp_path, **options)["test"])
        heard, _ = Recognizer.from_hparams("recognizer-digits").transcribe_batch(
            [read_audio(item["wav"], 8000) for item in items.values()]
        )
        found = [{"id": name, "said": item["wrd"], "heard": text} for (name, item), text in zip(items.items(), heard)]
        expected = by_test("recognizer-digits")["an unseen speaker"]
        assert [row["said"] for row in found] == [row["said"] for row in expected]
        assert error_rate(found) == pytest.approx(error_rate(expected), abs=0.5)


@pytest.mark.skipif("synthesizer-digits" not in MODELS, reason="this version has no synthesizer of digits")
class TestSynthesizerOfDigits:
    def test_the_figures_are_those_of_the_texts(self):
        figures = dict(MODELS["synthesizer-digits"].figures)
        for test, own in by_test("synthesizer-digits").items():
            assert len(own) >= 50
            assert figures.pop(f"WER in the voice of {test}, %") == pytest.approx(error_rate(own), abs=0.006)
            recordings = error_rate(own, "heard_in_recording")
            assert figures.pop(f"WER of recordings of {test}, %") == pytest.approx(recordings, abs=0.006)
            lengths = [(float(row["seconds"]), float(row["seconds_of_recording"])) for row in own]
            wrong = 100 * sum(abs(speech / recording - 1) for speech, recording in lengths) / len(own)
            assert figures.pop(f"duration error in the voice of {test}, %") == pytest.approx(wrong, abs=0.06)
        assert not figures

    def test_it_is_worth_something_in_the_voice_of_a_person_who_was_in_no_training(self):
        wrong = error_rate(by_test("synthesizer-digits")["an unseen person"])
        assert wrong < 50
        assert f"{wrong:.0f} % of the words wrong" in " ".join(MODELS["synthesizer-digits"].limits.split())

    def test_it_says_a_few_texts_in_the_voice_of_that_person(self):
        """As loud and as fast as the prompt, and so that most of it is understood."""
        prompt, errors = GOLDEN / "fsdd/theo_test-00007.flac", WordErrors()
        synthesizer = SpeechSynthesizer.from_hparams("synthesizer-digits")
        recognizer = Recognizer.from_hparams("recognizer-digits")
        for seed, text in enumerate(("SIX TWO NINE", "FOUR ZERO SEVEN", "EIGHT ONE FIVE THREE")):
            spoken = synthesizer.synthesize(text, prompt, "ONE THREE TWO FOUR", seed=seed)
            assert spoken.finished and 0.2 < spoken.seconds / len(text.split()) < 1.2
            assert 0.02 < spoken.wav.square().mean().sqrt() < 0.2
            (heard,), _ = recognizer.transcribe_batch(spoken.wav)
            errors.add(text, heard, text)
        assert errors.rate() < 50

    @needs_fsdd
    @pytest.mark.slow
    def test_it_says_all_texts_as_its_card_says(self, tmp_path):
        """But for what other random numbers and rounding do: another processor draws other tokens."""
        options = {"counts": (6000, 100, 300), "short": 3000, "level": 0.08, "test_speakers": ["theo"]}
        items = read_manifest(prepare_fsdd_digits(FSDD, tmp_path, **options)["test"], columns=(*TRANSCRIBED, "spk_id"))
        synthesizer = SpeechSynthesizer.from_hparams("synthesizer-digits")
        expected = by_test("synthesizer-digits")["an unseen person"]
        said = list(say_in_voices(synthesizer.synthesize, items, len(expected), synthesizer.hparams.prompt_seconds))
        heard, _ = Recognizer.from_hparams("recognizer-digits").transcribe_batch([one.wav for one in said])
        found = [{"id": one.name, "said": one.recording["wrd"], "heard": text} for one, text in zip(said, heard)]
        assert [row["said"] for row in found] == [row["said"] for row in expected]
        assert error_rate(found) == pytest.approx(error_rate(expected), abs=8)


@pytest.mark.parametrize("name", MODELS)
def test_the_documentation_tells_the_figures_of_the_card(name):
    text = (Path(__file__).parents[2] / "docs/bundled.md").read_text(encoding="utf-8")
    told = re.findall(rf"^\| `{name}` \| ([^|]*\d\.\d[^|]*) \|", text, re.MULTILINE)
    figures = {f"{value:.1f}" for value in MODELS[name].figures.values()}
    assert told and set(re.findall(r"\d+\.\d", " ".join(told))) <= figures


def test_a_folder_in_the_working_directory_does_not_hide_a_model(tmp_path, monkeypatch, caplog):
    """Neither from a command that names no model, nor from a training that starts from one."""
    monkeypatch.chdir(tmp_path)
    name = next(iter(bundled_models()))
    assert find_source(name) == str(FOLDER / name) and not caplog.text
    for folder in (name, "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.ckpt").touch()
    for find in (find_source, lambda name: str(find_init_source(name).folders[0])):
        assert find(name) == str(FOLDER / name)
        assert f"here is './{name}'" in caplog.text
        caplog.clear()
    assert find_source(f"./{name}") == f"./{name}" and find_source("other") == "other" and not caplog.text
    assert find_init_source(f"./{name}").folders == (Path(name),)


def test_models_load_and_run_without_the_compiler_of_torch():
    """Time is not measured: importing the compiler takes as long as all the rest of a first separation."""
    code = """if True:
        import sys
        import torch
        from speechbrain_mamba.inference.recognition import Recognizer
        from speechbrain_mamba.inference.separation import SpeechSeparator
        with torch.no_grad():
            SpeechSeparator.from_hparams("separator").separate_batch(torch.ones(1, 4000))
            Recognizer.from_hparams("recognizer-digits").transcribe_batch(torch.ones(1, 8000), torch.ones(1))
        print([name for name in NAMES if name in sys.modules])
    """
    # torch 2.8 itself imports sympy when weights are initialized on the device meta
    names = [
        "torch._dynamo",
        "triton",
        "matplotlib",
        "pandas",
        "scipy.stats",
        *(["sympy"] if torch.__version__ >= "2.9" else []),
    ]
    code = code.replace("NAMES", repr(names))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.splitlines()[-1] == "[]"

"""How a trained model gets into the package."""

import argparse
import itertools
import math
import re
from pathlib import Path

import pytest
import torch

from speechbrain_mamba.codecs import EnCodec
from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import write_manifest
from speechbrain_mamba.inference.bundled import CARD, SCORES, bundled_models
from speechbrain_mamba.inference.separation import export_separator
from speechbrain_mamba.inference.synthesis import export_synthesizer
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from speechbrain_mamba.utils.weights import read_weights, write_weights
from tests.conftest import HPARAMS
from tests.inference.tiny_recognizers import make_recognizer
from tests.recipes.conftest import buzz, table
from tests.recipes.tts_spies import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("bundled/bundle")


def test_weights_are_halved_and_other_files_are_copied(script, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    state = {"weight": torch.randn(3, 4), "huge": torch.full((2,), 1e6), "steps": torch.tensor(7)}
    for suffix in (".safetensors", ".ckpt"):
        write_weights(source / f"encoder{suffix}", state)
    (source / "tokenizer.ckpt").write_bytes(b"no weights")
    (source / "hyperparams.yaml").write_text("a: 1")
    assert script.halve_weights(source, target) == 14
    assert {path.name for path in target.iterdir()} == {"encoder.safetensors", "tokenizer.ckpt", "hyperparams.yaml"}
    found = read_weights(target / "encoder.safetensors")
    assert torch.equal(found["weight"], state["weight"].half())
    assert torch.equal(found["huge"], state["huge"]) and found["steps"].dtype == torch.int64
    assert (target / "tokenizer.ckpt").read_bytes() == b"no weights"


def test_a_card_has_the_figures_twice_and_lacks_nothing(script, tmp_path):
    (tmp_path / "template.md").write_text("---\nfigures:\n$figures\n---\n$table\n$more %")
    script.write_card(tmp_path / CARD, tmp_path / "template.md", {"WER, %": 3.5, "x": 2}, {"more": 7})
    text = (tmp_path / CARD).read_text()
    assert '  "WER, %": 3.5\n  "x": 2\n' in text and "| WER, % | 3.5 |\n| x | 2 |" in text and text.endswith("7 %")
    with pytest.raises(KeyError, match="more"):
        script.write_card(tmp_path / CARD, tmp_path / "template.md", {}, {})


@pytest.mark.parametrize("name", ["separator", "recognizer-digits", "recognizer-sentences", "synthesizer-digits"])
def test_every_model_has_a_template_and_a_recipe(script, name):
    assert (script.CARDS / f"{name}.md").is_file() and name in script.MEASURES
    (recipe, hparams) = re.findall(r"\S+\.(?:py|yaml)", script.COMMANDS[name])
    assert (HPARAMS.parent / recipe).is_file() and (HPARAMS.parent / hparams).is_file()


class TestSeparator:
    @pytest.fixture
    def run(self, tmp_path):
        path, small = HPARAMS / "separation/mini_mambatasnet.yaml", {"n_mamba": 1, "out_channels": 8}
        hparams = load_hparams(path, {"output_folder": str(tmp_path / "run"), **small})
        export_separator(tmp_path / "run/inference", read_hparams(path, small), hparams["modules"])
        rows = [
            {"ID": f"{speaker}-{k}", "duration": 60.0, "wav": f"{k}.wav", "spk_id": f"{speaker}-x"}
            for k, speaker in enumerate(("mini", "speech_to_intent", "speech_to_intent"))
        ]
        write_manifest(tmp_path / "run/save/train_utterances.csv", rows)
        (tmp_path / "run/training.csv").write_text("epoch,seconds\n1,60\n2,90\n")
        return tmp_path / "run"

    @pytest.fixture
    def fsdd(self, tmp_path):
        for number, speaker in enumerate(("anna", "ben", "carl")):
            for take in (0, 5, 10):
                write_audio(tmp_path / f"fsdd/recordings/3_{speaker}_{take}.wav", buzz(90 + 50 * number, 1, take), 8000)
        return tmp_path / "fsdd"

    def test_it_becomes_a_folder_with_scores_and_a_card(self, script, run, fsdd, tmp_path, capsys):
        arguments = ["separator", run, "--fsdd", fsdd, "--count", 4, "--machine", "a slate", "--out", tmp_path / "out"]
        script.main(list(map(str, arguments)))
        model = bundled_models(tmp_path / "out")["separator"]
        assert {path.suffix for path in model.folder.iterdir()} == {".safetensors", ".yaml", ".md", ".csv"}
        scores = table(model.folder / SCORES)
        assert [row["seconds"] for row in scores] == ["2.0"] * 4 + ["8.0"] * 2
        mean = sum(float(row["si_snr_i"]) for row in scores[:4]) / 4
        assert model.figures["SI-SNRi of 2 s, dB"] == pytest.approx(mean, abs=0.006)
        assert f"{mean:.1f} dB SI-SNRi on average" in model.limits
        text = model.card.read_text()
        for words in ("for 2 minutes", "on a slate", f"| {scores[0]['speakers']} |", "(2 minutes)", "(1 minutes)"):
            assert words in text
        assert str(model.folder) in capsys.readouterr().out

    def test_what_is_missing_is_named_and_nothing_is_left(self, script, run, tmp_path):
        options = argparse.Namespace(out=tmp_path / "out", fsdd=None, count=2, machine="")
        with pytest.raises(ValueError, match="give --fsdd, the clone of free-spoken-digit-dataset"):
            script.bundle("separator", run, options)
        with pytest.raises(FileNotFoundError, match="has no folder inference: give the folder of a training"):
            script.bundle("separator", tmp_path / "nothing", options)
        assert not [path for path in Path(options.out).rglob("*") if path.is_file()]


@pytest.fixture
def manifest(tmp_path):
    """Four recordings of 1.2 s of two speakers."""
    rows = []
    for number, (speaker, text) in enumerate(itertools.product(("anna", "ben"), ("ONE TWO", "TWO ONE"))):
        path = tmp_path / f"speech/{number}.wav"
        write_audio(path, buzz(90 + 50 * number, 1.2, number), 8000)
        rows.append({"ID": f"s{number}", "duration": 1.2, "wav": str(path), "wrd": text, "spk_id": speaker})
    write_manifest(tmp_path / "test.csv", rows)
    return tmp_path / "test.csv"


@pytest.fixture
def recognizer(tmp_path):
    """The folder of a run that ended."""
    make_recognizer(tmp_path / "recognizer", causal=True)
    (tmp_path / "recognizer/training.csv").write_text("epoch,seconds\n1,60\n")
    return tmp_path / "recognizer"


def bundle(script, name, run, tmp_path, *options):
    arguments = [name, run, "--machine", "a slate", "--out", tmp_path / "out", "--count", 3, *options]
    script.main(list(map(str, arguments)))
    return bundled_models(tmp_path / "out")[name]


class TestRecognizer:
    def test_each_test_has_a_figure_and_rows(self, script, recognizer, manifest, tmp_path):
        model = bundle(
            script, "recognizer-digits", recognizer, tmp_path, "--tests", f"two people={manifest}", f"both={manifest}"
        )
        scores = table(model.folder / SCORES)
        assert [(row["test"], row["id"]) for row in scores] == [
            (test, f"s{number}") for test in ("two people", "both") for number in range(4)
        ]
        assert list(model.figures) == ["WER of two people, %", "WER of both, %", "latency of a stream, s"]
        wrong = model.figures["WER of two people, %"]
        assert wrong == model.figures["WER of both, %"] == pytest.approx(script.error_rate(scores), abs=0.006)
        assert f"{wrong:.0f} % of the words wrong" in model.limits
        text = " ".join(model.card.read_text().split())
        assert "- two people: 4 recordings of 2 speakers" in text
        assert "Of 3 recordings that came as a stream, in pieces of 100 ms, 0 got another text" in text

    def test_without_tests_it_is_that_of_the_training(self, script, recognizer, manifest, tmp_path):
        (recognizer / "save").mkdir()
        (recognizer / "save/test.csv").write_text(manifest.read_text())
        model = bundle(script, "recognizer-sentences", recognizer, tmp_path)
        assert list(model.figures) == ["WER of the test of the training, %"]

    @pytest.mark.parametrize("given", ["test.csv", "=test.csv"])
    def test_a_test_without_a_name_is_refused(self, script, recognizer, tmp_path, given):
        with pytest.raises(ValueError, match=f"'{given}' is not a test: give NAME=MANIFEST"):
            bundle(script, "recognizer-digits", recognizer, tmp_path, "--tests", given)


class TestSynthesizer:
    @pytest.fixture
    def run(self, tmp_path):
        codec = EnCodec(8000, (8, 5, 4), n_codebooks=2, codebook_size=16, dimension=8, n_filters=2)
        codec(torch.randn(4, 4000))  # fills the codebooks
        sizes = {"token_folder": "unused", "n_codebooks": 2, "codebook_size": 16, "num_layers": 1, "d_model": 16}
        path, sizes = HPARAMS / "tts/mini_vallm.yaml", sizes | {"max_seconds": 0.4}
        tokenizer = TextTokenizer.train(["ONE TWO"], "characters")
        modules = load_hparams(path, sizes)["modules"]
        export_synthesizer(tmp_path / "run/inference", read_hparams(path, sizes), modules, tokenizer, codec.eval())
        (tmp_path / "run/training.csv").write_text("epoch,seconds\n1,60\n")
        return tmp_path / "run"

    def test_its_speech_and_the_recordings_are_heard(self, script, run, recognizer, manifest, tmp_path):
        options = ["--tests", f"two people={manifest}", "--recognizer", recognizer / "inference"]
        model = bundle(script, "synthesizer-digits", run, tmp_path, *options)
        assert {"codec.safetensors", "codec.json", "ar.safetensors"} <= {path.name for path in model.folder.iterdir()}
        scores = table(model.folder / SCORES)
        assert [row["id"] for row in scores] == ["s0", "s1", "s2"]
        assert all(0 < float(row["seconds"]) < 1.2 and row["seconds_of_recording"] == "1.2" for row in scores)
        assert dict(model.figures) == {
            "WER in the voice of two people, %": pytest.approx(script.error_rate(scores), abs=0.006),
            "WER of recordings of two people, %": pytest.approx(
                script.error_rate(scores, "heard_in_recording"), abs=0.006
            ),
            "duration error in the voice of two people, %": pytest.approx(
                sum(100 * (1 - float(row["seconds"]) / 1.2) for row in scores) / 3, abs=0.06
            ),
        }
        assert all(float(row[column]) > 50 for row in scores for column in ("pitch", "pitch_of_prompt"))
        unfinished = sum(row["finished"] == "False" for row in scores)
        assert f"{unfinished} of 3 texts did not come to an end" in " ".join(model.card.read_text().split())

    def test_pitches_are_compared_with_those_of_the_prompt_and_of_other_speakers(self, script):
        t = torch.arange(4000) / 8000
        assert script.median_pitch(torch.sin(2 * torch.pi * 150 * t), 8000) == pytest.approx(150, rel=0.02)
        assert script.median_pitch(torch.sin(2 * torch.pi * 150 * t[:400]), 8000) == pytest.approx(150, rel=0.03)
        rows = [
            {"speaker": name, "pitch": 2 * given, "pitch_of_prompt": given} for name, given in (("a", 100), ("b", 50))
        ]
        assert script.pitch_distances(rows) == (12, 12)
        assert script.pitch_distances(rows[:1])[0] == 12 and math.isnan(script.pitch_distances(rows[:1])[1])

    def test_speakers_with_one_recording_are_refused(self, script, run, recognizer, manifest, tmp_path):
        rows = manifest.read_text().splitlines()
        manifest.write_text("\n".join([rows[0], rows[1], rows[3]]))
        options = ["--tests", f"two people={manifest}", "--recognizer", recognizer / "inference"]
        with pytest.raises(ValueError, match="No text can be said in the voice of another recording"):
            bundle(script, "synthesizer-digits", run, tmp_path, *options)


def test_a_machine_is_described(script):
    assert re.match(r"\d+ threads? of \S", script.describe_machine())

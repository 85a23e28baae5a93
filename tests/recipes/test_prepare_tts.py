"""The scripts around the synthesis recipe: settings reach what prepares data and what judges speech."""

import csv
import inspect
import json
import re
import runpy
import sys

import pytest
import torch

from speechbrain_mamba.corpora.fsdd_digits import prepare_fsdd_digits
from speechbrain_mamba.corpora.mini.prepare import prepare_mini
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.manifests import write_manifest
from speechbrain_mamba.evaluation.speaking import COLUMNS, TABLE
from speechbrain_mamba.text.espeak import espeak_available
from speechbrain_mamba.utils.files import write_csv
from speechbrain_mamba.utils.locks import FolderInUseError, FolderLock
from tests.recipes import tts_spies
from tests.recipes.tts_spies import load_script

needs_espeak = pytest.mark.skipif(not espeak_available(), reason="espeakng-loader is not installed")

RECIPES = tts_spies.RECIPES / "tts"


def noted(script, function, monkeypatch, result=None):
    """Replace a function in a script by one that notes its arguments by name, with those it has by default."""
    calls = []

    def call(*arguments, **options):
        bound = inspect.signature(function).bind(*arguments, **options)
        bound.apply_defaults()
        calls.append(bound.arguments)
        return result

    monkeypatch.setattr(script, function.__name__, call)
    return calls


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (
            [],
            {
                "seed": 1234,
                "level": 0.08,
                "short": 4000,
                "counts": (8000, 100, 300),
                "test_speakers": [],
                "sample_rate": 8000,
            },
        ),
        (
            [
                "--seed",
                "5",
                "--level",
                "0.2",
                "--short",
                "7",
                "--long",
                "9",
                "--test_speakers",
                "theo",
                "lucas",
                "--sample_rate",
                "16000",
            ],
            {
                "seed": 5,
                "level": 0.2,
                "short": 7,
                "counts": (9, 100, 300),
                "test_speakers": ["theo", "lucas"],
                "sample_rate": 16000,
            },
        ),
    ],
)
def test_digits_are_made_as_the_command_line_says(monkeypatch, options, settings):
    script = load_script("tts/prepare_fsdd_digits")
    calls = noted(script, prepare_fsdd_digits, monkeypatch, result={})
    script.main(["data", "lists", *options])
    assert calls == [{"data_folder": "data", "save_folder": "lists", **settings}]


def test_digits_leave_their_settings_in_the_stamp(tmp_path):
    for digit in range(10):
        for take in (0, 5, 10):
            signal = torch.full((80,), (take + 1) / 20)
            write_audio(tmp_path / f"fsdd/recordings/{digit}_anna_{take}.wav", signal, sample_rate=8000)
    arguments = [str(tmp_path / "fsdd"), str(tmp_path / "lists")]
    load_script("tts/prepare_fsdd_digits").main(
        [*arguments, "--long", "4", "--short", "3", "--level", "0.2", "--seed", "5"]
    )
    stamp = json.loads((tmp_path / "lists" / "prepared.json").read_text())
    assert stamp["settings"].items() >= {"seed": 5, "level": 0.2, "short": 3, "counts": [4, 100, 300]}.items()
    with open(tmp_path / "lists" / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [len(row["wrd"].split()) > 2 for row in rows] == [True] * 4 + [False] * 3
    assert read_audio(rows[0]["wav"]).max().item() == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "settings", "rate"),
    [
        ([], {"speakers": [40, 6, 8], "sentences": 40, "digit_strings": 4, "distinct_sentences": 1200}, 8000),
        (
            [
                "--speakers",
                "3",
                "1",
                "2",
                "--sentences",
                "5",
                "--digit_strings",
                "7",
                "--sample_rate",
                "16000",
                "--distinct_sentences",
                "9",
            ],
            {"speakers": [3, 1, 2], "sentences": 5, "digit_strings": 7, "distinct_sentences": 9},
            16000,
        ),
    ],
)
def test_the_embedded_corpus_is_built_as_the_command_line_says(monkeypatch, options, settings, rate):
    script = load_script("tts/prepare_mini")
    calls = noted(script, prepare_mini, monkeypatch, result={})
    script.main(["corpus", "lists", *options])
    folders = {"data_folder": "corpus", "save_folder": "lists"}
    assert calls == [{**folders, "splits": None, "sample_rate": rate, "options": settings}]


@pytest.mark.parametrize(
    "name", ["prepare_fsdd_digits", "prepare_mini", "prepare_tokens", "prepare_libritts", "evaluate"]
)
def test_the_help_shows_a_command_as_it_is_written_and_explains_each_option(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(RECIPES))
    with pytest.raises(SystemExit):
        load_script(f"tts/{name}").main(["--help"])
    sys.modules.pop("prepare_tokens", None)
    (command,) = re.findall(f"^ *python recipes/tts/{name}.*$", (RECIPES / f"{name}.py").read_text(), re.MULTILINE)
    shown, _, options = capsys.readouterr().out.partition("positional arguments:")
    assert command in shown.splitlines()
    entries = re.findall(r"^  \S(?:.|\n {5,})*", options, re.MULTILINE)
    assert len(entries) > 3 and all(re.search(r"\S(?:  +|\n +)\S", entry) for entry in entries)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_runs_when_it_is_called(path, monkeypatch):
    """Which shows by its help, or by the file of hyper-parameters that it does not find."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr(sys, "argv", [path.name, "nowhere.yaml" if path.stem.startswith("train") else "--help"])
    with pytest.raises((SystemExit, FileNotFoundError)):
        runpy.run_path(str(path), run_name="__main__")
    sys.modules.pop("prepare_tokens", None)


encodec = pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec, save_codec  # noqa: E402
from speechbrain_mamba.dataio.codec_tokens import read_tokens  # noqa: E402


@pytest.fixture
def codec(tmp_path):
    """The folder of a small codec of three codebooks and 100 frames a second."""
    torch.manual_seed(0)
    codec = EnCodec(8000, (5, 4, 4), n_codebooks=3, codebook_size=16, dimension=4, n_filters=2, lstm=1)
    save_codec(codec, tmp_path / "codec")
    return str(tmp_path / "codec")


@pytest.fixture
def lists(tmp_path):
    """Manifests of one utterance each, below $data_root."""
    for number, (split, text) in enumerate({"train": "wo to", "valid": "to", "test": "wo"}.items(), start=1):
        write_audio(tmp_path / "data" / f"{split}.wav", 0.1 * torch.randn(1600 * number), 8000)
        row = {"ID": split, "duration": 0.2 * number, "wav": f"$data_root/{split}.wav", "wrd": text, "spk_id": "x"}
        write_manifest(tmp_path / "lists" / f"{split}.csv", [row])
    return str(tmp_path / "lists")


def prepared(folder) -> dict:
    """The settings in the stamp of some tokens."""
    return json.loads((folder / "prepared.json").read_text())["settings"]


@needs_espeak
def test_tokens_are_made_as_the_command_line_says(codec, lists, tmp_path, monkeypatch, capsys):
    devices, move = [], EnCodec.to
    monkeypatch.setattr(EnCodec, "to", lambda codec, device: (devices.append(device), move(codec, device))[1])
    script, root = load_script("tts/prepare_tokens"), ["--data_root", str(tmp_path / "data")]
    out = {name: tmp_path / name for name in ("plain", "german", "letters")}
    options = {
        "plain": [],
        "german": ["--language", "de", "--n_codebooks", "2", "--device", "cpu:0"],
        "letters": ["--kind", "characters"],
    }
    for name, folder in out.items():
        script.main([lists, str(folder), "--codec", codec, *root, *options[name]])
    assert "train: 1 utterances, valid: 1 utterances, test: 1 utterances" in capsys.readouterr().out
    assert devices == ["cpu", "cpu:0", "cpu"]
    chosen = ("codec", "n_codebooks", "kind", "language")
    assert {name: tuple(prepared(folder)[key] for key in chosen) for name, folder in out.items()} == {
        "plain": (codec, 3, "ipa", "en-us"), "german": (codec, 2, "ipa", "de"),
        "letters": (codec, 3, "characters", "en-us"),
    }  # fmt: skip
    texts = {name: json.loads((folder / "text.json").read_text()) for name, folder in out.items()}
    assert texts["plain"]["symbols"] != texts["german"]["symbols"]
    assert (texts["german"]["language"], texts["letters"]["symbols"]) == ("de", [" ", "o", "t", "w"])
    _, codes, facts = read_tokens(out["german"], "valid")
    assert codes.shape == (40, 2) and facts.n_codebooks == 2


def test_the_published_codec_makes_the_tokens_by_default(lists, tmp_path, codec, monkeypatch):
    script = load_script("tts/prepare_tokens")
    loaded, load = [], script.load_codec
    monkeypatch.setattr(script, "load_codec", lambda *arguments: (loaded.append(arguments), load(codec))[1])
    script.main([lists, str(tmp_path / "out"), "--data_root", str(tmp_path / "data"), "--kind", "characters"])
    assert loaded == [("encodec_24khz", None)]
    assert prepared(tmp_path / "out")["codec"] == "encodec_24khz"


@pytest.fixture
def libritts(monkeypatch):
    """The script that prepares LibriTTS."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.delitem(sys.modules, "prepare_tokens", raising=False)
    yield load_script("tts/prepare_libritts")
    sys.modules.pop("prepare_tokens", None)


def test_libritts_is_tokenized_at_the_rate_of_the_codec_from_the_parts_named(libritts, codec, tmp_path, capsys):
    for part, count in {"one": 3, "two": 2, "dev-clean": 1, "other": 4}.items():
        for number in range(count):
            path = tmp_path / "data" / part / "7" / "1" / f"7_{part}_{number}"
            write_audio(path.with_suffix(".wav"), 0.1 * torch.randn(1600), 8000)
            path.with_suffix(".normalized.txt").write_text("two")
    tokens = tmp_path / "tokens"
    arguments = [str(tmp_path / "data"), str(tokens), "--codec", codec, "--kind", "characters", "--n_codebooks", "2"]
    libritts.main([*arguments, "--train", "one", "two", "--test", "other"])
    counts = {split: len(read_tokens(tokens, split)[0]) for split in ("train", "valid", "test")}
    assert counts == {"train": 5, "valid": 1, "test": 4}
    assert prepared(tokens).items() >= {"codec": codec, "n_codebooks": 2, "kind": "characters"}.items()
    stamp = json.loads((tokens / "manifests" / "train.prepared.json").read_text())
    assert (list(stamp["settings"]["parts"]), stamp["settings"]["sample_rate"]) == (["one", "two"], 8000)
    with pytest.raises(SystemExit):
        libritts.main(arguments)
    assert re.search(r"\nThere is no folder .*train-clean-100.*\n$", capsys.readouterr().err)


@pytest.mark.parametrize("asked", [True, False])
def test_speech_is_judged_by_whom_the_command_line_names(tmp_path, monkeypatch, capsys, asked):
    wav = tmp_path / "a.wav"
    write_audio(wav, 0.1 * torch.randn(4000), 8000)
    row = {"ID": "a", "spk_id": "x", "language": "", "wrd": "one two", "duration": 0.5, "finished": True}
    row |= {"seconds": 1.0, "wav": wav, "reference": "", "prompt": wav, "other_prompt": ""}
    write_csv(tmp_path / TABLE, [row], COLUMNS)
    asked_for = []
    for kind, judge in (("recognizer", lambda *_: "one"), ("speaker_encoder", lambda wav, _: wav[:2])):
        load = lambda *arguments, judge=judge, **_: (asked_for.append(arguments), judge)[1]  # noqa: E731
        monkeypatch.setattr(f"speechbrain_mamba.inference.judges.load_{kind}", load)
    options = ["--recognizer", "hearer", "--speaker_encoder", "voices", "--device", "cuda:3"] if asked else []
    load_script("tts/evaluate").main([str(tmp_path), *options])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert asked_for == ([("hearer", "cuda:3"), ("voices", "cuda:3")] if asked else [])
    assert {name: summary.get(name) for name in ("wer", "similarity", "rtf")} == {
        "wer": 50 if asked else None, "similarity": pytest.approx(1) if asked else None, "rtf": 2
    }  # fmt: skip
    assert ("wer                   50.0 %" in capsys.readouterr().out) is asked


def test_speech_is_not_judged_while_another_command_works_on_the_run(tmp_path, monkeypatch):
    (tmp_path / "hyperparams.yaml").touch()
    (tmp_path / "debug" / "test").mkdir(parents=True)
    judged, script = [], load_script("tts/evaluate")
    monkeypatch.setattr(script, "judge_speech", lambda folder, **_: judged.append((tmp_path / ".lock").exists()) or {})
    for folder in ("test", "debug/test"):
        with FolderLock(tmp_path), pytest.raises(FolderInUseError, match=f"'{tmp_path}' is in use by process"):
            script.main([str(tmp_path / folder)])
        assert judged == []
    script.main([str(tmp_path / "test")])
    assert judged == [True] and not (tmp_path / ".lock").exists()


def test_the_judges_compute_on_the_cpu_by_default(tmp_path, monkeypatch):
    devices = []
    load = lambda source, device, sources: devices.append((source, device, sources))  # noqa: E731
    monkeypatch.setattr("speechbrain_mamba.inference.judges.load_recognizer", load)
    with pytest.raises(FileNotFoundError, match=r"has no synthesis\.csv"):
        load_script("tts/evaluate").main([str(tmp_path), "--recognizer", "hearer", "--sources", "a/b"])
    assert devices == [("hearer", "cpu", ["a/b"])]

"""The codec's recipe, and the preparation of tokens with what it leaves, from end to end."""

import importlib.util
import json

import pytest
import torch

pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import load_codec
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.codec_tokens import read_tokens
from speechbrain_mamba.dataio.recognition import find_manifests, write_transcripts
from tests.conftest import HPARAMS

RECIPES = HPARAMS.parent / "recipes" / "tts"
TINY = {
    "ratios": [4, 4, 4], "n_codebooks": 2, "codebook_size": 16, "dimension": 8, "n_filters": 4, "batch_size": 4,
    "crop_seconds": 0.4, "min_seconds": 0.35, "n_warmup_steps": 2, "test_examples": 1,
}  # fmt: skip


def load(name):
    """A script of the recipe as a module."""
    spec = importlib.util.spec_from_file_location(f"tts_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def manifests(tmp_path):
    """Tones of different pitch and length."""
    for split, count in {"train": 12, "valid": 3, "test": 3}.items():
        rows = []
        for i in range(count):
            t = torch.arange(2400 + 800 * (i % 3)) / 8000
            path = tmp_path / "wavs" / f"{split}{i}.wav"
            write_audio(path, 0.3 * torch.sin(2 * torch.pi * (200 + 50 * i) * t), 8000)
            rows.append({"ID": path.stem, "duration": len(t) / 8000, "wav": path, "wrd": "one two", "spk_id": "tone"})
        write_transcripts(tmp_path / "lists" / f"{split}.csv", rows)
    return tmp_path / "lists"


@pytest.fixture
def train(manifests, monkeypatch, tmp_path):
    """Run the codec's recipe with options; its output folder is returned."""
    # SpeechBrain's handlers would outlive the streams that pytest lends a test
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)

    def call(**options):
        options = {"manifest_folder": manifests, "output_folder": tmp_path / "out", **TINY, **options}
        command = ["train_codec.py", str(HPARAMS / "tts" / "codec_mini.yaml")]
        for key, value in options.items():
            command += [f"--{key}", json.dumps(value) if isinstance(value, list) else str(value)]
        monkeypatch.setattr("sys.argv", command)
        load("train_codec").main()
        return tmp_path / "out"

    return call


def test_a_codec_is_trained_and_makes_tokens(train, manifests, monkeypatch, tmp_path, capsys):
    said = iter(["one two", "ONE", "two"] * 3)
    monkeypatch.setattr("speechbrain_mamba.inference.judges.load_recognizer", lambda *_: lambda wav, rate: next(said))
    out = train(number_of_epochs=3, recognizer="somebody")
    rows = (out / "training.csv").read_text().splitlines()
    column = rows[0].split(",").index("valid_mel")
    distances = [float(row.split(",")[column]) for row in rows[1:]]
    assert distances[-1] < distances[0]
    scores = json.loads((out / "test" / "reconstruction.json").read_text())
    assert scores["mel"] > 0 and 1 <= scores["perplexity"] <= 16
    scores = json.loads((out / "test" / "word_errors.json").read_text())
    assert scores == {"reference_wer": 0, "wer": 50, "first_codebook_wer": 50}
    examples = sorted(path.name for path in (out / "test" / "examples").iterdir())
    assert examples == ["test0.png", "test0_original.wav", "test0_reconstruction.wav"]

    load("prepare_tokens").main([str(manifests), str(tmp_path / "tokens"), "--codec", str(out / "codec"), "--kind",
                                 "characters", "--n_codebooks", "1"])  # fmt: skip
    assert "train: 12 utterances, valid: 3 utterances, test: 3 utterances" in capsys.readouterr().out
    items, codes, facts = read_tokens(tmp_path / "tokens", "test")
    assert (facts.n_codebooks, facts.frame_rate) == (1, 125.0)
    expected, _ = load_codec(out / "codec", 1).encode(read_audio(tmp_path / "wavs" / "test1.wav", 8000)[None])
    first, frames = items["test1"]["first_frame"], items["test1"]["frames"]
    assert (codes[first : first + frames] == expected[0].numpy()).all()


def test_an_adversary_is_trained_too_and_a_run_resumes(train):
    out = train(number_of_epochs=1, adversarial=True, discriminator_lr=0.001)
    before = torch.load(next(out.glob("save/CKPT*/discriminator.ckpt")), weights_only=True)
    train(number_of_epochs=2, adversarial=True, discriminator_lr=0.001)
    rows = (out / "training.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert "train_adversarial" in rows[0] and "train_features" in rows[0]
    best = max(out.glob("save/CKPT*/discriminator.ckpt"), key=lambda path: path.stat().st_mtime)
    after = torch.load(best, weights_only=True)
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_short_utterances_are_left_out_of_the_training(manifests):
    codec = load("train_codec")
    hparams = {"manifest_folder": manifests, "data_root": None, "sample_rate": 8000, "crop_seconds": 9}
    lengths = [len(example["sig"]) for example in codec.make_dataset({**hparams, "min_seconds": 0.35}, "train")]
    assert sorted(lengths) == [3200] * 4 + [4000] * 4
    assert len(codec.make_dataset({**hparams, "min_seconds": 0.35}, "valid")) == 3
    with pytest.raises(ValueError, match=r"None of the 12 utterances in '.*train\.csv' has 9\.5 seconds"):
        codec.make_dataset({**hparams, "min_seconds": 9.5}, "train")


def test_missing_manifests_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no train\.csv and no train\.json"):
        find_manifests(tmp_path)

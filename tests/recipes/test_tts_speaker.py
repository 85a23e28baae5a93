"""The speaker encoder's recipe from end to end."""

import importlib.util
import json

import pytest
import torch
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.recognition import write_transcripts
from tests.conftest import HPARAMS

SCRIPT = HPARAMS.parent / "recipes" / "tts" / "train_speaker.py"
TINY = {
    "batch_size": 6, "crop_seconds": 0.3, "n_warmup_steps": 2, "n_speakers": 4, "emb_dim": 8, "number_of_epochs": 10,
    "lr": 0.003,
}  # fmt: skip


def speech(speaker):
    """Noise with bursts at low or at high frequencies: a voice's colour, which does not go with the mean."""
    noise, burst = 0.05 * torch.randn(2, 4001)
    burst = burst[1:] + {"a": 0.9, "b": -0.9}[speaker] * burst[:-1]
    return 0.1 * noise[1:] + burst * (torch.arange(4000) // 400 % 2)


@pytest.fixture
def manifests(tmp_path):
    """Utterances of two speakers."""
    for split, count in {"train": 24, "valid": 6, "test": 6}.items():
        rows = []
        for i in range(count):
            path = tmp_path / "wavs" / f"{split}{i}.wav"
            write_audio(path, speech("ab"[i % 2]), 8000)
            rows.append({"ID": path.stem, "duration": 0.5, "wav": path, "wrd": "", "spk_id": "ab"[i % 2]})
        write_transcripts(tmp_path / "lists" / f"{split}.csv", rows)
    return tmp_path / "lists"


@pytest.fixture
def train(manifests, monkeypatch, tmp_path):
    """Run the recipe with options; its output folder is returned."""
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)
    spec = importlib.util.spec_from_file_location("tts_train_speaker", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(**options):
        options = {"manifest_folder": manifests, "output_folder": tmp_path / "out", **TINY, **options}
        command = ["train_speaker.py", str(HPARAMS / "tts" / "speaker_mini.yaml")]
        monkeypatch.setattr("sys.argv", command + [f"--{key}={value}" for key, value in options.items()])
        module.main()
        return tmp_path / "out"

    return call


@pytest.mark.slow
def test_voices_are_told_apart_by_what_speechbrain_loads(train, tmp_path):
    out = train()
    assert json.loads((out / "test" / "verification.json").read_text())["EER"] <= 20  # by chance 50
    encoder = EncoderClassifier.from_hparams(str(out / "inference"), savedir=str(tmp_path / "cache"))
    voices = torch.stack([speech(speaker) for speaker in "aab"])
    same, same_too, other = torch.nn.functional.normalize(encoder.encode_batch(voices)[:, 0], dim=-1)
    assert same @ same_too > same @ other


def test_what_does_not_fit_is_named(train, manifests):
    with pytest.raises(ValueError, match="There are 2 training speakers, but n_speakers is 1"):
        train(n_speakers=1)
    table = (manifests / "valid.csv").read_text()
    (manifests / "valid.csv").write_text(table.replace(",a", ","))
    with pytest.raises(ValueError, match="has no spk_id for 'valid0'"):
        train()

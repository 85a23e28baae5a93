"""A recognizer is trained on tar shards, and a run that is killed within an epoch resumes exactly."""

import csv
import json
import runpy

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.manifests import write_manifest
from speechbrain_mamba.training.steps import SteppingBrain
from tests.conftest import HPARAMS
from tests.recipes.asr_spies import RECIPE
from tests.recipes.conftest import buzz

pytest.importorskip("webdataset")

SETTINGS = {
    "d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "n_mels": 20, "number_of_epochs": 2,
    "avg_checkpoints": 1, "num_buckets": 2, "max_batch_length_train": 2, "corpus": "manifest", "num_workers": 0,
    "valid_splits": ["valid.csv"], "test_splits": ["valid.csv"], "token_type": "char", "output_neurons": 6,
    "shard_batches": 4, "shard_buffer": 6, "ckpt_interval_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Twelve utterances in three shards, made by the script, and two to be validated on."""
    folder = tmp_path_factory.mktemp("speech")
    for split, count in (("train", 12), ("valid", 2)):
        rows = []
        for i in range(count):
            signal = buzz(90 + 10 * i, 0.8 + 0.08 * i, seed=i)
            write_audio(folder / split / f"{i}.wav", signal, 16000)
            words = ["NO", "ON", "NOON", "NO NO"][i % 4]
            rows.append({"ID": f"{split}{i}", "duration": len(signal) / 16000, "wav": f"{split}/{i}.wav", "wrd": words})
        write_manifest(folder / f"{split}.csv", rows)
    script = runpy.run_path(str(RECIPE / "prepare_shards.py"))
    script["main"]([str(folder / "train.csv"), str(folder / "shards"), "--sample_rate", "16000", "--per_shard", "4"])
    (folder / "train.csv").unlink()
    for path in (folder / "train").iterdir():
        path.unlink()
    return folder


@pytest.fixture
def train(speech, tmp_path, monkeypatch):
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)
    monkeypatch.setattr("sys.excepthook", lambda *_: None)
    monkeypatch.syspath_prepend(str(RECIPE))

    def train(name, **options):
        shards = f"{speech}/shards/shard-{{000000..000002}}.tar"
        options = {
            **SETTINGS,
            "output_folder": tmp_path / name,
            "data_folder": speech,
            "train_shards": shards,
            **options,
        }
        pairs = [(f"--{key}", value) for key, value in options.items()]
        flags = [json.dumps(part) if isinstance(part, list) else str(part) for pair in pairs for part in pair]
        command = [
            "train.py",
            str(HPARAMS / "asr/mini_conmamba_ctc.yaml"),
            *flags,
            "--noprogressbar",
            "--device",
            "cpu",
        ]
        monkeypatch.setattr("sys.argv", command)
        runpy.run_path(str(RECIPE / "train.py"), run_name="__main__")
        return tmp_path / name

    return train


def test_a_recognizer_learns_from_shards_and_resumes_within_an_epoch(train, monkeypatch):
    whole = train("whole")
    steps, step = [], SteppingBrain.optimizers_step

    def killed(self):
        steps.append(self.optimizer_step)
        if len(steps) == 7:
            raise InterruptedError
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(SteppingBrain, "optimizers_step", killed)
        with pytest.raises(InterruptedError):
            train("broken")
    broken = train("broken")
    tables = []
    for folder in (whole, broken):
        with open(folder / "training.csv", newline="") as file:
            tables.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert tables[0] == tables[1] and [row["epoch"] for row in tables[0]] == ["1", "2"]
    for path in (whole / "inference").glob("*.ckpt"):
        if path.stem != "tokenizer":
            expected, found = (torch.load(f / "inference" / path.name, weights_only=True) for f in (whole, broken))
            assert all(torch.equal(found[key], value) for key, value in expected.items() if torch.is_tensor(value))

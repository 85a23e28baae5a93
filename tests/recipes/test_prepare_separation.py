"""The scripts that prepare data for separation: their options reach the preparations."""

import csv

import pytest
import torch

from speechbrain_mamba.corpora.mixtures import MixtureSettings
from speechbrain_mamba.dataio.audio import write_audio
from tests.recipes.tts_spies import load_script

MIXTURES = "--num_spks 3 --sample_rate 16000 --seconds 1 2.5 --train_mixtures 5 --valid_mixtures 6 --test_mixtures 7"
SETTINGS = {
    "num_spks": 3, "sample_rate": 16000, "seconds": [1.0, 2.5], "train_mixtures": 5, "valid_mixtures": 6,
    "test_mixtures": 7, "dynamic_mixing": True, "seed": 9,
}  # fmt: skip
DEFAULTS = vars(MixtureSettings())


@pytest.mark.parametrize(
    ("script", "function", "options", "settings"),
    [
        ("prepare_folder", "prepare_folder", "", {**DEFAULTS, "fractions": (0.8, 0.1, 0.1)}),
        (
            "prepare_folder",
            "prepare_folder",
            f"{MIXTURES} --dynamic_mixing --seed 9 --fractions .6 .2 .2",
            {**SETTINGS, "fractions": [0.6, 0.2, 0.2]},
        ),
        ("prepare_fsdd", "prepare_fsdd_mixtures", "", DEFAULTS),
        ("prepare_fsdd", "prepare_fsdd_mixtures", f"{MIXTURES} --dynamic_mixing --seed 9", SETTINGS),
        ("prepare_speech_to_intent", "prepare_speech_to_intent", "", DEFAULTS),
        (
            "prepare_speech_to_intent",
            "prepare_speech_to_intent",
            f"{MIXTURES} --dynamic_mixing --seed 9",
            SETTINGS,
        ),
        (
            "prepare_wsj0mix",
            "prepare_wsj0mix",
            "",
            {"num_spks": 2, "sample_rate": 8000, "mode": "min", "base_folder_dm": None},
        ),
        (
            "prepare_wsj0mix",
            "prepare_wsj0mix",
            "--num_spks 3 --sample_rate 16000 --mode max --base_folder_dm speech",
            {"num_spks": 3, "sample_rate": 16000, "mode": "max", "base_folder_dm": "speech"},
        ),
    ],
)
def test_every_option_reaches_the_preparation(monkeypatch, script, function, options, settings):
    module, calls = load_script(f"separation/{script}"), []
    monkeypatch.setattr(module, function, lambda **arguments: calls.append(arguments) or {})
    module.main(["data", "out", *options.split()])
    assert calls == [{"data_folder": "data", "save_folder": "out", **settings}]


@pytest.mark.parametrize("name", ["prepare_folder", "prepare_fsdd", "prepare_speech_to_intent", "prepare_wsj0mix"])
def test_as_scripts_they_say_what_is_wrong_in_one_line(tmp_path, capsys, name):
    with pytest.raises(SystemExit) as exited:
        load_script(f"separation/{name}").main([str(tmp_path / "missing"), str(tmp_path / "out")])
    assert exited.value.code == 1
    error = capsys.readouterr().err
    assert "missing" in error
    assert error.count("\n") == 1


def test_as_a_script_it_prepares(tmp_path):
    for speaker in "abcdef":
        write_audio(tmp_path / "data" / speaker / "0.wav", 0.1 * torch.randn(3200), 8000)
    options = "--num_spks 2 --seconds 0.3 0.5 --train_mixtures 2 --valid_mixtures 3 --test_mixtures 4"
    load_script("separation/prepare_folder").main([str(tmp_path / "data"), str(tmp_path / "out"), *options.split()])
    for split, count in (("train", 2), ("valid", 3), ("test", 4)):
        with open(tmp_path / "out" / f"{split}.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == count

"""Settings that contradict one another are refused in a sentence, in all files; others are not."""

import pytest

from speechbrain_mamba.training.agreement import check_agreement
from speechbrain_mamba.utils.hparams import read_hparams
from tests.conftest import HPARAMS

FILES = [path for path in sorted(HPARAMS.rglob("*.yaml")) if path.parent.name != "base" and path.stem != "common"]
PLACES = dict.fromkeys(("data_folder", "manifest_folder", "token_folder"), "x")


def check(path, **options):
    own = {key: value for key, value in PLACES.items() if f"\n{key}:" in read_hparams(path)}
    check_agreement(read_hparams(path, own | options))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_settings_of_each_file_agree(path):
    check(path)


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("separation/mambatasnet_M", {"kernel_stride": 4}, "kernel_stride is 4 and kernel_size 16"),
        ("codec/mini_codec", {"batch_size": 0}, "batch_size is 0, but must be a whole number of at least 1."),
        ("asr/mini_conmamba_ctc", {"number_of_epochs": 1.5}, "number_of_epochs is 1.5, but must be a whole number"),
        ("speaker/mini_speaker", {"grad_accumulation_factor": 0}, "grad_accumulation_factor is 0, but must be a whole"),
        ("separation/mini_mambatasnet", {"kernel_size": 1}, "kernel_stride is 0 and kernel_size 1"),
        ("separation/sepformer", {"out_channels": 250}, "out_channels is 250, but must be a multiple of nhead, 8"),
        (
            "asr/mini_conmamba_ctc",
            {"win_length": 32},
            "n_fft is 400, but a window of 32 ms at 16000 Hz has 512 samples",
        ),
        ("asr/conformer_large", {"sample_rate": 48000}, "n_fft is 512, but a window of 32 ms at 48000 Hz has 1536"),
        (
            "asr/conmamba_small",
            {"n_mels": 42},
            "n_mels is 42, but the front end, of 32 channels, needs a multiple",
        ),
        ("asr/conformer_ctc", {"nhead": 3}, "d_model is 256, but must be a multiple of nhead, 3"),
        ("asr/conmamba_small", {"nhead": 5}, "d_model is 144, but must be a multiple of nhead, 5"),
    ],
)
def test_settings_that_do_not_agree_are_named(file, options, words):
    with pytest.raises(ValueError, match=words):
        check(HPARAMS / f"{file}.yaml", **options)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("separation/mambatasnet_M", {"kernel_size": 31}),
        ("separation/mambatasnet_M", {"out_channels": 250}),
        ("asr/conmamba_ctc", {"nhead": 3}),  # nothing attends
        ("asr/conmambamamba_small", {"nhead": 5}),
        ("asr/mini_conmamba_ctc", {"win_length": 32, "n_fft": 512}),
    ],
)
def test_settings_that_agree_pass(file, options):
    check(HPARAMS / f"{file}.yaml", **options)


def test_a_recipe_stops_before_it_makes_anything(toy, tmp_path):
    (tmp_path / "toy.yaml").write_text((tmp_path / "toy.yaml").read_text() + "kernel_size: 16\nkernel_stride: 4\n")
    with pytest.raises(ValueError, match="set kernel_size alone"):
        toy()
    assert not (tmp_path / "out").exists()

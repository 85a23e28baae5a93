"""The separation recipe from data to results."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import soundfile
import torch

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.inference.separation import SpeechSeparator
from tests.conftest import HPARAMS
from tests.recipes.conftest import RATE, ROOT, buzz

TINY = {
    "corpus": "folder",
    "N_encoder_out": 16,
    "out_channels": 8,
    "mixtures_per_epoch": 6,
    "train_mixtures": 6,
    "valid_mixtures": 3,
    "test_mixtures": 3,
    "mixture_seconds": "[0.2, 0.3]",
    "batch_size": 2,
    "num_workers": 0,
    "N_epochs": 2,
    "n_warmup_steps": 2,
    "lr": 0.01,
    "n_audio_to_save": 1,
    "precision": "fp32",
}

MODELS = {
    "mambatasnet_XS": {"n_mamba": 1, "ssm_dim": 2},
    "dpmamba_XS": {"n_dp": 1, "chunk_size": 20, "ssm_dim": 2},
    "sepformer": {"n_dp": 1, "chunk_size": 20, "n_transformer": 1, "nhead": 2, "d_ffn": 16, "out_channels": 16},
}


def arguments(output, data, options, name="mambatasnet_XS"):
    settings = {**TINY, **MODELS[name], "output_folder": output, "data_folder": data, **options}
    flags = [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
    return [str(HPARAMS / "separation" / f"{name}.yaml"), *flags, "--noprogressbar", "--device", "cpu"]


@pytest.fixture
def run(separation, corpus, tmp_path, monkeypatch):
    """Run the recipe in this process; returns its output folder."""

    def run(output="out", data=corpus, name="mambatasnet_XS", **options):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments(tmp_path / output, data, options, name)])
        separation.main()
        return tmp_path / output

    return run


def weights(folder):
    return {
        (path.stem, key): value
        for path in sorted((folder / "inference").glob("*.ckpt"))
        for key, value in torch.load(path, weights_only=True).items()
    }


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results(run, capsys):
    folder = run()
    epochs = table(folder / "training.csv")
    assert [row["epoch"] for row in epochs] == ["1", "2"]
    assert (folder / "training.png").stat().st_size > 1000

    rows = table(folder / "test" / "results.csv")
    summary = json.loads((folder / "test" / "summary.json").read_text())
    assert summary["mixtures"] == len(rows) == 3
    for score in ("si_snr", "si_snr_i", "sdr", "sdr_i"):
        assert summary[score] == pytest.approx(sum(float(row[score]) for row in rows) / 3)

    example = folder / "test" / "examples" / rows[0]["id"]
    signals = {key: read_audio(f"{example}_{key}.wav", RATE) for key in ("mix", "source1", "source2", "estimate1")}
    assert 0.85 < max(signal.abs().max() for signal in signals.values()) < 0.95
    assert torch.allclose(signals["mix"], signals["source1"] + signals["source2"], atol=2e-4)
    assert len(list(example.parent.glob("*.png"))) == 1
    assert str(example) in capsys.readouterr().out

    separator = SpeechSeparator.from_hparams(source=str(folder / "inference"), savedir=str(folder / "cache"))
    assert separator.separate_batch(signals["mix"][None]).shape == (1, len(signals["mix"]), 2)


def test_finished_run_says_so(run, capsys):
    folder = run()
    before = (folder / "test" / "results.csv").stat().st_mtime_ns
    capsys.readouterr()
    run()
    assert "SI-SNRi" in capsys.readouterr().out
    assert (folder / "test" / "results.csv").stat().st_mtime_ns == before


@pytest.mark.slow
def test_it_learns(run):
    folder = run(N_epochs=10, mixtures_per_epoch=24, lr=0.01, n_mamba=2, out_channels=16)
    losses = [float(row["train_si_snr"]) for row in table(folder / "training.csv")]
    assert losses[-1] > losses[0] + 5


@pytest.mark.parametrize("name", ["dpmamba_XS", "sepformer"])
def test_other_models(run, name):
    folder = run(name=name, N_epochs=1)
    assert (folder / "test" / "summary.json").exists()


def test_three_speakers_on_disk_with_all_augmentation(run):
    folder = run(
        num_spks=3,
        dynamic_mixing=False,
        limit_training_signal_len=True,
        training_signal_len=1200,
        batch_size=3,
        N_epochs=1,
    )
    names = {path.stem.split("_", 4)[-1] for path in (folder / "test" / "examples").glob("*.wav")}
    assert {name.split("_")[-1] for name in names} == {
        "mix", "source1", "source2", "source3", "estimate1", "estimate2", "estimate3"
    }  # fmt: skip
    example = next((folder / "test" / "examples").glob("*_source1.wav"))
    sources = [read_audio(str(example).replace("source1", f"source{i}"), RATE) for i in (1, 2, 3)]
    assert not torch.allclose(sources[1], sources[2])


def test_bf16_accumulation_and_tensorboard(run):
    pytest.importorskip("tensorboard")
    folder = run(precision="bf16", grad_accumulation_factor=2, tensorboard=True, N_epochs=1)
    assert all(torch.isfinite(value).all() for value in weights(folder).values())
    assert list((folder / "tensorboard").iterdir())


def test_accumulated_batches_equal_one_large_batch(run):
    options = {"N_epochs": 1, "mixtures_per_epoch": 4, "use_speedperturb": False, "mixture_seconds": "[0.2, 0.2]"}
    large = run("large", batch_size=4, **options)
    small = run("small", batch_size=2, grad_accumulation_factor=2, **options)
    for key, value in weights(large).items():
        assert torch.allclose(weights(small)[key], value, atol=1e-5), key


def test_batches_without_a_finite_loss_are_skipped_and_counted(run, separation, monkeypatch):
    augment = separation.Separation.augment

    def spoil(self, mix, sources, mix_lens):
        mix, sources, mix_lens = augment(self, mix, sources, mix_lens)
        return (mix * float("nan") if self.step == 2 else mix), sources, mix_lens

    monkeypatch.setattr(separation.Separation, "augment", spoil)
    folder = run()
    assert [row["skipped"] for row in table(folder / "training.csv")] == ["1.0", "1"]
    assert all(torch.isfinite(value).all() for value in weights(folder).values())


def test_epoch_without_any_finite_loss_is_an_error(run, separation, monkeypatch):
    augment = separation.Separation.augment

    def spoil(self, *batch):
        mix, sources, mix_lens = augment(self, *batch)
        return mix * float("nan"), sources, mix_lens

    monkeypatch.setattr(separation.Separation, "augment", spoil)
    with pytest.raises(RuntimeError, match="No batch of epoch 1 had a finite loss"):
        run()


def test_mixtures_separated_well_enough_are_left_out(run):
    """With a threshold that every mixture is better than, nothing is learnt: the weights stay the same."""
    once = run("once", threshold=1000, N_epochs=1)
    twice = run("twice", threshold=1000, N_epochs=2)
    for key, value in weights(once).items():
        assert torch.equal(weights(twice)[key], value)


def command(output, data, **options):
    return [sys.executable, str(ROOT / "recipes" / "separation" / "train.py"), *arguments(output, data, options)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def succeed(arguments):
    """Run a command to its end, and return what it said."""
    result = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(corpus, tmp_path):
    options = {"mixtures_per_epoch": 24, "ckpt_interval_steps": 1, "batch_size": 1}
    succeed(command(tmp_path / "whole", corpus, **options))

    broken = command(tmp_path / "broken", corpus, **options)
    process = subprocess.Popen(broken, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any((tmp_path / "broken" / "save").glob("CKPT*/CKPT.yaml")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "broken" / "training.csv").exists()  # killed in the first epoch

    assert "Loading a checkpoint" in succeed(broken)
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(value, expected[key]) for key, value in weights(tmp_path / "broken").items())
    rates = [[row["lr"] for row in table(tmp_path / run / "training.csv")] for run in ("whole", "broken")]
    assert rates[0] == rates[1]


@pytest.mark.slow
def test_two_processes(corpus, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    recipe = command(tmp_path / "out", corpus, N_epochs=1, batch_size=1, grad_accumulation_factor=2)
    succeed([*torchrun, *recipe[1:], "--distributed_backend", "gloo"])
    assert len(table(tmp_path / "out" / "test" / "results.csv")) == 3
    assert (tmp_path / "out" / "inference" / "masknet.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": "/nowhere"}, FileNotFoundError, "'/nowhere' does not exist"),
        ({"precision": "fp16"}, ValueError, "not yet supported on CPU"),
        ({"corpus": "ljspeech"}, ValueError, "corpus is 'ljspeech', but must be one of"),
        ({"num_spks": 4}, ValueError, "num_spks is 4, but the speech has 3 speaker(s)"),
        ({"sample_rate": 16000}, ValueError, "has a sample rate of 8000 Hz, but 16000 Hz are wanted"),
        ({"n_mambas": 4}, ValueError, "no hyper-parameter 'n_mambas' to override. Did you mean 'n_mamba'?"),
        ({"kernel_size": 4096}, ValueError, "samples, but the encoder's kernel needs at least 4096"),
        ({"corpus": "wsj0mix"}, (ValueError, FileNotFoundError), "base_folder_dm"),
    ],
)
def test_bad_settings(run, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        run(**options)


def test_unknown_precision(run, capsys):
    with pytest.raises(SystemExit):
        run(precision="fp8")
    assert "invalid choice: 'fp8' (choose from" in capsys.readouterr().err


def write_set(folder, fault):
    """A prepared data set with one mixture, and a fault in it."""
    mix, s1, s2 = (buzz(f0, 0.25, seed=f0) for f0 in (100, 120, 150))
    signals = {"mix": mix, "s1": s1, "s2": s2}
    rate, channels = RATE, 1
    if fault == "rate":
        rate = 16000
    elif fault == "stereo":
        channels = 2
    elif fault == "nan":
        signals["s1"][100] = float("nan")
    elif fault == "unequal":
        signals["s2"] = s2[:-7]
    for key, value in signals.items():
        data = value.numpy()
        soundfile.write(folder / f"{key}.wav", data if channels == 1 else data[:, None].repeat(2, 1), rate, "FLOAT")
    if fault == "unreadable":
        (folder / "s1.wav").write_bytes(b"RIFFnothing")
    elif fault == "empty":
        soundfile.write(folder / "s1.wav", s1.numpy()[:0], rate)
    (folder / "out" / "save").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / "out" / "save" / f"{split}.csv").write_text(
            "ID,duration,mix_wav,s1_wav,s2_wav\na,0.25,$data_root/mix.wav,$data_root/s1.wav,$data_root/s2.wav\n"
        )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rate", "has a sample rate of 16000 Hz, but 8000 Hz are wanted"),
        ("stereo", "has 2 channels, but must be mono"),
        ("nan", "holds NaN or infinite samples"),
        ("unequal", "source s2 has 1993 samples, but the mixture has 2000"),
        ("unreadable", "cannot be read"),
        ("empty", "is empty"),
    ],
)
def test_bad_files(run, tmp_path, fault, message):
    write_set(tmp_path, fault)
    with pytest.raises(ValueError, match=message):
        run(data=tmp_path, skip_prep=True, dynamic_mixing=False)


def test_number_of_speakers_that_the_data_do_not_have(run, tmp_path):
    write_set(tmp_path, fault=None)
    with pytest.raises(ValueError, match=r"num_spks is 3, but the manifest .* has mixtures of 2 speakers"):
        run(data=tmp_path, skip_prep=True, dynamic_mixing=False, num_spks=3)

"""The separation recipe from data to results."""

import csv
import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
import torchaudio.functional
from matplotlib.figure import Figure
from speechbrain import Stage
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger
from torch.utils.data import DataLoader
from torchmetrics.functional.audio import permutation_invariant_training, scale_invariant_signal_noise_ratio

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.mixing import dynamic_mixtures
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.lobes.models.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation import separate
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.schedulers import LinearWarmupCosineScheduler
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from tests.conftest import HPARAMS
from tests.processes import process_group
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
    assert f"tested already: remove {folder} to start anew" in (folder / "log.txt").read_text()
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


SPEAKERS = 3


@pytest.fixture
def build(separation, tmp_path):
    """Make the recipe's Brain with some modules and options; steps of its SGD have a rate of 0.5."""

    def build(modules, brain=separation.Separation, run_opts=None, **options):
        options = {
            "seed": 5, "num_spks": SPEAKERS, "sample_rate": RATE, "output_folder": tmp_path, "n_audio_to_save": 0,
            "use_speedperturb": False, "speed_perturb": None, "limit_training_signal_len": False,
            "training_signal_len": 100, "loss": get_si_snr_with_pitwrapper, "threshold_byloss": True,
            "threshold": -40, "loss_upper_lim": 99, "grad_accumulation_factor": 1, "max_grad_norm": -1,
            "lr_scheduler": LinearWarmupCosineScheduler(0.5, 1, 1, lr_final_ratio=1.0),
            "epoch_counter": EpochCounter(2), "train_logger": FileTrainLogger(tmp_path / "train_log.txt"), **options,
        }  # fmt: skip
        checkpointer = AtomicCheckpointer(tmp_path / "save", {**modules, "counter": options["epoch_counter"]})
        run_opts = {"device": "cpu", "noprogressbar": True, **(run_opts or {})}
        made = brain(modules, functools.partial(torch.optim.SGD, lr=9.0), options, run_opts, checkpointer)
        made.train_data, made.loggers = None, [options["train_logger"]]
        made.init_optimizers()
        made.on_stage_start(Stage.TRAIN, 1)
        return made

    return build


@pytest.fixture
def brain(build):
    """Make the recipe's Brain with a small model."""

    def brain(**options):
        masknet = MaskNet(N=8, B=8, C=SPEAKERS, mamba_net=MambaBlocksSequential(1, True, 8, d_state=2))
        modules = {"encoder": Encoder(16, 8), "masknet": masknet, "decoder": Decoder(8, 1, 16, stride=8, bias=False)}
        return build(modules, **options)

    return brain


def mixtures(*lengths):
    """A batch of mixtures."""
    examples = []
    for i, length in enumerate(lengths):
        sources = torch.randn(SPEAKERS, length)
        signals = {f"s{j + 1}_sig": source for j, source in enumerate(sources)}
        examples.append({"id": f"mixture{i}", "mix_sig": sources.sum(0), **signals})
    return PaddedBatch(examples)


def sources_of(batch):
    return torch.stack([batch[f"s{i + 1}_sig"].data for i in range(SPEAKERS)], -1)


def shortened(signal):
    """The first half, marked by its sign."""
    return -signal[:, : signal.shape[1] // 2]


class TestWhatTheModelIsGiven:
    LENGTHS = (300, 240, 120)

    @pytest.mark.parametrize("stage", [Stage.VALID, Stage.TEST])
    def test_evaluation_has_the_mixtures_as_they_are(self, brain, stage):
        made = brain(use_speedperturb=True, speed_perturb=shortened, limit_training_signal_len=True)
        batch = mixtures(*self.LENGTHS)
        _, sources, mix, lengths = made.compute_forward(batch, stage)
        assert torch.equal(mix, batch.mix_sig.data)
        assert torch.equal(sources, sources_of(batch))
        assert lengths.tolist() == list(self.LENGTHS)

    def test_training_has_them_augmented(self, brain):
        made = brain(use_speedperturb=True, speed_perturb=shortened, limit_training_signal_len=True)
        batch = mixtures(*self.LENGTHS)
        _, sources, mix, lengths = made.compute_forward(batch, Stage.TRAIN)
        assert lengths.tolist() == [100, 100, 60]
        for i, length in enumerate((100, 100, 60)):  # the third is as short as that: all are cut at its beginning
            assert torch.equal(sources[i, :length], -sources_of(batch)[i, :length])
            assert not sources[i, length:].any()
        assert torch.allclose(mix, sources.sum(-1))

    @pytest.mark.parametrize("stage", Stage)
    @pytest.mark.parametrize("lengths", [(300,), (300, 240), LENGTHS])
    def test_each_mixture_has_the_estimate_that_it_has_alone(self, brain, stage, lengths):
        made, batch = brain(), mixtures(*lengths)
        batch.mix_sig.data[1:, 240:] = 7  # what stands in the padding is not for the model
        estimate, _, mix, _ = made.compute_forward(batch, stage)
        assert estimate.shape == (len(lengths), 300, SPEAKERS)
        for i, length in enumerate(lengths):
            alone = separate(*(made.modules[key] for key in ("encoder", "masknet", "decoder")), mix[i : i + 1, :length])
            assert torch.allclose(estimate[i, :length], alone[0], atol=1e-5)

    def test_without_options_training_mixes_the_sources_as_they_are(self, brain):
        batch = mixtures(*self.LENGTHS)
        _, sources, mix, lengths = brain().compute_forward(batch, Stage.TRAIN)
        assert torch.equal(sources, sources_of(batch))
        assert torch.allclose(mix, batch.mix_sig.data, atol=1e-6)
        assert lengths.tolist() == list(self.LENGTHS)

    def test_each_source_has_a_speed_of_its_own(self, brain):
        """The mixture is as long as the shortest source, and is mixed anew."""
        batch = mixtures(400, 200)
        sources = sources_of(batch)
        speeds = iter([80, 100, 125])
        perturb = lambda source: torchaudio.functional.resample(source, next(speeds), 100)  # noqa: E731
        made = brain(use_speedperturb=True, speed_perturb=perturb)
        mix, perturbed, lens = made.augment(batch.mix_sig.data, sources, batch.mix_sig.lengths)
        assert perturbed.shape == (2, 320, SPEAKERS)
        assert lens.tolist() == [1, 0.5]
        for i, speed in enumerate((80, 100, 125)):
            expected = torchaudio.functional.resample(sources[..., i], speed, 100)[:, :320]
            assert torch.equal(perturbed[0, :, i], expected[0])
            assert torch.equal(perturbed[1, :160, i], expected[1, :160])
        assert not perturbed[1, 160:].any()
        assert torch.allclose(mix, perturbed.sum(-1))

    def test_speeds_are_drawn_for_each_source(self, brain):
        made = brain(use_speedperturb=True, speed_perturb=SpeedPerturb(RATE, [80, 125]))
        sources = torch.randn(1, 400, 1).expand(-1, -1, SPEAKERS)
        slow, fast = (torchaudio.functional.resample(sources[0, :, 0], speed, 100) for speed in (80, 125))
        kinds = set()
        for _ in range(20):
            _, (perturbed,), _ = made.augment(sources.sum(-1), sources, torch.ones(1))
            time = len(perturbed)
            kind = "".join("sf"[torch.allclose(source, fast[:time], atol=1e-5)] for source in perturbed.T)
            for name, source in zip(kind, perturbed.T):
                assert torch.allclose(source, {"s": slow, "f": fast}[name][:time], atol=1e-5)
            assert time == (500 if kind == "sss" else 320)
            kinds.add(kind)
        assert len(kinds) > 4

    def test_a_cut_is_at_a_place_where_each_example_has_signal(self, brain):
        made = brain(limit_training_signal_len=True, training_signal_len=100)
        batch = mixtures(300, 200, 103)
        starts = set()
        for _ in range(60):
            mix, sources, lens = made.augment(batch.mix_sig.data, sources_of(batch), batch.mix_sig.lengths)
            assert mix.shape == (3, 100)
            start = next(i for i in range(300) if batch["s1_sig"].data[0, i] == sources[0, 0, 0])
            lengths = [min(100, length - start) for length in (300, 200, 103)]
            assert (lens * 100).round().tolist() == lengths
            for i, length in enumerate(lengths):
                assert torch.equal(sources[i, :length], sources_of(batch)[i, start : start + length])
            assert torch.allclose(mix, sources.sum(-1))
            starts.add(start)
        assert starts == {0, 1, 2, 3}

    def test_an_example_shorter_than_the_limit_is_cut_at_its_beginning(self, brain):
        made = brain(limit_training_signal_len=True, training_signal_len=100)
        batch = mixtures(300, 60)
        for _ in range(5):
            _, sources, lens = made.augment(batch.mix_sig.data, sources_of(batch), batch.mix_sig.lengths)
            assert torch.equal(sources[1, :60], sources_of(batch)[1, :60])
            assert lens.tolist() == pytest.approx([1, 0.6])
        batch = mixtures(90, 45)
        _, sources, lens = made.augment(batch.mix_sig.data, sources_of(batch), batch.mix_sig.lengths)
        assert sources.shape[1] == 90
        assert lens.tolist() == [1, 0.5]


def si_snr(estimate, sources):
    """SI-SNR of the best order of the estimates, both (samples, speakers)."""
    best, _ = permutation_invariant_training(
        estimate.float().T[None], sources.T[None], scale_invariant_signal_noise_ratio, eval_func="max"
    )
    return float(best)


def predictions(*lengths):
    """Estimates in another order than the sources, in the precision of mixed training, with rubbish in the padding."""
    sources = torch.randn(len(lengths), max(lengths), SPEAKERS)
    estimate = (sources + torch.tensor([0.1, 0.3, 1.0]) * torch.randn_like(sources)).roll(1, -1).bfloat16()
    return estimate, sources, sources.sum(-1), torch.tensor(lengths)


def test_the_loss_of_an_example_is_over_its_own_samples(brain):
    estimate, sources, mix, lengths = predictions(300, 250, 100)
    losses = brain().compute_objectives((estimate, sources, mix, lengths), None, Stage.TRAIN)
    expected = [-si_snr(estimate[i, :length], sources[i, :length]) for i, length in enumerate(lengths)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-3)
    assert losses.dtype == torch.float32


def batch_of(losses, slopes=(0, 0), **fields):
    """A batch for the Brain by script: the loss of each example, and its gradient by each weight."""
    losses, slopes = torch.tensor(losses), torch.tensor(slopes, dtype=torch.float)
    return SimpleNamespace(losses=losses, slopes=slopes.expand(len(losses), 2), **fields)


@pytest.fixture
def scripted(build, separation, monkeypatch):
    """Make a Brain with two weights, whose losses and gradients are those that its batches state."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: path.touch())  # to draw is slow

    class Scripted(separation.Separation):
        def compute_forward(self, batch, stage):
            sync = [module.require_backward_grad_sync for module in self.modules.values()]
            autocast = torch.is_autocast_enabled("cpu")
            self.heard.append({"drawn": float(torch.rand(())), "sync": sync, "autocast": autocast, "stage": stage})
            return getattr(batch, "predictions", "predictions")

        def compute_objectives(self, predictions, batch, stage):
            self.heard[-1] |= {"autocast_loss": torch.is_autocast_enabled("cpu"), "loss_stage": stage}
            weights = torch.cat([module.weight[0] for module in self.modules.values()])
            return batch.losses + batch.slopes @ (weights - weights.detach())

        def on_fit_batch_start(self, batch, should_step):
            self.events.append(("start", batch, should_step))

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            self.events.append(("end", batch, outputs, float(loss.detach()), should_step))

    def scripted(**options):
        modules = {name: torch.nn.Linear(1, 1, bias=False) for name in ("encoder", "masknet")}
        for module in modules.values():
            torch.nn.init.zeros_(module.weight)
            module.require_backward_grad_sync = True  # as DistributedDataParallel has it
        Scripted.heard, Scripted.events = [], []
        return build(modules, Scripted, **options)

    return scripted


def position(brain):
    return [float(module.weight.detach()) for module in brain.modules.values()]


class TestSteps:
    def test_a_step_takes_the_mean_gradient_of_its_batches(self, scripted):
        brain = scripted(grad_accumulation_factor=3)
        batches = [batch_of([1.0], [[3, 0]]), batch_of([1.0, 1.0], [[0, 6], [0, 12]]), batch_of([1.0], [[3, 3]])]
        for _ in range(2):
            before = position(brain)
            for batch in batches:
                assert position(brain) == before
                brain.fit_batch(batch)
            assert position(brain) == pytest.approx([before[0] - 0.5 * 2, before[1] - 0.5 * 4])
        assert brain.optimizer_step == 2
        assert [event[2] for event in brain.events if event[0] == "start"] == [False, False, True] * 2
        assert [event[1] for event in brain.events if event[0] == "start"] == batches * 2
        ends = [event[1:] for event in brain.events if event[0] == "end"]
        assert ends == [(batch, "predictions", 1.0, batch is batches[2]) for batch in batches * 2]
        assert {item["stage"] for item in brain.heard} == {item["loss_stage"] for item in brain.heard} == {Stage.TRAIN}

    def test_processes_share_their_gradients_at_a_step_alone(self, scripted):
        brain = scripted(grad_accumulation_factor=2)
        for _ in range(4):
            brain.fit_batch(batch_of([1.0]))
        assert [item["sync"] for item in brain.heard] == [[False] * 2, [True] * 2] * 2

    @pytest.mark.parametrize(("limit", "norm"), [(4, 4), (0.5, 0.5), (20, 10), (0, 0), (-1, 10)])
    def test_the_gradient_of_all_modules_is_clipped_together(self, scripted, limit, norm):
        brain = scripted(max_grad_norm=limit)
        brain.fit_batch(batch_of([1.0], [[6, 8]]))
        assert position(brain) == pytest.approx([-0.5 * 0.6 * norm, -0.5 * 0.8 * norm], abs=1e-5)

    def test_each_step_has_the_rate_of_the_schedule(self, scripted):
        brain = scripted(grad_accumulation_factor=2, lr_scheduler=LinearWarmupCosineScheduler(0.5, 2, 6, 0.2))
        moves, before = [], 0.0
        for _ in range(14):
            brain.fit_batch(batch_of([1.0], [[1, 0]]))
            moves.append(before - position(brain)[0])
            before = position(brain)[0]
        cosine = [0.1 + 0.4 * (1 + math.cos(math.pi * step / 4)) / 2 for step in (1, 2, 3, 4)]
        assert moves[::2] == [0] * 7
        assert moves[1::2] == pytest.approx([0.25, 0.5, *cosine, 0.1], abs=1e-6)

    def test_what_is_random_depends_on_the_step_alone(self, scripted):
        brain = scripted()

        def drawn(seed=5, epoch=1, step=1, rank=0):
            torch.manual_seed(len(brain.heard))
            brain.hparams.seed, brain.step, brain.rank = seed, step, rank
            brain.on_stage_start(Stage.TRAIN, epoch)
            brain.fit_batch(batch_of([1.0]))
            return brain.heard[-1]["drawn"]

        assert drawn() == drawn()
        assert len({drawn(), drawn(seed=6), drawn(epoch=2), drawn(step=2), drawn(rank=1)}) == 5
        del brain.rank  # as in a single process
        brain.fit_batch(batch_of([1.0]))
        assert brain.heard[-1]["drawn"] not in (drawn(rank=1), drawn(step=2))

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_precision_of_training_and_evaluation(self, scripted, precision):
        brain = scripted(run_opts={"precision": precision})
        brain.fit_batch(batch_of([1.0]))
        assert brain.heard[-1]["autocast"] == brain.heard[-1]["autocast_loss"] == (precision == "bf16")
        brain.evaluate_batch(batch_of([1.0], predictions=predictions(200)), Stage.VALID)
        assert not brain.heard[-1]["autocast"]
        brain = scripted(run_opts={"eval_precision": precision})
        brain.evaluate_batch(batch_of([1.0], predictions=predictions(200)), Stage.VALID)
        assert brain.heard[-1]["autocast"] == (precision == "bf16")
        assert not brain.heard[-1]["autocast_loss"]


class TestUsableBatches:
    @pytest.mark.parametrize(
        ("options", "loss"),
        [
            ({"threshold": -10}, 1),  # one that is as good as the threshold is left out too
            ({"threshold": -11}, -7 / 3),
            ({"threshold": -20}, -5),
            ({"threshold": -10, "threshold_byloss": False}, -5),
            ({"threshold": 5}, 6),
        ],
    )
    def test_examples_better_than_the_threshold_are_left_out(self, scripted, options, loss):
        brain = scripted(**options)
        losses = [-10.0, -12.0, -4.0, 6.0]
        if options["threshold"] == -11:
            losses[0] = -9.0
        assert float(brain.fit_batch(batch_of(losses, [[loss, 0] for loss in losses]))) == pytest.approx(loss)
        assert position(brain)[0] == pytest.approx(-0.5 * loss)
        assert brain.n_skipped == 0

    def test_a_batch_better_than_the_threshold_is_not_counted_at_all(self, scripted):
        brain = scripted(threshold=-10)
        loss = brain.fit_batch(batch_of([-10.0, -30.0], [[1, 1]]))
        assert torch.isnan(loss)
        assert (position(brain), brain.optimizer_step, brain.n_skipped) == ([0, 0], 0, 0)
        assert brain.fit_batch(batch_of([-9.0], [[1, 1]])).requires_grad is False
        assert (position(brain), brain.optimizer_step) == ([-0.5, -0.5], 1)

    @pytest.mark.parametrize("threshold_byloss", [True, False])
    @pytest.mark.parametrize(
        "losses", [[math.nan, math.nan], [math.inf], [7.0], [9.0, 5.0], [-99.0, math.nan]], ids=str
    )
    def test_a_batch_without_a_usable_loss_is_skipped_and_counted(self, scripted, losses, threshold_byloss):
        brain = scripted(loss_upper_lim=7, threshold_byloss=threshold_byloss)
        for count in (1, 2):
            assert torch.isnan(brain.fit_batch(batch_of(losses, [[1, 1]])))
            assert (position(brain), brain.optimizer_step, brain.n_skipped) == ([0, 0], 0, count)
        brain.fit_batch(batch_of([6.9], [[1, 1]]))
        assert (position(brain), brain.optimizer_step, brain.n_skipped) == ([-0.5, -0.5], 1, 2)
        assert len([event for event in brain.events if event[0] == "end"]) == 1

    def test_a_higher_limit_admits_the_batch(self, scripted):
        brain = scripted(loss_upper_lim=7.5)
        assert float(brain.fit_batch(batch_of([9.0, 5.0], [[1, 1]]))) == 7
        assert position(brain) == [-0.5, -0.5]

    def test_a_skipped_batch_is_no_part_of_a_step(self, scripted):
        brain = scripted(grad_accumulation_factor=2)
        for losses, slope in (([1.0], 2), ([math.nan], 100), ([-99.0], 100), ([1.0], 4)):
            assert position(brain) == [0, 0]
            brain.fit_batch(batch_of(losses, [[slope, 0]]))
        assert position(brain) == [-0.5 * 3, 0]
        assert [event[2] for event in brain.events if event[0] == "start"] == [False, True, True, True]

    @pytest.mark.parametrize("spoilt", [math.inf, math.nan])
    def test_a_gradient_that_is_not_finite_moves_nothing_and_is_counted(self, scripted, spoilt):
        brain = scripted(grad_accumulation_factor=2)
        spoil = brain.modules["masknet"].weight.register_hook(lambda gradient: gradient * spoilt)
        for _ in range(2):
            brain.fit_batch(batch_of([1.0], [[1, 1]]))
        spoil.remove()
        assert (position(brain), brain.optimizer_step, brain.n_skipped) == ([0, 0], 1, 1)
        for _ in range(2):
            brain.fit_batch(batch_of([1.0], [[1, 1]]))
        assert (position(brain), brain.optimizer_step, brain.n_skipped) == ([-0.5, -0.5], 2, 1)

    def test_a_scaler_of_the_gradients_changes_no_step(self, scripted):
        """FP16 has one, which skips steps itself."""
        brain = scripted(max_grad_norm=1, grad_accumulation_factor=2)
        brain.scaler = torch.GradScaler("cpu", init_scale=1024.0)
        for _ in range(2):
            brain.fit_batch(batch_of([1.0], [[0.3, 0.4]]))
        assert position(brain) == pytest.approx([-0.15, -0.2])
        spoil = brain.modules["masknet"].weight.register_hook(lambda gradient: gradient * math.inf)
        for _ in range(2):
            brain.fit_batch(batch_of([1.0], [[0.3, 0.4]]))
        spoil.remove()
        assert position(brain) == pytest.approx([-0.15, -0.2])
        assert brain.scaler.get_scale() == 512
        for _ in range(2):
            brain.fit_batch(batch_of([1.0], [[0.3, 0.4]]))
        assert position(brain) == pytest.approx([-0.3, -0.4])
        assert brain.n_skipped == 0


@pytest.fixture
def others(monkeypatch, tmp_path):
    """Set whether another process has a usable loss."""
    answer = SimpleNamespace(usable=False)

    def all_reduce(flag, operation):
        assert operation == torch.distributed.ReduceOp.MAX
        flag.fill_(max(float(flag), float(answer.usable)))

    with process_group(tmp_path):
        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
        yield answer


def test_a_process_without_a_usable_loss_adds_nothing_to_the_others(scripted, others):
    brain = scripted(grad_accumulation_factor=2)
    others.usable = True
    for losses in ([1.0], [math.nan]):
        brain.fit_batch(batch_of(losses, [[2, 4]]))
    assert position(brain) == [-0.5, -1]
    assert (brain.optimizer_step, brain.n_skipped) == (1, 1)
    for _ in range(2):  # zeros of this process, which the others' gradients are added to
        assert torch.isnan(brain.fit_batch(batch_of([math.nan], [[2, 4]])))
    assert (position(brain), brain.optimizer_step) == ([-0.5, -1], 2)
    others.usable = False
    for losses in ([1.0], [math.nan], [1.0]):
        brain.fit_batch(batch_of(losses, [[2, 4]]))
    assert (position(brain), brain.optimizer_step, brain.n_skipped) == ([-1.5, -3], 3, 4)


def fit(brain, train, valid=()):
    """Train for all epochs; a list of batches stands for a list for each epoch."""
    brain.checkpointer.recoverables.pop("optimizer", None)
    loaders = (DataLoader(batches, batch_size=None, shuffle=False) for batches in (train, valid))
    brain.fit(brain.hparams.epoch_counter, *loaders)


@pytest.mark.parametrize(("interval", "saved"), [(0, []), (1, [2, 4]), (3, [4]), (5, [])])
def test_checkpoints_within_an_epoch_are_taken_at_a_step(scripted, monkeypatch, interval, saved):
    brain = scripted(grad_accumulation_factor=2, run_opts={"ckpt_interval_steps": interval, "ckpt_interval_minutes": 0})
    steps = []
    monkeypatch.setattr(brain, "_save_intra_epoch_ckpt", lambda: steps.append(brain.step))
    fit(brain, [batch_of([1.0], [[1, 1]])] * 5, [batch_of([1.0], predictions=predictions(200))])
    # the fifth batch of each epoch is no part of a step
    assert steps == saved * 2
    assert brain.optimizer_step == 4
    assert position(brain) == [-2, -2]


def test_an_epoch_without_a_step_for_want_of_losses_is_an_error(scripted):
    brain = scripted()
    losses = iter([1.0, 1.0, math.nan, math.nan])
    brain.compute_objectives = lambda predictions, batch, stage: (
        batch.losses + next(losses) + brain.modules["encoder"].weight.sum() if stage == Stage.TRAIN else batch.losses
    )
    with pytest.raises(RuntimeError, match="No batch of epoch 2 had a finite loss"):
        fit(brain, [batch_of([0.0])] * 2, [batch_of([0.0], predictions=predictions(200))])


def test_an_epoch_of_too_good_batches_is_no_error(scripted, caplog):
    brain = scripted(threshold=-10)
    fit(brain, [batch_of([-11.0])] * 2, [batch_of([0.0], predictions=predictions(200))])
    assert brain.optimizer_step == 0
    assert "skipped" not in caplog.text


def gains(losses, forward):
    """How much better than the mixtures as they are the losses are, in dB."""
    _, sources, mix, lengths = forward
    ends = lengths.tolist()
    before = [si_snr(mix[i, :end, None].expand(-1, SPEAKERS), sources[i, :end]) for i, end in enumerate(ends)]
    return [-loss - baseline for loss, baseline in zip(losses, before)]


@pytest.fixture
def two_epochs(scripted):
    """Make a Brain with the losses of two epochs by script, and its data; the last batch of each epoch is skipped."""
    outputs = [predictions(300, 250), predictions(200)]
    training = {1: [1.0, 5.0, 3.0, math.nan], 2: [2.0, -8.0, 4.5, math.nan]}
    validation = {1: [[-1.0, 3.0], [4.0]], 2: [[-2.0, 1.0], [-3.0]]}

    def two_epochs(**options):
        brain = scripted(lr_scheduler=LinearWarmupCosineScheduler(0.5, 10, 20), **options)
        weight = brain.modules["encoder"].weight

        def compute_objectives(_, batch, stage):
            script = training if stage == Stage.TRAIN else validation
            losses = script[brain.hparams.epoch_counter.current][batch.number]
            return torch.tensor(losses).reshape(-1) + (weight - weight.detach()).sum()

        brain.compute_objectives = compute_objectives
        train = [SimpleNamespace(number=i) for i in range(4)]
        valid = [SimpleNamespace(number=i, predictions=output) for i, output in enumerate(outputs)]
        return brain, train, valid

    improved = {epoch: [gains(*both) for both in zip(losses, outputs)] for epoch, losses in validation.items()}
    two_epochs.improvements = {epoch: sum(map(sum, batches)) / 3 for epoch, batches in improved.items()}  # by mixture
    return two_epochs


def test_the_record_of_the_epochs(two_epochs, tmp_path, caplog):
    brain, train, valid = two_epochs()
    fit(brain, train, valid)
    rows = table(tmp_path / "training.csv")
    numbers = [{key: float(value) for key, value in row.items() if key != "seconds"} for row in rows]
    epochs = [(1, 0.15, -3, -2.5), (2, 0.3, 0.5, 1.75)]  # the learning rate is that of the last step
    for row, (epoch, lr, train_si_snr, valid_si_snr) in zip(numbers, epochs, strict=True):
        assert row == pytest.approx(
            {
                "epoch": epoch, "lr": lr, "train_si_snr": train_si_snr, "valid_si_snr": valid_si_snr,
                "valid_si_snr_i": two_epochs.improvements[epoch], "skipped": 1,
            },
            abs=1e-3,
        )  # fmt: skip
    assert all(0 <= float(row["seconds"]) < 100 for row in rows)
    assert "Epoch 2: 1 batches had no finite loss" in caplog.text
    assert [(c.meta["epoch"], c.meta["si-snr"]) for c in brain.checkpointer.list_checkpoints()] == [(2, -1.75)]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_batch_without_a_loss_has_no_part_in_the_mean(scripted, tmp_path, place):
    losses = [1.0, 3.0, 5.0]
    losses.insert(place, math.nan)
    brain = scripted()
    fit(brain, [batch_of([loss]) for loss in losses], [batch_of([1.0], predictions=predictions(200))])
    assert [float(row["train_si_snr"]) for row in table(tmp_path / "training.csv")] == pytest.approx([-3, -3])


def test_the_mean_of_a_resumed_epoch_goes_on(scripted, tmp_path):
    brain = scripted()
    brain.step, brain.avg_train_loss = 3, 2.0  # as a checkpoint has it
    brain.checkpointer.recover_if_possible = lambda **options: None
    fit(brain, [batch_of([10.0])], [batch_of([1.0], predictions=predictions(200))])
    assert [float(row["train_si_snr"]) for row in table(tmp_path / "training.csv")] == pytest.approx([-4, -10])


@pytest.mark.parametrize("mixtures", [0, 1])
def test_the_improvement_over_one_mixture_or_none(scripted, tmp_path, mixtures):
    brain, output = scripted(epoch_counter=EpochCounter(1)), predictions(200)
    fit(brain, [batch_of([1.0])], [batch_of([4.0], predictions=output)] * mixtures)
    (row,) = table(tmp_path / "training.csv")
    assert float(row["valid_si_snr_i"]) == pytest.approx(gains([4.0], output)[0] * mixtures, abs=1e-3)


def test_every_logger_has_the_epochs(two_epochs):
    brain, train, valid = two_epochs()
    logged = {"text": [], "tensorboard": []}
    brain.loggers = [
        SimpleNamespace(log_stats=lambda meta, calls=calls, **stats: calls.append(meta | stats))
        for calls in logged.values()
    ]
    fit(brain, train, valid)
    for calls in logged.values():
        for call, (epoch, lr, train_loss, valid_loss) in zip(
            calls, [(1, 0.15, 3, 2.5), (2, 0.3, -0.5, -1.75)], strict=True
        ):
            valid_stats = {"si-snr": valid_loss, "si-snr_i": two_epochs.improvements[epoch]}
            assert call.pop("train_stats") == pytest.approx({"si-snr": train_loss})
            assert call.pop("valid_stats") == pytest.approx(valid_stats, abs=1e-3)
            assert call == pytest.approx({"epoch": epoch, "lr": lr})


def test_seconds_of_an_epoch(two_epochs, tmp_path, monkeypatch):
    brain, train, valid = two_epochs()
    clock = iter([100.0, 107.25, 200.0, 231.125])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    fit(brain, train, valid)
    assert [float(row["seconds"]) for row in table(tmp_path / "training.csv")] == [7.2, 31.1]


def test_debugging_leaves_no_record(two_epochs, tmp_path):
    brain, train, valid = two_epochs()
    brain.debug, brain.debug_batches, brain.debug_epochs = True, 99, 99
    fit(brain, train, valid)
    assert brain.optimizer_step == 6
    assert not (tmp_path / "training.csv").exists()


def test_another_process_leaves_no_record(two_epochs, tmp_path, monkeypatch):
    brain, train, valid = two_epochs()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flag, operation: None)
    monkeypatch.setattr(brain.checkpointer, "save_and_keep_only", lambda **options: None)  # it waits for the others
    with process_group(tmp_path):
        fit(brain, train, valid)
    assert brain.optimizer_step == 6
    assert not (tmp_path / "training.csv").exists()


@pytest.fixture
def tested(scripted, tmp_path):
    """Test a Brain with estimates by script; the scores are read from its output folder."""

    def tested():
        brain = scripted()
        brain.hparams.epoch_counter.current = 7
        outputs = [predictions(4100, 4500), predictions(4200)]
        brain.on_stage_start(Stage.TEST)
        for ids, output in zip((["a", "b"], ["c"]), outputs):
            brain.evaluate_batch(batch_of([1.0] * len(ids), predictions=output, id=ids), Stage.TEST)
        brain.on_stage_end(Stage.TEST, 1.0)
        return outputs

    return tested


def test_the_scores_of_the_test_are_of_each_mixture_without_its_padding(tested, tmp_path):
    outputs = tested()
    rows = table(tmp_path / "test" / "results.csv")
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    expected = [(output, i) for output in outputs for i in range(len(output[0]))]
    for row, ((estimate, sources, _, lengths), i) in zip(rows, expected):
        assert float(row["si_snr"]) == pytest.approx(
            si_snr(estimate[i, : lengths[i]], sources[i, : lengths[i]]), abs=1e-2
        )
    improved = [gain for output in outputs for gain in gains([0.0] * len(output[0]), output)]
    assert [float(row["si_snr_i"]) - float(row["si_snr"]) for row in rows] == pytest.approx(improved, abs=1e-2)
    log = (tmp_path / "train_log.txt").read_text()
    assert "Epoch loaded: 7" in log
    for score in ("si_snr", "si_snr_i", "sdr", "sdr_i"):
        mean = sum(float(row[score]) for row in rows) / 3
        assert f"test {score}: {mean:.2f}" in log or f"test {score}: {mean:.2e}" in log


def test_another_process_tests_without_results(tested, tmp_path):
    with process_group(tmp_path):
        tested()
    assert not (tmp_path / "test").exists()


SCRIPTED = {1: 4.0, 2: -3.0, 3: 2.0}


@pytest.fixture
def recorded(run, separation, monkeypatch, tmp_path):
    """Run the recipe with losses in validation by script, of which the second is the best; returns what it did."""
    record = SimpleNamespace(heard=[], rates=[], weights={}, epoch=None, data=tmp_path / "data")
    start, forward, objectives, step, end = (
        getattr(separation.Separation, name)
        for name in ("on_stage_start", "compute_forward", "compute_objectives", "optimizers_step", "on_stage_end")
    )

    def on_stage_start(self, stage, epoch=None):
        record.epoch = epoch
        start(self, stage, epoch)

    def compute_forward(self, batch, stage):
        outputs = forward(self, batch, stage)
        given = {"ids": batch.id, "signals": batch.mix_sig.data, "mix": outputs[2], "epoch": record.epoch}
        record.heard.append(SimpleNamespace(stage=stage, training=self.modules.training, **given))
        return outputs

    def compute_objectives(self, outputs, batch, stage):
        losses = objectives(self, outputs, batch, stage)
        return torch.full_like(losses, SCRIPTED[record.epoch]) if stage == Stage.VALID else losses

    def optimizers_step(self):
        step(self)
        record.rates.append(self.optimizer.param_groups[0]["lr"])

    def on_stage_end(self, stage, loss, epoch=None):
        end(self, stage, loss, epoch)
        if stage == Stage.VALID:
            record.weights[epoch] = {
                (name, key): value.clone()
                for name, module in self.modules.items()
                for key, value in module.state_dict().items()
            }

    for replacement in (on_stage_start, compute_forward, compute_objectives, optimizers_step, on_stage_end):
        monkeypatch.setattr(separation.Separation, replacement.__name__, replacement)

    record.out = run(
        num_spks=SPEAKERS, mixtures_per_epoch=7, valid_mixtures=3, test_mixtures=4, N_epochs=3, seed=7,
        grad_accumulation_factor=2, n_audio_to_save=0, limit_training_signal_len=True, training_signal_len=1500,
        save_folder=record.data,
    )  # fmt: skip
    return record


def test_what_a_run_decides(recorded):
    """One run, as it is slow. Its parts are told apart by their comments."""
    # the test has the epoch that is the best in validation, and that one is kept beside the last
    tested, epochs = weights(recorded.out), recorded.weights.items()
    assert [epoch for epoch, kept in epochs if all(torch.equal(tested[key], kept[key]) for key in tested)] == [2]
    assert "Epoch loaded: 2" in (recorded.out / "train_log.txt").read_text()
    assert [float(row["valid_si_snr"]) for row in table(recorded.out / "training.csv")] == [-4, 3, -2]
    metas = (path.read_text() for path in recorded.data.glob("CKPT*/CKPT.yaml"))
    assert sorted(re.search(r"si-snr: (\S+)", meta)[1] for meta in metas) == ["-3.0", "2.0"]

    # each epoch draws mixtures of its own, and has them in an order of its own
    expected = dynamic_mixtures(recorded.data / "train_utterances.csv", 7, SPEAKERS, RATE, (0.2, 0.3), seed=7)
    trained, orders = [heard for heard in recorded.heard if heard.stage == Stage.TRAIN], set()
    assert [len(heard.ids) for heard in trained] == [2, 2, 2, 1] * 3
    for epoch in SCRIPTED:
        expected.set_epoch(epoch)
        examples = {example["id"]: example["mix_sig"] for example in expected}
        batches = [heard for heard in trained if heard.epoch == epoch]
        orders.add(tuple(name for heard in batches for name in heard.ids))
        assert sorted(name for heard in batches for name in heard.ids) == sorted(examples)
        for name, heard in ((name, heard) for batch in batches for name, heard in zip(batch.ids, batch.signals)):
            assert torch.equal(heard[: len(examples[name])], examples[name])
    assert len(orders) == 3

    # training alone is augmented
    assert {heard.mix.shape[1] for heard in trained} == {1500}
    assert all(heard.training for heard in trained)
    for stage, split, sizes in ((Stage.VALID, "valid", [2, 1] * 3), (Stage.TEST, "test", [2, 2])):
        batches, rows = (
            [heard for heard in recorded.heard if heard.stage == stage],
            table(recorded.data / f"{split}.csv"),
        )
        assert [len(heard.ids) for heard in batches] == sizes
        assert [name for heard in batches for name in heard.ids] == [row["ID"] for row in rows] * (
            sum(sizes) // len(rows)
        )
        assert all(torch.equal(heard.mix, heard.signals) and not heard.training for heard in batches)
        first = read_audio(rows[0]["mix_wav"], RATE)
        assert torch.equal(batches[0].signals[0, : len(first)], first)

    # the schedule has two steps an epoch, of four batches
    cosine = [0.01 * (0.01 + 0.99 * (1 + math.cos(math.pi * step / 4)) / 2) for step in (1, 2, 3, 4)]
    assert recorded.rates == pytest.approx([0.005, 0.01, *cosine])
    assert [float(row["lr"]) for row in table(recorded.out / "training.csv")] == pytest.approx(recorded.rates[1::2])

    # the settings are written down, and no example is
    assert "mixtures_per_epoch: 7" in (recorded.out / "hyperparams.yaml").read_text()
    assert not list((recorded.out / "test").glob("examples/*"))


class Stopped(Exception):
    """Raised in place of the training."""


@pytest.fixture
def started(run, separation, monkeypatch):
    """The Brain, and what it is told to train on, just before the training."""

    def started(**options):
        def fit(self, *args, **kwargs):
            raise Stopped(self, *args, kwargs)

        monkeypatch.setattr(separation.Separation, "fit", fit)
        with pytest.raises(Stopped) as stopped:
            run(**options)
        return stopped.value.args

    return started


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"mixtures_per_epoch": 7, "N_epochs": 5, "grad_accumulation_factor": 3}, 5),
        ({"mixtures_per_epoch": 7, "N_epochs": 5, "grad_accumulation_factor": 3, "n_warmup_steps": 8}, 8),
        ({"n_total_steps": 33}, 33),
    ],
)
def test_steps_of_the_schedule(started, options, steps):
    brain, *_ = started(**options)
    assert brain.hparams.lr_scheduler.n_total_steps == steps
    assert (brain.ckpt_interval_steps, brain.ckpt_interval_minutes) == (0, 15)


def test_mixtures_on_disk_come_in_another_order_in_each_epoch(started):
    brain, epochs, loader, *_ = started(dynamic_mixing=False, N_epochs=3, num_spks=3)
    orders = []
    for epoch in epochs:
        brain.on_stage_start(Stage.TRAIN, epoch)
        brain.train_sampler.set_epoch(epoch)
        orders.append([name for batch in loader for name in batch.id])
    rows = table(brain.hparams.output_folder + "/save/train.csv")
    assert [sorted(order) for order in orders] == [sorted(row["ID"] for row in rows)] * 3
    assert len(set(map(tuple, orders))) == 3


def test_copies_of_a_block_begin_with_weights_of_their_own(started, separation, monkeypatch):
    asked = []
    monkeypatch.setattr(separation, "keep_freed_memory", lambda: asked.append("memory"))
    monkeypatch.setattr(
        separation.sb.utils.distributed, "ddp_init_group", lambda run_opts: asked.append(run_opts.device)
    )
    brain, *_ = started(name="dpmamba_XS", n_dp=2)
    pairs = [
        (value, brain.modules["masknet"].get_parameter(name.replace(".0.", ".1.", 1)))
        for name, value in brain.modules["masknet"].named_parameters()
        if name.startswith("dual_mdl.0.") and name.endswith("in_proj.weight")
    ]
    assert len(pairs) >= 2
    assert not any(torch.equal(*pair) for pair in pairs)
    assert asked == ["memory", "cpu"]


def test_an_interval_in_steps_takes_the_place_of_one_in_minutes(started):
    brain, *_ = started(ckpt_interval_steps=4)
    assert (brain.ckpt_interval_steps, brain.ckpt_interval_minutes) == (4, 0)


@pytest.mark.parametrize(
    ("epochs", "summary", "options", "done"),
    [
        ([2, 3], True, {}, True),
        ([3, 2], True, {}, True),
        ([4], True, {}, True),
        ([1, 2], True, {}, False),
        ([], True, {}, False),
        ([3], False, {}, False),
        ([3], True, {"test_only": True}, False),
        ([3], True, {"debug": True}, False),
    ],
)
def test_a_run_is_done_after_its_last_epoch_and_its_test(separation, tmp_path, epochs, summary, options, done):
    checkpointer = AtomicCheckpointer(tmp_path / "save", {"layer": torch.nn.Linear(1, 1)})
    for epoch in epochs:
        checkpointer.save_checkpoint(meta={"epoch": epoch, "si-snr": 0.0})
    if summary:
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "summary.json").write_text("{}")
    hparams = {"checkpointer": checkpointer, "N_epochs": 3, "output_folder": str(tmp_path)}
    run_opts = SimpleNamespace(**{"test_only": False, "debug": False, **options})
    assert separation.test_is_done(hparams, run_opts) is done


class TestData:
    @pytest.fixture
    def settings(self, tmp_path, corpus):
        """Settings that are no one's defaults."""
        return {
            "data_folder": str(corpus), "save_folder": str(tmp_path / "save"), "num_spks": SPEAKERS,
            "sample_rate": RATE, "dynamic_mixing": False, "train_mixtures": 2, "valid_mixtures": 3, "test_mixtures": 4,
            "seed": 77, "mixture_seconds": [0.2, 0.25], "mixtures_per_epoch": 5, "base_folder_dm": None,
        }  # fmt: skip

    @staticmethod
    def made(settings):
        """What the preparation left: the names of the manifests, and the parameters of the stamp."""
        folder = Path(settings["save_folder"])
        return {path.name for path in folder.glob("*.csv")}, json.loads((folder / "prepared.json").read_text())

    @pytest.mark.parametrize("corpus_name", ["folder", "fsdd", "mini"])
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_a_preparation_has_every_setting(self, separation, settings, tmp_path, monkeypatch, corpus_name, dynamic):
        corpus, settings["data_folder"] = settings["data_folder"], str(tmp_path / "data")
        built = []

        def build_mini_corpus(folder, sample_rate, **options):
            built.append((folder, sample_rate, options))
            shutil.copytree(corpus, folder)

        monkeypatch.setattr(separation, "build_mini_corpus", build_mini_corpus)
        if corpus_name == "folder":
            shutil.copytree(corpus, tmp_path / "data")
        elif corpus_name == "fsdd":
            for speaker, take in itertools.product("abc", (0, 5, 9)):
                path = tmp_path / "data" / "recordings" / f"4_{speaker}_{take}.wav"
                write_audio(path, buzz(100 + 10 * take, 0.3, seed=take), RATE)
        options = {"corpus": corpus_name, "dynamic_mixing": dynamic, "mini_corpus": {"sentences": 5}}
        separation.prepare_data({**settings, **options})
        manifests, stamp = self.made(settings)
        assert manifests == {"train_utterances.csv" if dynamic else "train.csv", "valid.csv", "test.csv"}
        assert {
            "num_spks": SPEAKERS, "sample_rate": RATE, "dynamic_mixing": dynamic, "train_mixtures": 2,
            "valid_mixtures": 3, "test_mixtures": 4, "seed": 77, "seconds": [0.2, 0.25],
        }.items() <= stamp.items()  # fmt: skip
        assert str(tmp_path / "data") in "".join(map(str, stamp.values()))
        assert built == ([(str(tmp_path / "data"), RATE, {"sentences": 5})] if corpus_name == "mini" else [])

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_wsj0mix_draws_from_its_speech_if_asked_to(self, separation, settings, tmp_path, dynamic):
        for subset, key in itertools.product(("tr", "cv", "tt"), ("mix", "s1", "s2", "s3")):
            path = tmp_path / "data" / "3speakers" / "wav16k" / "min" / subset / key / "a.wav"
            write_audio(path, buzz(100, 0.1, seed=1), 16000)
        for name in ("011/011a", "022/022a"):
            write_audio(tmp_path / "si_tr_s" / f"{name}.wav", buzz(100, 0.1, seed=1), 16000)
        folders = {"data_folder": str(tmp_path / "data"), "base_folder_dm": str(tmp_path / "si_tr_s")}
        options = {"corpus": "wsj0mix", "sample_rate": 16000, "dynamic_mixing": dynamic, **folders}
        separation.prepare_data({**settings, **options})
        manifests, stamp = self.made(settings)
        assert manifests == {"train.csv", "valid.csv", "test.csv"} | ({"train_utterances.csv"} if dynamic else set())
        speech = folders["base_folder_dm"] if dynamic else None
        assert stamp == {**folders, "base_folder_dm": speech, "num_spks": 3, "sample_rate": 16000, "mode": "min"}

    def test_mixtures_on_disk(self, separation, settings):
        separation.prepare_data({**settings, "corpus": "folder"})
        datasets = separation.make_datasets(settings)
        for dataset, split in zip(datasets, ("train", "valid", "test"), strict=True):
            rows = table(Path(settings["save_folder"]) / f"{split}.csv")
            assert [example["id"] for example in dataset] == [row["ID"] for row in rows]
            assert torch.equal(dataset[1]["s3_sig"], read_audio(rows[1]["s3_wav"], RATE))
            assert not hasattr(dataset, "set_epoch")

    def test_mixtures_on_the_fly(self, separation, settings):
        separation.prepare_data({**settings, "corpus": "folder", "dynamic_mixing": True})
        train, *others = separation.make_datasets({**settings, "dynamic_mixing": True})
        listing = Path(settings["save_folder"]) / "train_utterances.csv"
        expected = dynamic_mixtures(listing, 5, SPEAKERS, RATE, (0.2, 0.25), seed=77)
        assert len(train) == 5
        assert all(torch.equal(train[i]["s3_sig"], expected[i]["s3_sig"]) for i in range(5))
        assert [len(dataset) for dataset in others] == [3, 4]

    def test_manifests_may_be_relative_to_the_data_folder(self, separation, settings, tmp_path):
        write_set(tmp_path, fault="rate")
        paths = {"data_folder": str(tmp_path), "save_folder": str(tmp_path / "out" / "save")}
        datasets = separation.make_datasets({**settings, **paths, "num_spks": 2, "sample_rate": 16000})
        assert [len(dataset[0]["mix_sig"]) for dataset in datasets] == [2000] * 3


def test_without_examples_the_results_name_none(separation, tmp_path, capsys):
    (tmp_path / "test").mkdir()
    summary = {"mixtures": 12, "undefined": 0, "si_snr": 1.25, "si_snr_i": 6.5, "sdr": 3.75, "sdr_i": None}
    (tmp_path / "test" / "summary.json").write_text(json.dumps(summary))
    separation.show_results({"output_folder": str(tmp_path)})
    printed = capsys.readouterr().out
    assert re.search(r"12 +1\.2 +6\.5 +3\.8 +-\n", printed)
    assert "over 12 test mixtures" in printed
    assert [str(tmp_path / name) in printed for name in ("test", "training.png", "inference")] == [True] * 3
    assert "listen" not in printed
    (tmp_path / "test" / "examples").mkdir()
    for name in ("b.png", "a.png", "a_mix.wav"):
        (tmp_path / "test" / "examples" / name).touch()
    separation.show_results({"output_folder": str(tmp_path)})
    assert f"{tmp_path / 'test' / 'examples' / 'a.png'} " in capsys.readouterr().out

"""The separation recipe from data to results."""

import json
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from speechbrain import Stage

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.dataio.dynamic_mixing import dynamic_mixtures
from speechbrain_mamba.inference.conversion import convert_checkpoint
from speechbrain_mamba.inference.separation import SpeechSeparator
from tests.conftest import HPARAMS
from tests.published_runs import as_modules, write_published
from tests.recipes.conftest import RATE, ROOT, SPEAKERS, table, write_set

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
    "number_of_epochs": 2,
    "n_warmup_steps": 2,
    "lr": 0.01,
    "n_examples": 1,
    "precision": "fp32",
}

MODELS = {
    "mambatasnet_XS": {"n_mamba": 1, "mamba_config": {"d_state": 2}},
    "dpmamba_XS": {"n_dp": 1, "chunk_size": 20, "mamba_config": {"d_state": 2}},
    "sepformer": {"n_dp": 1, "chunk_size": 20, "n_transformer": 1, "nhead": 2, "d_ffn": 16, "out_channels": 16},
}


def arguments(output, data, options, name="mambatasnet_XS"):
    settings = {**TINY, **MODELS[name], "output_folder": output, "data_folder": data, **options}
    if name == "sepformer":  # without a warm-up
        del settings["n_warmup_steps"]
    flags = [str(part) for key, value in settings.items() for part in (f"--{key}", value) if part is not None]
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


def test_results(run, drawn, capsys):
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
    assert f"tested already: remove {folder} to start again" in (folder / "log.txt").read_text()
    assert (folder / "test" / "results.csv").stat().st_mtime_ns == before


@pytest.mark.slow
def test_it_learns(run):
    folder = run(number_of_epochs=10, mixtures_per_epoch=24, lr=0.01, n_mamba=2, out_channels=16)
    losses = [float(row["train_si_snr"]) for row in table(folder / "training.csv")]
    assert losses[-1] > losses[0] + 5


@pytest.mark.parametrize("name", ["dpmamba_XS", "sepformer"])
def test_other_models(run, name):
    folder = run(name=name, number_of_epochs=1)
    assert (folder / "test" / "summary.json").exists()


def test_three_speakers_on_disk_with_all_augmentation(run):
    folder = run(
        num_spks=3,
        dynamic_mixing=False,
        limit_training_signal_len=True,
        training_signal_len=1200,
        batch_size=3,
        number_of_epochs=1,
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
    folder = run(precision="bf16", grad_accumulation_factor=2, tensorboard=True, number_of_epochs=1)
    assert all(torch.isfinite(value).all() for value in weights(folder).values())
    assert list((folder / "tensorboard").iterdir())


def test_accumulated_batches_equal_one_large_batch(run):
    options = {
        "number_of_epochs": 1,
        "mixtures_per_epoch": 4,
        "use_speedperturb": False,
        "mixture_seconds": "[0.2, 0.2]",
    }
    large = run("large", batch_size=4, **options)
    small = run("small", batch_size=2, grad_accumulation_factor=2, **options)
    for key, value in weights(large).items():
        assert torch.allclose(weights(small)[key], value, atol=1e-5), key


def command(output, data, **options):
    return [sys.executable, str(ROOT / "recipes" / "separation" / "train.py"), *arguments(output, data, options)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def succeed(arguments):
    """Run a command to its end, and return what it said."""
    result = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.mark.slow
def test_two_processes(corpus, tmp_path, forked):
    options = {"number_of_epochs": 1, "batch_size": 1, "grad_accumulation_factor": 2, "distributed_backend": "gloo"}
    recipe = [ROOT / "recipes" / "separation" / "train.py", *arguments(tmp_path / "out", corpus, options)]
    process = forked.start(recipe, tmp_path / "said.txt", processes=2)
    assert process.wait() == 0, process.said()
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
        ({"kernel_stride": 4}, ValueError, "kernel_stride is 4 and kernel_size 16, but"),
        ({"level_law": "loud"}, ValueError, "level_law is 'loud', but must be wsj0mix or published"),
    ],
)
def test_bad_settings(run, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        run(**options)


def test_there_is_nothing_to_test_or_export_without_a_checkpoint(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--test_only needs a checkpoint from the end of an epoch"):
        run(test_only=None)
    assert not (tmp_path / "out" / "test").exists() and not (tmp_path / "out" / "inference").exists()


def test_unknown_precision(run, capsys):
    with pytest.raises(SystemExit):
        run(precision="fp8")
    assert "invalid choice: 'fp8' (choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rate", "has a sample rate of 16000 Hz, but 8000 Hz are wanted"),
        ("stereo", "has 2 channels, but must be mono"),
        ("nan", "holds NaN or infinite samples"),
        ("unequal", "unequal lengths, in samples .*2000.*1993"),
        ("unreadable", "cannot be read"),
        ("empty", "has no samples"),
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


SCRIPTED = {1: 4.0, 2: -3.0, 3: 2.0}


@pytest.fixture
def recorded(run, separation, monkeypatch, tmp_path):
    """Run the recipe with losses in validation by script, of which the second is the best; returns what it did."""
    record = SimpleNamespace(heard=[], rates=[], weights={}, epoch=None, data=tmp_path / "data")
    start, forward, objectives, step, end = (
        getattr(separation.SeparationBrain, name)
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
        monkeypatch.setattr(separation.SeparationBrain, replacement.__name__, replacement)

    record.out = run(
        num_spks=SPEAKERS, mixtures_per_epoch=7, valid_mixtures=3, test_mixtures=4, number_of_epochs=3, seed=7,
        grad_accumulation_factor=2, n_examples=0, limit_training_signal_len=True, training_signal_len=1500,
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

        monkeypatch.setattr(separation.SeparationBrain, "fit", fit)
        with pytest.raises(Stopped) as stopped:
            run(**options)
        return stopped.value.args

    return started


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"mixtures_per_epoch": 7, "number_of_epochs": 5, "grad_accumulation_factor": 3}, 5),
        ({"mixtures_per_epoch": 7, "number_of_epochs": 5, "grad_accumulation_factor": 3, "n_warmup_steps": 8}, 8),
        ({"n_total_steps": 33}, 33),
    ],
)
def test_steps_of_the_schedule(started, options, steps):
    brain, *_ = started(**options)
    assert brain.hparams.lr_scheduler.n_total_steps == steps
    assert (brain.ckpt_interval_steps, brain.ckpt_interval_minutes) == (0, 15)


def test_mixtures_on_disk_come_in_another_order_in_each_epoch(started):
    brain, epochs, loader, *_ = started(dynamic_mixing=False, number_of_epochs=3, num_spks=3)
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
    monkeypatch.setattr("speechbrain_mamba.training.run.settle_memory", lambda: asked.append("memory"))
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


def test_without_examples_the_results_name_none(separation, tmp_path):
    (tmp_path / "test").mkdir()
    summary = {"mixtures": 12, "unscored": 0, "si_snr": 1.25, "si_snr_i": 6.5, "sdr": 3.75, "sdr_i": None}
    (tmp_path / "test" / "summary.json").write_text(json.dumps(summary))
    printed = separation.format_results(tmp_path)
    scores = [line.split()[:2] for line in printed.splitlines()[2:6]]
    assert scores == [["SI-SNR", "1.2"], ["SI-SNRi", "6.5"], ["SDR", "3.8"], ["SDRi", "-"]]
    assert "over 12 test mixtures" in printed
    assert [str(tmp_path / name) in printed for name in ("test", "training.png", "inference")] == [True] * 3
    assert "listen" not in printed
    (tmp_path / "test" / "examples").mkdir()
    for name in ("b.png", "a.png", "a_mix.wav"):
        (tmp_path / "test" / "examples" / name).touch()
    assert f"{tmp_path / 'test' / 'examples' / 'a.png'} " in separation.format_results(tmp_path)


@pytest.mark.slow
def test_two_speakers_become_three(run, tmp_path):
    """The example of docs/finetuning.md: only what makes the speakers apart is new, and the encoder stays."""
    two = run("two", num_spks=2, number_of_epochs=1)
    options = {"num_spks": 3, "number_of_epochs": 1, "init_from": two / "inference"}
    with pytest.raises(ValueError, match=r"does not fit this run\. Of another shape: masknet") as caught:
        run("three", **options)
    skip = re.search(r"--init_skip '([^']+)'", str(caught.value))[1]
    assert skip == "masknet.mask_conv1x1"
    three = run("three", **options, init_skip=skip, freeze="encoder")
    log = (three / "log.txt").read_text()
    assert re.search(
        r"init_from: (\d+) of (?!\1)\d+ tensors from the folder .*; skipped: masknet\.mask_conv1x1\.conv \(weight\)",
        log,
    )
    before, after = weights(two), weights(three)
    changed = {name for name, value in after.items() if not torch.equal(value, before.get(name, value))}
    assert not any(module == "encoder" for module, _ in changed) and changed
    separator = SpeechSeparator.from_hparams(str(three / "inference"), savedir=str(tmp_path / "cache"))
    assert separator.separate_batch(torch.randn(1, 2000)).shape == (1, 2000, 3)


@pytest.mark.slow
def test_a_published_folder_is_tested_after_its_conversion(run, tmp_path):
    """The authors' folders have the state of another schedule."""
    trained = run("trained", number_of_epochs=1)
    (checkpoint,) = (trained / "save").glob("CKPT+*")
    parts = ("encoder", "masknet", "decoder")
    states = {part: torch.load(checkpoint / f"{part}.ckpt", weights_only=True) for part in parts}
    write_published(tmp_path / "raw" / "save", as_modules(states), [{"si-snr": -1.0, "epoch": 200}])
    with pytest.raises(ValueError, match="is of another schedule than LinearWarmupCosineScheduler"):
        run("raw", test_only=None)
    hparams = HPARAMS / "separation" / "mambatasnet_XS.yaml"
    made = convert_checkpoint(tmp_path / "raw", tmp_path / "converted", hparams, {**TINY, **MODELS[hparams.stem]})
    assert made.checkpoints == 1
    tested = run("converted", test_only=None)
    for name in ("summary.json", "results.csv"):
        assert (tested / "test" / name).read_text() == (trained / "test" / name).read_text()
    with pytest.raises(ValueError, match="has no optimizer, so that no training resumes from it"):
        run("converted", number_of_epochs=201)
    started = run("started", number_of_epochs=1, lr=0, init_from=tmp_path / "raw")
    assert all(map(torch.equal, weights(started).values(), weights(trained).values()))

"""A recipe with almost nothing to learn, run in this process."""

from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import nn

from speechbrain_mamba.training.brain import Datasets, TrainingBrain
from speechbrain_mamba.training.run import run_recipe

HPARAMS = """
seed: 3
__set_seed: !apply:speechbrain.utils.seed_everything [!ref <seed>]
output_folder: !PLACEHOLDER
save_folder: !ref <output_folder>/save
train_log: !ref <output_folder>/train_log.txt
skip_prep: False
data_prep_only: False
tensorboard: False
wandb: False
corpus: none               # what is prepared
freeze: []
number_of_epochs: 2
batch_size: 2
num_workers: 0
grad_accumulation_factor: 1
max_grad_norm: 5.0
ckpt_interval_minutes: 15
avg_checkpoints: 1
avg_tolerance: 0.25
precision: fp32
lr: 0.1
dropout: 0.0
n_train: 6
optimizer: !name:torch.optim.SGD
    lr: !ref <lr>
    momentum: 0.5
lr_scheduler: !new:speechbrain_mamba.nnet.schedulers.LinearWarmupCosineScheduler
    lr_initial: !ref <lr>
    n_warmup_steps: 1
epoch_counter: !new:speechbrain.utils.epoch_loop.EpochCounter
    limit: !ref <number_of_epochs>
layer: !new:torch.nn.Linear
    in_features: 3
    out_features: 1
modules:
    layer: !ref <layer>
checkpointer: !new:speechbrain_mamba.utils.checkpoints.AtomicCheckpointer
    checkpoints_dir: !ref <save_folder>
    recoverables:
        layer: !ref <layer>
        lr_scheduler: !ref <lr_scheduler>
        counter: !ref <epoch_counter>
"""


class Noise(DynamicItemDataset):
    """Examples (3,) that are drawn again in each epoch, or fixed ones by their id."""

    def __init__(self, count, fixed):
        super().__init__({f"{i}": {"number": i} for i in range(count)}, output_keys=["id", "x"])
        draw = lambda number: torch.arange(3) - 1.0 * number if fixed else torch.rand(3)  # noqa: E731
        self.add_dynamic_item(draw, takes="number", provides="x")


class ToyBrain(TrainingBrain):
    """Learns to say 1. Notes what is called, and is disturbed by what ``disturb`` does with the loss of a batch."""

    needs = ()
    calls: list
    disturb = staticmethod(lambda brain, loss: loss)
    fixed = False
    test_sets = ("test",)

    @classmethod
    def extra_needs(cls, settings):
        return ("no_such_voice",) if settings["corpus"] == "spoken" else ()

    def set_up(self):
        self.calls.append("set_up")
        self.drop = nn.Dropout(self.hparams.dropout)

    def prepare_data(self, hparams):
        self.calls.append("prepare_data")

    def make_datasets(self, hparams):
        self.calls.append("make_datasets")
        tests = {name: Noise(size, True) for size, name in enumerate(self.test_sets, start=2)}
        return Datasets(Noise(hparams["n_train"], self.fixed), Noise(3, True), tests)

    def compute_forward(self, batch, stage):
        x = batch.to(self.device).x.data
        return self.modules.layer(self.drop(x) if stage == sb.Stage.TRAIN else x)

    def compute_objectives(self, outputs, batch, stage):
        loss = (outputs - 1).square().mean()
        if stage == sb.Stage.TRAIN:
            self.calls.append(f"{self.epoch}:{self.step}")
            return self.disturb(self, loss)
        return loss

    def write_results(self, scores):
        self.calls.append(f"write_results {self.test_set}")

    def export(self):
        self.calls.append("export")


@pytest.fixture
def toy(tmp_path, monkeypatch, figures):
    """Run the toy recipe; returns its output folder, calls, weights, and the Brain's class, to be changed."""
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)
    monkeypatch.setattr("sys.excepthook", lambda *_: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # tests of checkpoints and files have it
    path = tmp_path / "toy.yaml"
    path.write_text(HPARAMS)

    class Brain(ToyBrain):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            run.brain = self

    def run(output="out", flags=(), **options):
        Brain.calls = []
        folder = tmp_path / output
        options = {"output_folder": folder, **options}
        pairs = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        run_recipe(Brain, [str(path), *pairs, "--noprogressbar", "--device", "cpu", *flags])
        weights = run.brain.modules.layer.weight.detach().clone()
        return SimpleNamespace(folder=folder, calls=Brain.calls, weights=weights, brain=run.brain)

    run.Brain, run.brain = Brain, None
    return run

"""What the Brain of the separation recipe decides: its batches state their own losses and gradients."""

import functools
import math
import time
from types import SimpleNamespace

import pytest
import torch
import torchaudio.functional
from speechbrain import Stage
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger
from torch.utils.data import DataLoader
from torchmetrics.functional.audio import permutation_invariant_training, scale_invariant_signal_noise_ratio

from speechbrain_mamba.dataio.augmentation import MixtureAugmentation
from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.schedulers import LinearWarmupCosineScheduler
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from tests.processes import process_group
from tests.recipes.conftest import RATE, SPEAKERS, table


@pytest.fixture
def build(separation, tmp_path):
    """Make the recipe's Brain with some modules and options; steps of its SGD have a rate of 0.5."""

    def build(modules, brain=separation.SeparationBrain, run_opts=None, **options):
        options = {
            "seed": 5, "num_spks": SPEAKERS, "sample_rate": RATE, "output_folder": tmp_path, "n_examples": 0,
            "perceptual_scores": False,
            "use_speedperturb": False, "speed_perturb": None, "augmentation": None, "limit_training_signal_len": False,
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

    def test_noise_over_augmented_mixtures_stays(self, brain):
        batch = mixtures(300, 200)
        noise = torch.randn_like(batch.mix_sig.data)
        sources, lens = sources_of(batch), batch.mix_sig.lengths
        noisy = sources.sum(-1) + noise
        for limit in (False, True):
            made = brain(augmentation=MixtureAugmentation(), limit_training_signal_len=limit, training_signal_len=100)
            mix, kept, _ = made.augment(noisy, sources, lens)
            start = next(i for i in range(300) if sources[0, i, 0] == kept[0, 0, 0])
            heard = noise[:, start : start + mix.shape[1]].clone()
            heard[1, 200 - start :] = 0
            assert kept.shape == (2, 100 if limit else 300, SPEAKERS)
            assert torch.allclose(mix - kept.sum(-1), heard, atol=1e-5)
        mix, kept, _ = brain().augment(noisy, sources, lens)  # mixed again, as published
        assert torch.allclose(mix, kept.sum(-1))

    @pytest.mark.parametrize("options", [{"use_speedperturb": True}, {"dynamic_mixing": False}])
    def test_an_augmentation_is_for_dynamic_mixing_and_changes_speeds_itself(self, brain, options):
        settings = {"dynamic_mixing": True, **options}
        with pytest.raises(ValueError, match="set dynamic_mixing to True and use_speedperturb to False"):
            brain(augmentation=MixtureAugmentation(), **settings).check_augmentation()
        brain(**settings).check_augmentation()
        brain(augmentation=MixtureAugmentation(), dynamic_mixing=True).check_augmentation()

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
    fields = {"id": [f"mixture{i}" for i in range(len(losses))], **fields}
    return SimpleNamespace(losses=losses, slopes=slopes.expand(len(losses), 2), **fields)


@pytest.fixture
def scripted(build, separation, monkeypatch):
    """Make a Brain with two weights, whose losses and gradients are those that its batches state."""

    class Scripted(separation.SeparationBrain):
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

    def test_what_is_random_depends_on_the_batch_alone(self, scripted, monkeypatch):
        """On its place among the batches of all processes, so that their number makes no difference."""
        brain = scripted()

        def drawn(seed=5, epoch=1, step=1, process=(0, 1)):
            torch.manual_seed(len(brain.heard))
            brain.hparams.seed, brain.step = seed, step
            for name, value in zip(("process_rank", "count_processes"), process):
                monkeypatch.setattr(f"speechbrain_mamba.training.steps.{name}", lambda value=value: value)
            brain.on_stage_start(Stage.TRAIN, epoch)
            brain.fit_batch(batch_of([1.0]))
            return brain.heard[-1]["drawn"]

        assert drawn() == drawn()
        assert len({drawn(), drawn(seed=6), drawn(epoch=2), drawn(step=2), drawn(step=3)}) == 5
        assert drawn(step=2) == drawn(step=1, process=(1, 2))
        assert drawn(step=5) == drawn(step=3, process=(0, 2)) == drawn(step=2, process=(1, 3))

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

    def all_reduce(flags, operation):
        assert operation == torch.distributed.ReduceOp.MAX
        flags[0] = max(float(flags[0]), float(answer.usable))

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
        valid = [SimpleNamespace(number=i, predictions=output, id="ab") for i, output in enumerate(outputs)]
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
                "valid_si_snr_i": two_epochs.improvements[epoch], "valid_unscored": 0, "skipped": 1,
            },
            abs=1e-3,
        )  # fmt: skip
    assert all(0 <= float(row["seconds"]) < 100 for row in rows)
    assert "Epoch 2: 1 batches had no finite loss" in caplog.text
    kept = {c.meta["epoch"]: c.meta["si-snr"] for c in brain.checkpointer.list_checkpoints()}
    assert kept.keys() == {1, 2} and kept[2] == -1.75


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
    expected = gains([4.0], output)[0] if mixtures else math.nan
    assert float(row["valid_si_snr_i"]) == pytest.approx(expected, abs=1e-3, nan_ok=True)


def test_every_logger_has_the_epochs(two_epochs):
    brain, train, valid = two_epochs()
    logged = {"text": [], "tensorboard": []}
    brain.loggers = [
        SimpleNamespace(log_stats=lambda stats_meta, calls=calls, **stats: calls.append(stats_meta | stats))
        for calls in logged.values()
    ]
    fit(brain, train, valid)
    for calls in logged.values():
        for call, (epoch, lr, train_loss, valid_loss) in zip(
            calls, [(1, 0.15, 3, 2.5), (2, 0.3, -0.5, -1.75)], strict=True
        ):
            valid_stats = {"si-snr": valid_loss, "si-snr_i": two_epochs.improvements[epoch], "unscored": 0}
            assert call.pop("train_stats") == pytest.approx({"si-snr": train_loss})
            assert call.pop("valid_stats") == pytest.approx(valid_stats, abs=1e-3)
            assert call == pytest.approx({"epoch": epoch, "lr": lr, "steps": 3 * epoch})


def test_seconds_of_an_epoch(two_epochs, tmp_path, monkeypatch):
    """Each of its four batches and two of the validation takes a second and a quarter."""
    brain, train, valid = two_epochs()
    clock, compute = [100.0], brain.compute_objectives

    def compute_objectives(*inputs):
        clock[0] += 1.25
        return compute(*inputs)

    brain.compute_objectives = compute_objectives
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    fit(brain, train, valid)
    assert [float(row["seconds"]) for row in table(tmp_path / "training.csv")] == [7.5, 7.5]


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


def spoilt(output, fault, example):
    """Estimates and sources, one of which has a fault."""
    estimate, sources, mix, lengths = output
    if fault == "silent source":
        sources[example, :, 1] = 0
    elif fault == "silent estimate":
        estimate[example, :, 2] = 0
    else:
        estimate[example, 50, 0] = math.nan
    return estimate, sources, mix, lengths


@pytest.mark.parametrize("fault", ["silent source", "silent estimate", "estimate not finite"])
def test_a_mixture_without_scores_is_in_no_mean_of_the_validation(scripted, tmp_path, caplog, fault):
    whole, broken = predictions(300, 250), predictions(200)
    brain = scripted(epoch_counter=EpochCounter(1))
    losses = [[3.0, 99.0], [-50.0]]
    valid = [
        batch_of(losses[0], predictions=spoilt(whole, fault, 1), id=["a", "b"]),
        batch_of(losses[1], predictions=spoilt(broken, fault, 0), id=["c"]),
    ]
    fit(brain, [batch_of([1.0])], valid)
    (row,) = table(tmp_path / "training.csv")
    assert (float(row["valid_si_snr"]), row["valid_unscored"]) == (-3.0, "2")
    first = (value[:1] for value in whole)
    assert float(row["valid_si_snr_i"]) == pytest.approx(gains([3.0], tuple(first))[0], abs=1e-3)
    assert f"Mixtures without scores, {fault}: b, c." in caplog.text


def test_a_validation_without_any_score_is_the_worst(scripted, tmp_path, caplog):
    brain = scripted()
    names = [f"m{i}" for i in range(12)]
    valid = [batch_of([math.nan], predictions=predictions(200), id=[name]) for name in names]
    fit(brain, [batch_of([1.0])], valid)
    rows = table(tmp_path / "training.csv")
    assert [float(row["valid_si_snr"]) for row in rows] == [-math.inf] * 2
    assert [row["valid_unscored"] for row in rows] == ["12"] * 2
    assert f"loss not finite: {', '.join(names[:10])} and 2 more." in caplog.text


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

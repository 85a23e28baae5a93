"""Two processes train, validate and test as one process does, and none waits for the other for ever."""

import math
import os

import pytest
import torch
from speechbrain import Stage

from speechbrain_mamba.training.run import run_recipe
from speechbrain_mamba.utils.distributed import process_rank
from tests.distributed.pair import run_pair
from tests.training.conftest import HPARAMS, ToyBrain

OPTIONS = {"dropout": 0.5, "n_train": 12, "batch_size": 2, "number_of_epochs": 2, "ckpt_interval_steps": 1}
UNEVEN = {"batch_size": 3, "n_train": 15}
"""Five batches for training, and one for validation: the main process has none of it."""


class CountingBrain(ToyBrain):
    """Notes all that it is given, and has a buffer, as a batch norm would."""

    epoch_totals = ("trained",)
    evaluation_totals = ("evaluated",)
    killed_at = None
    calls = ()
    test_sets = ("one", "two")  # of one batch and of two

    def __init__(self, modules, *args, **kwargs):
        modules["layer"].register_buffer("seen", torch.zeros(1))
        super().__init__(modules, *args, **kwargs)
        self.calls, self.learned = [], []

    def on_stage_start(self, stage, epoch=None):
        super().on_stage_start(stage, epoch)
        self.trained, self.evaluated = {}, []

    def compute_objectives(self, outputs, batch, stage):
        if stage == Stage.TRAIN:
            if (self.epoch, self.optimizer_step) == self.killed_at:
                raise InterruptedError
            for name in batch.id:
                self.trained[name] = self.trained.get(name, 0) + 1
        else:
            self.evaluated += batch.id
        return super().compute_objectives(outputs, batch, stage)

    def stage_scores(self, stage, loss):
        scores = {"loss": loss, "seen": sorted(self.trained.items()) if stage == Stage.TRAIN else self.evaluated}
        self.learned.append(scores)
        return scores

    def table_row(self, train, valid):
        return {"loss": train["loss"]}

    def panels(self, row):
        return {"loss": ["loss"]}


class SometimesUselessBrain(CountingBrain):
    """No loss in the second process, and a broken one in the first process now and then."""

    @staticmethod
    def disturb(brain, loss):
        if process_rank() == 1:
            return None if brain.step % 2 else loss * math.nan
        return loss * math.nan if brain.step == 2 else loss


def run(folder, name, brain_class=CountingBrain, killed_at=None, **options):
    """Run the toy recipe to its end, or until it is killed."""
    made = []

    class Brain(brain_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    Brain.killed_at = killed_at
    hparams = folder / f"{os.getpid()}.yaml"
    hparams.write_text(HPARAMS)
    pairs = {"output_folder": folder / name, **OPTIONS, **options}
    arguments = [part for key, value in pairs.items() for part in (f"--{key}", str(value))]
    flags = ["--noprogressbar", "--device", "cpu", "--distributed_backend", "gloo", "--resume_with_changes"]
    try:
        run_recipe(Brain, [str(hparams), *arguments, *flags])
    except InterruptedError:
        return None
    (brain,) = made
    weights = {key.removeprefix("module."): value.tolist() for key, value in brain.modules.layer.state_dict().items()}
    return {"weights": weights, "learned": brain.learned, "skipped": brain.n_skipped}


def of_two(rank, folder):
    """What one of two processes does."""
    import speechbrain.utils.distributed
    from matplotlib.figure import Figure

    Figure.savefig = lambda *_, **__: None
    speechbrain.utils.distributed.ddp_init_group = lambda options: None  # it is in a group already
    found = {"whole": run(folder, "whole"), "uneven": run(folder, "uneven", **UNEVEN)}
    found["frozen"] = run(folder, "frozen", freeze="layer.bias")
    found["useless"] = run(folder, "useless", SometimesUselessBrain, grad_accumulation_factor=2)
    run(folder, "broken", killed_at=(2, 5))
    found["resumed by two"] = run(folder, "broken by two", killed_at=(2, 5)) or run(folder, "broken by two")
    found["resumed from one"] = run(folder, "broken by one")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("toys")


@pytest.fixture(scope="module")
def alone(folder):
    """One process that accumulates the batches of two; it leaves one run for two processes to resume."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logging.config.dictConfig", lambda config: None)
        patch.setattr("sys.excepthook", lambda *_: None)
        patch.setattr("speechbrain.utils.logger.get_environment_description", str)  # it is slow
        accumulated = {"grad_accumulation_factor": 2}
        run(folder, "broken by one", killed_at=(2, 5), **accumulated)
        yield lambda name, **options: run(folder, name, **{**accumulated, **options})


@pytest.fixture(scope="module")
def together(forked, folder, alone):
    """The results of both processes."""
    return run_pair(forked, folder, of_two)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(torch.tensor(other[key]), torch.tensor(value), atol=1e-6, rtol=1e-6)


def assert_same_scores(one, other):
    assert [scores["seen"] for scores in one] == [scores["seen"] for scores in other]
    assert [scores["loss"] for scores in other] == pytest.approx([scores["loss"] for scores in one], rel=1e-5)


@pytest.fixture(scope="module")
def expected(alone):
    """An uninterrupted run of one process: in each of two epochs training and validation, then two tests."""
    found = alone("alone")
    assert len(found["learned"]) == 6
    assert [name for name, _ in found["learned"][0]["seen"]] == sorted(map(str, range(12)))
    assert [scores["seen"] for scores in found["learned"][3:]] == [["0", "1", "2"], ["0", "1"], ["0", "1", "2"]]
    return found


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(expected, together):
    """With dropout: what is random belongs to the batch, not to the process."""
    for part in together:
        assert_same(expected["weights"], part["whole"]["weights"])
        assert_same_scores(expected["learned"], part["whole"]["learned"])


@pytest.mark.slow
def test_frozen_parameters_are_in_no_process_trained(alone, expected, together):
    frozen = alone("frozen alone", freeze="layer.bias")
    assert frozen["weights"]["bias"] != expected["weights"]["bias"]
    for part in together:
        assert_same(frozen["weights"], part["frozen"]["weights"])
        assert part["frozen"]["weights"]["bias"] == frozen["weights"]["bias"]


@pytest.mark.slow
def test_a_last_batch_without_a_partner_makes_no_step(alone, together):
    expected = alone("alone uneven", **UNEVEN)
    assert_same(expected["weights"], together[1]["uneven"]["weights"])
    assert [scores["seen"] for scores in together[0]["uneven"]["learned"][3:4]] == [["0", "1", "2"]]


@pytest.mark.slow
def test_a_process_without_usable_losses_waits_for_nobody(together):
    for part in together:
        assert_same(together[0]["useless"]["weights"], part["useless"]["weights"])
        assert part["useless"]["skipped"] == 2  # of both processes: batch 2 of each
        assert all(math.isfinite(scores["loss"]) for scores in part["useless"]["learned"])


@pytest.mark.slow
def test_runs_are_resumed_by_any_number_of_processes(expected, alone, together):
    """After five of six steps. The scores of the epoch are those of the whole epoch."""
    resumed = [alone("broken"), *(part[f"resumed {how}"] for part in together for how in ("by two", "from one"))]
    for run in resumed:
        assert_same(expected["weights"], run["weights"])
        assert_same_scores(expected["learned"][2:], run["learned"])

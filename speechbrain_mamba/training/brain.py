"""The training that all recipes share: data, epochs and their record, checkpoints, tests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.train_logger import FileTrainLogger, TrainLogger
from torch.utils.data import DataLoader, Dataset

from speechbrain_mamba.dataio.process_batches import EvaluationShare, TrainingBatches, batches_of_options
from speechbrain_mamba.dataio.shards import ShardBatches, ShardDataset, ShardLoader
from speechbrain_mamba.nnet.mixers import describe_mixers
from speechbrain_mamba.training.averaging import best_checkpoints, load_average
from speechbrain_mamba.training.fine_tuning import FineTuning, trainable
from speechbrain_mamba.training.loggers import make_loggers
from speechbrain_mamba.training.record import has_epoch, record_epoch
from speechbrain_mamba.training.schedule import (
    count_steps,
    goes_by_loss,
    set_schedule_length,
    step_by_loss,
    take_over_rate,
)
from speechbrain_mamba.training.seeding import SeededDataset
from speechbrain_mamba.training.steps import SteppingBrain
from speechbrain_mamba.training.stopping import ignore_signals
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from speechbrain_mamba.utils.distributed import any_process, count_processes
from speechbrain_mamba.utils.locks import FolderLock
from speechbrain_mamba.utils.main_process import do_on_main

logger = logging.getLogger(__name__)


class Datasets(NamedTuple):
    """The data of a run: for training, for validation, and for each test by name."""

    train: Dataset
    valid: Dataset
    tests: dict[str, Dataset]


class TrainingBrain(FineTuning, SteppingBrain):
    """A whole training and its test, with the parts that all recipes share.

    A recipe's Brain states what is its own: ``compute_forward`` and ``compute_objectives`` as in SpeechBrain, and what
    it needs of the following. :func:`~speechbrain_mamba.training.run.run_recipe` calls them in this order:
    :meth:`set_up`, :meth:`prepare_data`, :meth:`make_datasets`, :meth:`loader_options`; in each epoch
    ``on_stage_start``, :meth:`stage_scores`, :meth:`table_row` and :meth:`panels`; after a test :meth:`write_results`;
    in the end :meth:`export` and :meth:`results`. How it steps is defined by
    :class:`~speechbrain_mamba.training.steps.SteppingBrain`.

    Arguments
    ---------
    *args, **kwargs
        As for ``speechbrain.Brain``.
    """

    needs: ClassVar[tuple[str, ...]] = ("matplotlib",)
    """Packages that the recipe requires beside those that are always installed; a literal, which is read early."""

    best_by: ClassVar[str] = "loss"
    """The score of the validation, lower is better, by which checkpoints are kept and chosen for the test."""

    evaluation_totals: ClassVar[tuple[str, ...] | None] = None
    """Attributes that a validation or test collects in, named as in ``epoch_totals``; a
    :class:`~speechbrain_mamba.evaluation.report.Report` stands for what it collects. The processes of a run share the
    examples, and have the totals of all when ``stage_scores`` is called. With None each process evaluates all."""

    may_change: ClassVar[frozenset[str]] = frozenset()
    """Hyper-parameters that a command may change in a run that is there, beside those of
    :data:`~speechbrain_mamba.training.record.MAY_CHANGE`: those of the test, for instance."""

    text: str = ""
    """The run's hyper-parameters in HyperPyYAML."""

    lock: FolderLock | None = None
    """The lock of the output folder, in the main process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.train_data: SeededDataset | None = None
        self.train_batches: TrainingBatches | None = None
        self.first_example = 0
        """Number of examples of a validation or test that are not for this process but for those before it."""
        self.test_set = "test"
        self.test_scores: dict[str, dict[str, float]] = {}
        self.when_resumed: Callable[[], None] = lambda: None
        """Called when the training has loaded the last checkpoint, or found that there is none, before its first step.
        """
        self._epoch_start = time.monotonic()
        for line in describe_mixers(self.modules):
            logger.info("mixers of %s.", line)

    # ----------------------------------------------------------------------------------------- what recipes define

    @classmethod
    def extra_needs(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Packages that some settings need, by the file's plain values."""
        return ()

    def set_up(self) -> None:
        """Load what a run needs beside data, so that it fails at once if something is missing."""

    def prepare_data(self, hparams: Mapping[str, Any]) -> None:
        """Prepare the data on disk, in the main process, unless ``skip_prep`` is set."""

    def make_datasets(self, hparams: Mapping[str, Any]) -> Datasets:
        """Read the data, in every process."""
        raise NotImplementedError

    def loader_options(self, stage: sb.Stage, dataset: Dataset) -> dict[str, Any]:
        """Options of a data loader. Without a sampler, training shuffles."""
        return {"batch_size": self.hparams.batch_size, "num_workers": self.hparams.num_workers}

    def stage_scores(self, stage: sb.Stage, loss: float) -> dict[str, float]:
        """The scores of a stage by name, as they are logged and kept with checkpoints."""
        return {"loss": loss}

    def table_row(self, train: Mapping[str, float], valid: Mapping[str, float]) -> dict[str, float]:
        """The scores of an epoch as columns of ``training.csv``."""
        row = {f"train_{name}": value for name, value in train.items()}
        return row | {f"valid_{name}": value for name, value in valid.items()}

    def panels(self, row: Mapping[str, float]) -> dict[str, list[str]]:
        """The panels of ``training.png``: columns of the table by the label of the vertical axis."""
        return {"loss": ["train_loss", "valid_loss"], "learning rate": ["lr"]}

    def write_results(self, scores: dict[str, float]) -> None:
        """Write the results of a test, in the main process."""

    def export(self) -> None:
        """Write what others load, in the main process."""

    def results(self) -> str:
        """The text that a finished run shows, read from its output folder."""
        return f"training curves: {self.output_folder / 'training.png'}"

    # --------------------------------------------------------------------------------------------------- a run

    @property
    def output_folder(self) -> Path:
        """The folder of the run; when debugging a folder in it, so that results stay."""
        folder = Path(self.hparams.output_folder)
        return folder / "debug" if self.debug else folder

    @cached_property
    def loggers(self) -> list[TrainLogger]:
        """Where the numbers of the run are logged."""
        if self.debug:
            self.output_folder.mkdir(parents=True, exist_ok=True)
            return [FileTrainLogger(str(self.output_folder / "train_log.txt"))]
        return make_loggers(vars(self.hparams))

    def fit_and_test(self, datasets: Datasets) -> dict[str, dict[str, float]]:
        """Train for all epochs that are left, and test.

        Arguments
        ---------
        datasets : Datasets
            The data.

        Returns
        -------
        dict of str to dict
            The scores by test set.
        """
        loader = self.make_train_loader(datasets.train)
        valid_loader = self.make_evaluation_loader(sb.Stage.VALID, datasets.valid)
        self.fit(self.hparams.epoch_counter, loader, valid_loader)
        self.stop.wait(False)
        if not datasets.tests:
            self.on_evaluate_start(min_key=self.best_by)
        for self.test_set, dataset in datasets.tests.items():
            self.evaluate(self.make_evaluation_loader(sb.Stage.TEST, dataset), min_key=self.best_by)
        return self.test_scores

    def make_train_loader(self, dataset: Dataset) -> DataLoader:
        """Make the loader of the training data for this process, and tell the schedule how long the run is."""
        options = dict(self.loader_options(sb.Stage.TRAIN, dataset))
        if isinstance(dataset, ShardDataset):
            return self._make_shard_loader(dataset, options)
        if not options.keys() & {"sampler", "batch_sampler"}:
            options["shuffle"] = True
        self.train_data = SeededDataset(dataset, self.seed)
        batches = batches_of_options(self.train_data, options)
        self.train_batches = TrainingBatches(batches, self.grad_accumulation_factor)
        self.train_sampler = self.train_batches  # SpeechBrain tells it the epoch
        options = {"collate_fn": PaddedBatch, **options, "batch_sampler": self.train_batches}
        loader = self.make_dataloader(self.train_data, sb.Stage.TRAIN, ckpt_prefix=None, **options)
        return self._register_train_loader(loader)

    def _make_shard_loader(self, dataset: ShardDataset, options: dict[str, Any]) -> Any:
        workers, batches = options.get("num_workers", 0), options.pop("batches_per_epoch")
        self.train_batches = ShardBatches(dataset, batches, self.grad_accumulation_factor, workers)
        self.train_sampler = self.train_batches
        options = {"worker_init_fn": ignore_signals, **options}
        return self._register_train_loader(ShardLoader(dataset, self.train_batches, **options))

    def _register_train_loader(self, loader: Any) -> Any:
        self.checkpointer.add_recoverable("dataloader-TRAIN", self.train_batches)
        steps = count_steps(len(loader), self.grad_accumulation_factor, self.hparams.number_of_epochs)
        set_schedule_length(self.hparams.lr_scheduler, steps)
        return loader

    def init_optimizers(self) -> None:
        """Make the optimizer, of the parameters that are not frozen."""
        opt_class = self.opt_class
        if self.freeze and not self.remove_vector_weight_decay:  # SpeechBrain leaves them out with this option only
            self.opt_class = lambda _: opt_class(trainable(self.modules))
        try:
            super().init_optimizers()
        finally:
            self.opt_class = opt_class

    def make_dataloader(self, *args: Any, **options: Any) -> DataLoader:
        """Make a loader whose workers leave it to this process to react to signals."""
        return super().make_dataloader(*args, **{"worker_init_fn": ignore_signals, **options})

    def make_evaluation_loader(self, stage: sb.Stage, dataset: Dataset) -> DataLoader:
        """Make the loader of the validation or of a test set for this process."""
        options = dict(self.loader_options(stage, dataset))
        batches = batches_of_options(dataset, options)
        if self.evaluation_totals is not None:
            batches = EvaluationShare(batches)
            self.first_example = batches.first_example
        return self.make_dataloader(dataset, stage, ckpt_prefix=None, batch_sampler=batches, **options)

    def on_fit_start(self) -> None:
        """Load the last checkpoint; a resumed epoch counts the steps that as many processes as now would have made. An
        epoch whose checkpoint was saved right before the run was killed is recorded now. Another learning rate than
        before is taken over."""
        super().on_fit_start()
        self.find_frozen()
        self.when_resumed()
        if goes_by_loss(self.hparams.lr_scheduler):
            # the optimizer has the rate of the checkpoint; a new one has that of the command
            asked = self.opt_class([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"]
            take_over_rate(self.hparams.lr_scheduler, self.optimizer, asked)
        if self.checkpointer is not None and not self.debug:
            self._log(do_on_main(self._record_last_epoch))
        if self.train_batches is not None and self.train_batches.position:
            self.step = self.train_batches.position // count_processes()

    def _record_last_epoch(self) -> dict[str, list]:
        """Record the epoch of the last checkpoint, unless it is in the table. Returns what is missing in the log."""
        last = self.checkpointer.find_checkpoint()
        row, entry = ({}, {}) if last is None else (last.meta.get("row", {}), last.meta.get("log", {}))
        if row and not has_epoch(self.output_folder, row["epoch"]):
            record_epoch(self.output_folder, row, self.panels(row))
        path = getattr(self.loggers[0], "save_file", None)
        if not entry or path is None:
            return {}
        lines = Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
        return {} if any(line.startswith(f"epoch: {row['epoch']}, ") for line in lines) else entry

    def _log(self, entry: Mapping[str, list]) -> None:
        """Log an epoch in all loggers: the arguments of ``log_stats`` by name, as lists of pairs."""
        for train_logger in self.loggers if entry else ():
            train_logger.log_stats(**{name: dict(pairs) for name, pairs in entry.items()})

    def count_batch(self) -> int:
        """Count a training batch. Returns its number among those of all processes in this epoch, from 1."""
        return super().count_batch() if self.train_batches is None else self.train_batches.advance()

    # -------------------------------------------------------------------------------------------------- stages

    @property
    def seconds(self) -> float:
        """Seconds since the epoch began, without the time between a kill and the next start."""
        return time.monotonic() - self._epoch_start

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._epoch_start = time.monotonic() - seconds

    def _common_totals(self) -> tuple[str, ...]:
        return (*super()._common_totals(), "seconds")

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Reset the counters of a stage."""
        super().on_stage_start(stage, epoch)
        if stage == sb.Stage.TRAIN:
            self.seconds = 0.0
            if self.train_data is not None:
                self.train_data.set_epoch(self.epoch)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Log a stage, save a checkpoint after each epoch, write the results after a test."""
        if stage == sb.Stage.TRAIN:
            self.restore_totals()  # of an epoch whose last batch was the last before it was killed
            stage_loss = self.merge_stage(self.avg_train_loss, ["n_skipped", *self.epoch_totals])
            self.check_skipped_batches()
            self.keep_training(stage_loss)
            self.train_scores = self.stage_scores(stage, stage_loss)
            return
        self.end_after_training()
        if self.evaluation_totals is not None:
            try:
                stage_loss = self.merge_stage(stage_loss, self.evaluation_totals)
            except RuntimeError:  # other processes have ended already
                self.end_after_training()
                raise
        if stage == sb.Stage.VALID:
            lr = self.optimizer.param_groups[0]["lr"]
            step_by_loss(self.hparams.lr_scheduler, self.optimizer, self.epoch, stage_loss)
            self._finish_epoch(self.stage_scores(stage, stage_loss), lr)
        else:
            self._finish_test(self.stage_scores(stage, stage_loss))

    def _finish_epoch(self, scores: dict[str, float], lr: float) -> None:
        """Save a checkpoint first, then log and draw: an epoch is not lost when a picture fails."""
        self.forget_training()
        self.check_lock()
        row = {"epoch": self.epoch, "lr": lr, **self.table_row(self.train_scores, scores)}
        row |= {"skipped": self.n_skipped, "seconds": round(self.seconds, 1)}
        facts = {"epoch": self.epoch, "lr": lr, "steps": self.optimizer_step}
        parts = {"stats_meta": facts, "train_stats": self.train_scores, "valid_stats": scores}
        # pairs, since YAML files sort mappings
        entry = {name: [[*pair] for pair in part.items()] for name, part in parts.items()}
        meta = {**scores, "epoch": self.epoch, "row": row, "log": entry}
        self.checkpointer.save_and_keep_only(meta=meta, num_to_keep=self._n_averaged, min_keys=[self.best_by])
        self._log(entry)
        if if_main_process() and not self.debug:
            record_epoch(self.output_folder, row, self.panels(row))
        if any_process(self.stop.is_requested(), self.device):
            self.end_run()

    def check_lock(self) -> None:
        """Make sure that no other command has taken the output folder over."""
        if self.lock is not None:
            self.lock.check()

    def save_within_epoch(self) -> None:
        """Save a checkpoint within an epoch, unless another command has taken the output folder over."""
        self.check_lock()
        super().save_within_epoch()

    def _finish_test(self, scores: dict[str, float]) -> None:
        facts = {"Epoch loaded": self.hparams.epoch_counter.current}
        facts |= {} if self.test_set == "test" else {"test set": self.test_set}
        for train_logger in self.loggers:
            train_logger.log_stats(facts, test_stats=scores)
        self.test_scores[self.test_set] = scores
        if if_main_process():
            self.write_results(scores)

    @property
    def _n_averaged(self) -> int:
        return getattr(self.hparams, "avg_checkpoints", 1)

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Load the best checkpoint, and then the average of the weights of ``avg_checkpoints`` good ones.

        Raises
        ------
        FileNotFoundError
            When there is no checkpoint: a network that was not trained is neither tested nor exported.
        """
        keeper = self.checkpointer
        if keeper is not None and keeper.recover_if_possible(max_key=max_key, min_key=min_key) is None:
            hint = "add --debug_persistently to debug with those of a run" if self.debug else "train an epoch first"
            raise FileNotFoundError(
                f"There is no checkpoint from the end of an epoch in '{keeper.checkpoints_dir}', and an untrained "
                f"network is not tested: {hint}."
            )
        if self._n_averaged > 1 and self.checkpointer is not None:
            if isinstance(self.checkpointer, AtomicCheckpointer):
                self.checkpointer.check_all()
            tolerance = getattr(self.hparams, "avg_tolerance", None)
            checkpoints = best_checkpoints(self.checkpointer, self.best_by, self._n_averaged, tolerance)
            if checkpoints:
                load_average(self.checkpointer, checkpoints)
                epochs = ", ".join(str(checkpoint.meta["epoch"]) for checkpoint in checkpoints)
                logger.info("Testing the average of the checkpoints of these epochs: %s.", epochs)

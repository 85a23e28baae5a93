"""How all recipes train on a batch and step their optimizers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.utils.distributed import MainProcessContext, if_main_process
from torch import Tensor, nn

from speechbrain_mamba.training.schedule import goes_by_loss
from speechbrain_mamba.training.seeding import seed_step
from speechbrain_mamba.training.stopping import Stop
from speechbrain_mamba.utils._compat import CheckpointsWithinEpochs, LoadersOfProcesses
from speechbrain_mamba.utils.distributed import (
    count_processes,
    gather,
    get_total,
    in_any_process,
    leave_processes,
    merge,
    merge_totals,
    process_rank,
    set_total,
    share_buffers,
)

logger = logging.getLogger(__name__)


class SteppingBrain(CheckpointsWithinEpochs, LoadersOfProcesses, sb.Brain):
    """SpeechBrain's ``Brain`` with steps that are the same for all recipes.

    Run options set precision, accumulation and clipping of gradients. The learning rate is set right before each step,
    or after each epoch by schedules that go by its loss. Batches without a finite loss or gradient are skipped and
    counted; an epoch without others is an error. Checkpoints within an epoch are saved only between steps, and random
    numbers depend only on the place in the run: a run that is killed and started again equals an uninterrupted one.

    Arguments
    ---------
    *args, **kwargs
        As for ``speechbrain.Brain``. The hyper-parameters need ``lr_scheduler``, and may have ``seed``.
    """

    epoch_totals: ClassVar[tuple[str, ...]] = ()
    """Attributes that ``on_stage_start`` resets for training and that a step changes: numbers, or dicts, lists or
    tensors of numbers. Dots lead into objects (``report.totals``). Checkpoints within an epoch keep them, so that the
    training scores of a resumed epoch are those of the whole epoch; those of several processes are merged."""

    frozen: Sequence[nn.Module] = ()
    """Modules that are not trained, and are in evaluation mode when the others are trained: their dropout rests, and
    their batch normalization keeps its statistics."""

    hparams: Any
    opt_class: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = self.n_accumulated = self.n_skipped = self.n_losses = self.first_step = 0
        self.stop = Stop()
        self._stops = False
        self._resumed_totals: dict[str, Any] = {}
        self._trained: dict[str, Any] = {}
        if self.checkpointer is not None:
            hooks = self._load_totals, self._save_totals
            self.checkpointer.add_recoverable("epoch_totals", self, *hooks, optional_load=True)

    def train_adversary(self, outputs: Any, should_step: bool) -> None:
        """Train what a model is trained against, between its forward pass and its loss."""

    def training_loss(self, losses: Tensor) -> Tensor | None:
        """The loss of a batch for training, from what ``compute_objectives`` returned.

        A batch whose loss is not finite is skipped and counted; one whose loss is None is left out silently.
        """
        return losses

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return getattr(self.hparams, "seed", 0)

    def fit_batch(self, batch: Any) -> Tensor:
        """Train on a batch, unless no process has a usable loss for it."""
        self.restore_totals()
        for module in self.frozen:
            module.eval()
        seed_step(self.seed, self.epoch, self.count_batch(), 0)
        should_step = self.n_accumulated + 1 == self.grad_accumulation_factor
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            self.train_adversary(outputs, should_step)
            with self.training_ctx:
                loss = self.training_loss(self.compute_objectives(outputs, batch, sb.Stage.TRAIN))
            usable = loss is not None and bool(loss.isfinite())
            self.n_skipped += loss is not None and not usable
            if loss is not None and not loss.requires_grad:
                usable = False  # of parts that are frozen
            # Processes agree on both at once: whether there is a loss, and whether one of them was told to end.
            any_usable, self._stops = in_any_process([usable, self.stop.is_requested()], self.device)
            if not any_usable:
                return torch.tensor(float("nan"))  # has no part in the mean loss
            if loss is None or not usable:
                # Processes wait for each other's gradients: one without a usable loss adds zeros.
                loss = torch.stack([(p * 0).sum() for p in self.modules.parameters()]).sum()
            self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        self.n_accumulated += 1
        if should_step:
            if not goes_by_loss(self.hparams.lr_scheduler):
                self.hparams.lr_scheduler(self.optimizer)
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach().cpu() if usable else torch.tensor(float("nan"))

    def count_batch(self) -> int:
        """Count a training batch. Returns its number among those of all processes in this epoch, from 1."""
        return (self.step - 1) * count_processes() + process_rank() + 1

    def optimizers_step(self) -> None:
        """Step all optimizers that have gradients."""
        for optimizer in self.freeze_optimizers(self.optimizers_dict).values():
            self.clip_and_step(optimizer)
        self.scaler.update()
        self.n_accumulated = 0
        self.optimizer_step += 1

    def clip_and_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step an optimizer with its gradients clipped together, unless they are not finite or it has none."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        self.scaler.unscale_(optimizer)
        limit = self.max_grad_norm if self.max_grad_norm >= 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if self.scaler.is_enabled() or torch.isfinite(norm):  # a scaler skips steps itself
            self.scaler.step(optimizer)
        elif process_rank() == 0:  # gradients of several processes are the same ones
            self.n_skipped += 1
        optimizer.zero_grad(set_to_none=True)

    def is_between_steps(self) -> bool:
        """Whether no accumulated gradients wait: checkpoints do not hold them."""
        return self.n_accumulated == 0

    def is_checkpoint_wanted(self) -> bool:
        """Whether a process was told to end: all save a checkpoint before."""
        return self._stops

    def after_checkpoint(self) -> None:
        """End a run that was told to."""
        if self._stops:
            self.end_run()

    def end_run(self) -> None:
        """End all processes, which agree on it, with the exit code of the signal."""
        logger.warning("This run was told to end, and has saved a checkpoint. The same command resumes it.")
        leave_processes()
        self.stop.end()

    def end_after_training(self) -> None:
        """End a run that was told to while it validates, with a checkpoint from the end of the epoch's training.

        The main process does so without the others, which have no part in this checkpoint and have ended already.
        """
        if self.stop.is_requested() and self._trained and self.checkpointer is not None:
            self.step, self.avg_train_loss = self._trained["step"], self._trained["loss"]
            with MainProcessContext():
                self.save_within_epoch()
            logger.warning("This run was told to end, and has saved a checkpoint. The same command resumes it.")
            self.stop.end()

    def update_average(self, loss: Tensor, avg_loss: float) -> float:
        """The mean over the batches with a finite loss, infinite without any: SpeechBrain counts the others as 0."""
        self.end_after_training()
        if not torch.isfinite(loss):
            return avg_loss if self.n_losses else float("inf")
        self.n_losses += 1
        mean = avg_loss if self.n_losses > 1 else 0.0
        return mean + (float(loss) - mean) / self.n_losses

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Reset the counters of a stage."""
        self.n_losses = self.step  # above 0 in an epoch that is resumed
        if stage == sb.Stage.TRAIN:
            self.epoch = epoch or 0
            self.n_skipped = self.n_accumulated = 0
            self.first_step, self._trained = self.optimizer_step, {}
        else:
            share_buffers(self.modules.values())
        # a checkpoint of the training can be saved, in the validation by the main process
        self.stop.wait(stage == sb.Stage.TRAIN or (stage == sb.Stage.VALID and if_main_process()))

    def merge_stage(self, loss: float, names: Iterable[str]) -> float:
        """Put the totals of all processes together at the end of a stage.

        Arguments
        ---------
        loss : float
            The mean loss of this process.
        names : iterable of str
            Attributes that hold totals, as in ``epoch_totals``.

        Returns
        -------
        float
            The mean loss over the batches of all processes.
        """
        loss = _mean_loss(gather((loss, self.n_losses)))
        merge_totals(self, names)
        return loss

    def keep_training(self, loss: float) -> None:
        """Keep what a checkpoint of an epoch's training needs while the epoch is validated: totals of all processes."""
        own = [name for name in self._totals() if name not in self._common_totals()]
        totals = {name: deepcopy(get_total(self, name)) for name in own}
        totals |= {"avg_train_loss": loss, "n_losses": max(1, self.n_losses)}
        self._trained = {"step": self.step, "loss": loss, "totals": totals}

    def forget_training(self) -> None:
        """Drop what :meth:`keep_training` kept: the epoch is over."""
        self._trained = {}

    def restore_totals(self) -> None:
        """Give an epoch that was resumed the totals that its checkpoint holds, once."""
        if self._resumed_totals and process_rank() > 0:  # the main process has those of all
            self.n_losses, self.avg_train_loss = 0, 0.0
            self._resumed_totals = {name: self._resumed_totals[name] for name in self._common_totals()}
        for name, value in self._resumed_totals.items():
            set_total(self, name, value)
        self._resumed_totals = {}

    def _common_totals(self) -> tuple[str, ...]:
        """Totals that are the same in all processes."""
        return ("first_step",)

    def _totals(self) -> tuple[str, ...]:
        return ("n_losses", "avg_train_loss", "n_skipped", *self._common_totals(), *type(self).epoch_totals)

    def _save_totals(self, _: Any, path: Path) -> None:
        if self._trained:  # by the main process alone
            common = {name: get_total(self, name) for name in self._common_totals()}
            torch.save(_without_types({**self._trained["totals"], **common}), path)
            return
        within = self.step > 0  # not after an epoch
        parts = gather({name: get_total(self, name) for name in self._totals() if within})
        if process_rank() == 0:
            totals = {**merge(parts), **{name: parts[0][name] for name in self._common_totals() if within}}
            if within:
                totals["avg_train_loss"] = _mean_loss((part["avg_train_loss"], part["n_losses"]) for part in parts)
            torch.save(_without_types(totals), path)

    def _load_totals(self, _: Any, path: Path, end_of_epoch: bool) -> None:
        # tensors of the main process's GPU go to that of this process
        place = lambda storage, where: storage if where == "cpu" else storage.to(device=torch.device(self.device))  # noqa: E731
        totals = {} if end_of_epoch else torch.load(path, map_location=place, weights_only=True)
        self._resumed_totals = {name: totals[name] for name in self._totals() if name in totals}

    def check_skipped_batches(self) -> None:
        """Warn of an epoch's skipped batches, or raise a RuntimeError if there were no others."""
        if self.n_skipped and self.optimizer_step == self.first_step:
            raise RuntimeError(
                f"No batch of epoch {self.epoch} had a finite loss: the training has diverged. Try a smaller lr, or "
                "--precision fp32."
            )
        if self.n_skipped:
            logger.warning("Epoch %d: %d batches had no finite loss or gradient, skipped.", self.epoch, self.n_skipped)


def _without_types(totals: dict[str, Any]) -> dict[str, Any]:
    """Totals that can be loaded safely: dictionaries of other types become plain ones."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in totals.items()}


def _mean_loss(parts: Iterable[tuple[float, int]]) -> float:
    """The mean over the batches of all processes, each of which gives its mean and the number of its batches."""
    means = list(parts)
    counted = [(mean, count) for mean, count in means if count]
    if len(counted) < 2:
        return counted[0][0] if counted else max(mean for mean, _ in means)  # infinite, or 0 without any batch
    return sum(mean * count for mean, count in counted) / sum(count for _, count in counted)

"""How all recipes train on a batch and step their optimizers."""

from __future__ import annotations

import logging
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.utils.distributed import main_process_only
from torch import Tensor

from speechbrain_mamba.training.seeding import seed_step
from speechbrain_mamba.utils._compat import CheckpointsBetweenSteps
from speechbrain_mamba.utils.distributed import any_process

logger = logging.getLogger(__name__)


class SteppingBrain(CheckpointsBetweenSteps, sb.Brain):
    """SpeechBrain's ``Brain`` with steps that are the same for all recipes.

    Run options set precision, accumulation and clipping of gradients. The learning rate is set right before each step.
    Batches without a finite loss or gradient are skipped and counted; an epoch without others is an error. Checkpoints
    within an epoch are saved only between steps, and random numbers depend only on the place in the run: a run that is
    killed and started again equals an uninterrupted one.

    Arguments
    ---------
    *args, **kwargs
        As for ``speechbrain.Brain``. The hyper-parameters need ``lr_scheduler``, and may have ``seed``.
    """

    epoch_totals: ClassVar[tuple[str, ...]] = ()
    """Attributes that ``on_stage_start`` resets for training and that a step changes: numbers, or dicts, lists or
    tensors of numbers. Dots lead into objects (``report.totals``). Checkpoints within an epoch keep those of the main
    process, so that the training scores of a resumed epoch are those of the whole epoch."""

    hparams: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = self.n_accumulated = self.n_skipped = self.n_losses = self.first_step = 0
        self._resumed_totals: dict[str, Any] = {}
        if self.checkpointer is not None:
            hooks = self._load_totals, main_process_only(self._save_totals)
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
        seed_step(self.seed, self.epoch, self.step, getattr(self, "rank", 0))
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
            if not any_process(usable, self.device):
                return torch.tensor(float("nan"))  # has no part in the mean loss
            if loss is None or not usable:
                # Processes wait for each other's gradients: one without a usable loss adds zeros.
                loss = torch.stack([(p * 0).sum() for p in self.modules.parameters()]).sum()
            self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        self.n_accumulated += 1
        if should_step:
            self.hparams.lr_scheduler(self.optimizer)
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach().cpu() if usable else torch.tensor(float("nan"))

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
        else:
            self.n_skipped += 1
        optimizer.zero_grad(set_to_none=True)

    def is_between_steps(self) -> bool:
        """Whether no accumulated gradients wait: checkpoints do not hold them."""
        return self.n_accumulated == 0

    def update_average(self, loss: Tensor, avg_loss: float) -> float:
        """The mean over the batches with a finite loss, infinite without any: SpeechBrain counts the others as 0."""
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
            self.first_step = self.optimizer_step

    def restore_totals(self) -> None:
        """Give an epoch that was resumed the totals that its checkpoint holds, once."""
        for name, value in self._resumed_totals.items():
            *path, attribute = name.split(".")
            owner = attrgetter(".".join(path))(self) if path else self
            current = getattr(owner, attribute, None)
            if isinstance(current, dict):  # keeps its type, a defaultdict for instance
                current.clear()
                current.update(value)
            else:
                setattr(owner, attribute, value)
        self._resumed_totals = {}

    def _totals(self) -> tuple[str, ...]:
        return ("n_losses", "n_skipped", "first_step", *type(self).epoch_totals)

    def _save_totals(self, _: Any, path: Path) -> None:
        within = self.step > 0  # not after an epoch
        values = {name: attrgetter(name)(self) for name in self._totals() if within}
        torch.save({name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}, path)

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

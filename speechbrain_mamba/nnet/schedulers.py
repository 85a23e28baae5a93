"""Learning-rate schedules, in SpeechBrain's form."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from speechbrain.utils import checkpoints


@checkpoints.register_checkpoint_hooks
class LinearWarmupCosineScheduler:
    """Raise the learning rate linearly, then lower it along half a cosine (Loshchilov and Hutter, arXiv 1608.03983).

    Called before each step of the optimizer, whose learning rate it sets. Saved with checkpoints, so that a resumed run
    has the learning rates of an uninterrupted one.

    Arguments
    ---------
    lr_initial : float
        The highest learning rate, at the end of the warm-up.
    n_warmup_steps : int
        Steps of the warm-up.
    n_total_steps : int, optional
        Steps until the lowest learning rate, where it then stays. If it is None, recipes set it from their data.
    lr_final_ratio : float
        The lowest learning rate, relative to the highest.

    Example
    -------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = LinearWarmupCosineScheduler(1.0, n_warmup_steps=2, n_total_steps=6, lr_final_ratio=0.0)
    >>> [round(scheduler(optimizer), 3) for _ in range(7)]
    [0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    def __init__(
        self, lr_initial: float, n_warmup_steps: int, n_total_steps: int | None = None, lr_final_ratio: float = 0.01
    ):
        if n_total_steps is not None and n_total_steps < n_warmup_steps:
            raise ValueError(
                f"n_total_steps is {n_total_steps}, but must not be less than n_warmup_steps, {n_warmup_steps}."
            )
        self.lr_initial = lr_initial
        self.n_warmup_steps = n_warmup_steps
        self.n_total_steps = n_total_steps
        self.lr_final_ratio = lr_final_ratio
        self.n_steps = 0

    def __call__(self, optimizer: torch.optim.Optimizer) -> float:
        """Count a step and set its learning rate.

        Arguments
        ---------
        optimizer : torch.optim.Optimizer
            The optimizer about to step.

        Returns
        -------
        float
            The learning rate.
        """
        self.n_steps += 1
        lr = self.learning_rate(self.n_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        return lr

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1.

        Arguments
        ---------
        step : int
            The step.

        Returns
        -------
        float
            The learning rate.

        Raises
        ------
        ValueError
            When ``n_total_steps`` is not known yet.
        """
        if self.n_total_steps is None:
            raise ValueError("n_total_steps of the scheduler is None: set it before training.")
        if step <= self.n_warmup_steps:
            return self.lr_initial * step / self.n_warmup_steps
        progress = (step - self.n_warmup_steps) / max(1, self.n_total_steps - self.n_warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.lr_initial * (self.lr_final_ratio + (1 - self.lr_final_ratio) * cosine)

    @checkpoints.mark_as_saver
    def save(self, path: str | Path) -> None:
        """Save the number of steps taken."""
        torch.save({"n_steps": self.n_steps}, path)

    @checkpoints.mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool = False) -> None:
        """Load the number of steps taken.

        Raises
        ------
        ValueError
            When the file is of another schedule.
        """
        saved = torch.load(path, weights_only=True)
        if not isinstance(saved, dict) or "n_steps" not in saved:
            there = ", ".join(map(str, saved)) if isinstance(saved, dict) else f"the type {type(saved).__name__}"
            raise ValueError(
                f"'{path}' is of another schedule than {type(self).__name__} ({there} in place of n_steps), as in "
                "checkpoints of other recipes. Turn them into a run of this one with 'speechbrain-mamba "
                "convert-checkpoint', or train from them with --init_from."
            )
        self.n_steps = saved["n_steps"]

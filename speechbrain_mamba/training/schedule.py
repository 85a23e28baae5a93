"""Schedules of the learning rate: how long a run is, and when they are stepped."""

from __future__ import annotations

import logging
from typing import Any

import torch
from speechbrain.nnet.schedulers import NewBobScheduler, ReduceLROnPlateau, update_learning_rate

logger = logging.getLogger(__name__)

_INITIAL = "initial_lr"
"""In the groups of an optimizer, and so in checkpoints: the learning rate that the command asked for."""

_LENGTHS = {"n_total_steps": "n_warmup_steps", "num_training_steps": "num_warmup_steps"}
"""Names of a schedule's length, and of its warm-up: here, and in SpeechBrain."""


def count_steps(batches: int, accumulation: int, epochs: int) -> int:
    """Count the steps of the optimizer in a run.

    An epoch's last batches make no step when they are fewer than the accumulation takes: their gradients are dropped.

    Arguments
    ---------
    batches : int
        Batches in an epoch.
    accumulation : int
        Batches in a step.
    epochs : int
        Epochs of the run.

    Returns
    -------
    int
        The steps.

    Raises
    ------
    ValueError
        When an epoch has no step.

    Example
    -------
    >>> count_steps(batches=7, accumulation=3, epochs=5)
    10
    """
    if batches < accumulation:
        raise ValueError(
            f"An epoch has {batches} batches, but grad_accumulation_factor is {accumulation}: no step would be made. "
            "Set it lower, or the batches smaller."
        )
    return batches // accumulation * epochs


def set_schedule_length(scheduler: Any, steps: int) -> None:
    """Tell a schedule how many steps a run has, unless it knows or has no use for it.

    Arguments
    ---------
    scheduler : object
        A scheduler of :mod:`speechbrain_mamba.nnet.schedulers` or of SpeechBrain. A length that is None is set; one
        that the user has chosen stays.
    steps : int
        Steps of the run. A schedule is at least as long as its warm-up.

    Example
    -------
    >>> from speechbrain.nnet.schedulers import LinearWarmupScheduler
    >>> scheduler = LinearWarmupScheduler(0.1, num_warmup_steps=2, num_training_steps=None)
    >>> set_schedule_length(scheduler, 8)
    >>> scheduler.num_training_steps
    8
    """
    for length, warmup in _LENGTHS.items():
        if getattr(scheduler, length, steps) is None:
            setattr(scheduler, length, max(getattr(scheduler, warmup), steps))


def goes_by_loss(scheduler: Any) -> bool:
    """Whether a schedule is stepped once an epoch, by the loss of the validation, and not before each optimizer step.

    Example
    -------
    >>> goes_by_loss(ReduceLROnPlateau())
    True
    """
    return isinstance(scheduler, (ReduceLROnPlateau, NewBobScheduler))


def step_by_loss(scheduler: Any, optimizer: torch.optim.Optimizer, epoch: int, loss: float) -> None:
    """Set the learning rate of the next epoch, if the schedule goes by the loss. Checkpoints hold both the schedule
    and the optimizer's learning rate.

    Arguments
    ---------
    scheduler : object
        A scheduler of SpeechBrain.
    optimizer : torch.optim.Optimizer
        The optimizer.
    epoch : int
        The epoch that has ended.
    loss : float
        Its loss in validation, the same in all processes.

    Example
    -------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = ReduceLROnPlateau(patience=0, dont_halve_until_epoch=1)
    >>> for epoch, loss in enumerate((2.0, 3.0), start=1):
    ...     step_by_loss(scheduler, optimizer, epoch, loss)
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """
    if not goes_by_loss(scheduler):
        return
    if isinstance(scheduler, ReduceLROnPlateau):
        _, lr = scheduler([optimizer], epoch, loss)
    else:
        _, lr = scheduler(loss)
    update_learning_rate(optimizer, lr)


def take_over_rate(scheduler: Any, optimizer: torch.optim.Optimizer, asked: float) -> None:
    """Train on at another learning rate if the command asks for one, under a schedule that goes by the loss.

    The optimizer has the rate of the checkpoint, which such a schedule may have lowered. It stays if the command asks
    for the same initial rate as the one that saved the checkpoint; another one is set, with a warning, and the schedule
    lowers that.

    Arguments
    ---------
    scheduler : object
        A schedule that goes by the loss.
    optimizer : torch.optim.Optimizer
        The optimizer, after the checkpoint was loaded, if there is one.
    asked : float
        The initial rate of the command.

    Example
    -------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> take_over_rate(ReduceLROnPlateau(), optimizer, 1.0)
    >>> optimizer.param_groups[0]["lr"] = 0.25  # by the schedule
    >>> for asked in (1.0, 0.5):
    ...     take_over_rate(ReduceLROnPlateau(), optimizer, asked)
    ...     print(optimizer.param_groups[0]["lr"])
    0.25
    0.5
    """
    before = {group.setdefault(_INITIAL, asked) for group in optimizer.param_groups}
    if before == {asked}:
        return
    logger.warning(
        "The learning rate is %g from now on: the command asks for it, instead of %s. It was %g in the "
        "checkpoint; the schedule lowers the new one when it is time.",
        asked,
        " and ".join(f"{rate:g}" for rate in sorted(before)),
        optimizer.param_groups[0]["lr"],
    )
    for group in optimizer.param_groups:
        group[_INITIAL] = asked
    update_learning_rate(optimizer, asked)
    if isinstance(scheduler, NewBobScheduler):
        scheduler.hyperparam_value = asked

"""The number of optimizer steps of a run, for schedules that have to know it."""

from __future__ import annotations

from typing import Any

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

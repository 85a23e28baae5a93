"""The average of the weights of the best checkpoints."""

from __future__ import annotations

import torch
from speechbrain.utils.checkpoints import (
    DEFAULT_SAVE_HOOKS,
    Checkpoint,
    Checkpointer,
    average_checkpoints,
    get_default_hook,
)


def best_checkpoints(
    checkpointer: Checkpointer, score: str, count: int, tolerance: float | None = None
) -> list[Checkpoint]:
    """Find the checkpoints to average.

    Arguments
    ---------
    checkpointer : Checkpointer
        Where the checkpoints are.
    score : str
        The score to compare by; lower is better.
    count : int
        The largest number of checkpoints.
    tolerance : float, optional
        How much higher than the best a score may be, as a fraction of it. Checkpoints from early in a short training
        pull the average away from where the later ones agree; 0.25 leaves those out that are 25 % worse than the best.
        By default none is left out.

    Returns
    -------
    list of Checkpoint
        Those with the lowest score, the lowest first; of equal ones the latest first.

    Raises
    ------
    ValueError
        When the tolerance is negative.

    Example
    -------
    >>> checkpointer = Checkpointer(getfixture("tmp_path"), {"layer": torch.nn.Linear(1, 1)})
    >>> for error in (9.0, 4.5, 4.0):
    ...     _ = checkpointer.save_checkpoint(meta={"WER": error})
    >>> [checkpoint.meta["WER"] for checkpoint in best_checkpoints(checkpointer, "WER", 3)]
    [4.0, 4.5, 9.0]
    >>> [checkpoint.meta["WER"] for checkpoint in best_checkpoints(checkpointer, "WER", 3, tolerance=0.25)]
    [4.0, 4.5]
    """
    check_tolerance(tolerance)
    checkpoints = checkpointer.find_checkpoints(min_key=score, max_num_checkpoints=count)
    if tolerance is None or not checkpoints:
        return checkpoints
    lowest = checkpoints[0].meta[score]
    return [checkpoint for checkpoint in checkpoints if checkpoint.meta[score] <= lowest + tolerance * abs(lowest)]


def check_tolerance(tolerance: float | None) -> None:
    """Raise a ValueError for a tolerance of :func:`best_checkpoints` that is negative."""
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"avg_tolerance is {tolerance}, but must be at least 0, or null to leave no checkpoint out.")


def load_average(checkpointer: Checkpointer, checkpoints: list[Checkpoint]) -> None:
    """Load the average of the weights of checkpoints into the modules of a checkpointer.

    Arguments
    ---------
    checkpointer : Checkpointer
        Its modules get the average, save those that save themselves in their own way, such as the statistics of
        SpeechBrain's ``InputNormalization``.
    checkpoints : list of Checkpoint
        The checkpoints.

    Example
    -------
    >>> layer = torch.nn.Linear(1, 1)
    >>> checkpointer = Checkpointer(getfixture("tmp_path"), {"layer": layer})
    >>> for value in (1.0, 2.0):
    ...     _ = torch.nn.init.constant_(layer.weight, value)
    ...     _ = checkpointer.save_checkpoint()
    >>> load_average(checkpointer, checkpointer.list_checkpoints())
    >>> layer.weight.item()
    1.5
    """
    save_module = DEFAULT_SAVE_HOOKS[torch.nn.Module]
    for name, module in checkpointer.recoverables.items():
        if isinstance(module, torch.nn.Module) and get_default_hook(module, DEFAULT_SAVE_HOOKS) is save_module:
            module.load_state_dict(average_checkpoints(checkpoints, recoverable_name=name), strict=True)

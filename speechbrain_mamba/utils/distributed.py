"""Runs of several processes."""

from __future__ import annotations

import torch
from torch import distributed


def any_process(flag: bool, device: str | torch.device) -> bool:
    """Whether a flag is set in any process; all of them have to ask.

    Arguments
    ---------
    flag : bool
        The flag of this process.
    device : str or torch.device
        Where the processes exchange tensors.

    Returns
    -------
    bool
        The same in all processes.

    Example
    -------
    >>> any_process(True, "cpu")
    True
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return flag
    flags = torch.tensor(float(flag), device=device)
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags)


def first_process_value(value: float, device: str | torch.device) -> float:
    """The value of a number in the first process; all of them have to ask.

    Arguments
    ---------
    value : float
        The number in this process.
    device : str or torch.device
        Where the processes exchange tensors.

    Returns
    -------
    float
        The same in all processes.

    Example
    -------
    >>> first_process_value(0.5, "cpu")
    0.5
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    shared = torch.tensor([value], device=device)
    distributed.broadcast(shared, 0)
    return float(shared)


def leave_processes() -> None:
    """Leave the processes that ``ddp_init_group`` of SpeechBrain joined under torchrun; for the end of a script.

    PyTorch asks for it: a process that exits without it may be aborted by threads that still wait for the others.

    Example
    -------
    >>> leave_processes()  # one process has nothing to leave
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()

"""The end of a run of several processes."""

from __future__ import annotations

from torch import distributed


def leave_processes() -> None:
    """Leave the processes that ``ddp_init_group`` of SpeechBrain joined under torchrun; for the end of a script.

    PyTorch asks for it: a process that exits without may be aborted by threads that still wait for the others.

    Example
    -------
    >>> leave_processes()  # of one process there is nothing to leave
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()

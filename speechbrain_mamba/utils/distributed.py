"""The end of a run of several processes."""

from __future__ import annotations

from torch import distributed


def leave_processes() -> None:
    """Leave the processes that ``ddp_init_group`` of SpeechBrain joined under torchrun; for the end of a script.

    Threads that still wait for the others would otherwise now and then abort the process while it exits ("terminate
    called without an active exception"), and torchrun reports a failure of what had come to its end.

    Example
    -------
    >>> leave_processes()  # of one process there is nothing to leave
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()

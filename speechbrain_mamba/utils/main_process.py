"""What the main process does for all others, errors included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from speechbrain.utils.distributed import ddp_broadcast, if_main_process

T = TypeVar("T")


def do_on_main(function: Callable[..., T], *args: Any) -> T:
    """Call a function in the main process only. All processes get its result, or raise its error.

    SpeechBrain's ``run_on_main`` leaves the others waiting when the main process fails.

    Arguments
    ---------
    function : callable
        Its result and its errors can be pickled.
    *args
        Its arguments.

    Returns
    -------
    object
        What it returned in the main process.

    Example
    -------
    >>> do_on_main(max, 1, 2)
    2
    """
    result: Any = None
    error: Exception | None = None
    if if_main_process():
        try:
            result = function(*args)
        except Exception as raised:
            error = raised
    told: Exception | None
    result, told = ddp_broadcast((result, _portable(error)))
    if error is not None:
        raise error
    if told is not None:
        told.from_main = True  # type: ignore[union-attr]
        raise told
    return result


def is_told_by_main(error: BaseException) -> bool:
    """Whether an error happened in the main process, which tells the user, and was only passed on to this one."""
    return bool(getattr(error, "from_main", False))


def _portable(error: Exception | None) -> Exception | None:
    """An error that can be pickled, with its text."""
    if error is None or type(error) in (ValueError, TypeError, RuntimeError):
        return error and type(error)(str(error))
    return OSError(str(error)) if isinstance(error, OSError) else RuntimeError(f"{type(error).__name__}: {error}")

"""Progress of one recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float, "float | None"], None]


@contextmanager
def seconds_bar(description: str, shown: bool = True) -> Iterator[Progress | None]:
    """Show a bar on the terminal: a function of the seconds that are done, and of all, None if nobody knows.

    Arguments
    ---------
    description : str
        What stands before the bar.
    shown : bool
        Whether there is a bar. If not, or if stderr is not a terminal, nothing is shown.

    Example
    -------
    >>> with seconds_bar("Separating", shown=False) as progress:
    ...     print(progress)
    None
    """
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=description, unit="s", disable=None, leave=False) as bar:

        def progress(done: float, total: float | None) -> None:
            bar.total = None if total is None else round(total, 1)
            bar.update(round(done, 1) - bar.n)

        yield progress

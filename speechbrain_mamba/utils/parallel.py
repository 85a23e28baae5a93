"""Work that waits for the disk, by threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 32  # items per thread that are begun before the first result is taken


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], description: str, unit: str
) -> list[Result]:
    """Apply a function that waits for the disk to all items, by threads and with a progress bar.

    The bar shows ``description`` and ``unit``. The results are in the order of the items.

    Example
    -------
    >>> parallel_map(len, ["a", "bc"], "Measuring", "word")
    [1, 2]
    """
    return list(parallel_iter(function, items, len(items), description, unit))


def parallel_iter(
    function: Callable[[Item], Result], items: Iterable[Item], total: int, description: str, unit: str
) -> Iterator[Result]:
    """Like :func:`parallel_map`, but give the results one by one, and take the items only as they are needed, so that
    neither has to fit into memory.

    Example
    -------
    >>> sum(parallel_iter(abs, iter([-1, 2]), 2, "Measuring", "number"))
    3
    """
    threads = min(8, os.cpu_count() or 1)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool, tqdm(total=total, desc=description, unit=unit) as bar:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= _AHEAD * threads:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()
        finally:
            for future in waiting:
                future.cancel()

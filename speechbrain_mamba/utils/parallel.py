"""Work that waits for the disk, by threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(tqdm(pool.map(function, items), total=len(items), desc=description, unit=unit))

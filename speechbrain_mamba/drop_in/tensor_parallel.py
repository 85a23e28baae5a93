"""The names of ``mamba_ssm.distributed`` that copies of ``Mamba2`` import. They can be imported, and refuse to work."""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(
        f"speechbrain_mamba.drop_in does not serve tensor parallelism ({name}): build layers without a process_group."
    )


class ColumnParallelLinear:
    """A layer that is split over processes: refused.

    Example
    -------
    >>> ColumnParallelLinear(8, 8)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    NotImplementedError: speechbrain_mamba.drop_in does not serve tensor parallelism (ColumnParallelLinear): build ...
    """

    def __init__(self, *arguments: Any, **options: Any):
        _refuse(type(self).__name__)


class RowParallelLinear(ColumnParallelLinear):
    """A layer that is split over processes: refused."""


def all_reduce(*arguments: Any, **options: Any) -> NoReturn:
    """A sum over processes: refused."""
    _refuse("all_reduce")


def reduce_scatter(*arguments: Any, **options: Any) -> NoReturn:
    """A sum over processes, of which each keeps a part: refused."""
    _refuse("reduce_scatter")

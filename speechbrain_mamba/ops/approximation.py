"""Whether operations may compute exponentials in a short form, and round what they add up."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_asked: contextvars.ContextVar[bool | None] = contextvars.ContextVar("speechbrain_mamba_approximation", default=None)


@contextlib.contextmanager
def approximate_exponentials(allowed: bool = True) -> Iterator[None]:
    """Allow operations to compute exponentials, and what is made of them, in a short form.

    For models whose weights or activations are rounded to 8 or 16 bits already, which hides the difference: decays are
    those of a rate that is off by at most 6e-4 of itself, steps and SiLU are off by as much, and a GELU around a
    product by half as much of its input. Of two scans that are averaged, the first one's output is rounded to the
    output's type before they are. On a CPU this takes a quarter to a third of the time off a scan. By default bfloat16
    tensors get the short form, others the accuracy of their type. Only the backend ``cpu`` has a short form; others
    compute as before.

    Arguments
    ---------
    allowed : bool
        True for all tensors, False for none.

    Example
    -------
    >>> import torch
    >>> from speechbrain_mamba.ops import selective_scan
    >>> u, delta, A = torch.randn(1, 50, 8), torch.rand(1, 50, 8), -torch.rand(8, 4)
    >>> B, C = torch.randn(2, 1, 50, 4)
    >>> with approximate_exponentials():
    ...     y = selective_scan(u, delta, A, B, C)
    >>> torch.testing.assert_close(y, selective_scan(u, delta, A, B, C), rtol=0.01, atol=0.01)
    """
    token = _asked.set(allowed)
    try:
        yield
    finally:
        _asked.reset(token)


def approximation() -> bool | None:
    """What the innermost :func:`approximate_exponentials` says; None outside of any.

    Example
    -------
    >>> with approximate_exponentials():
    ...     approximation()
    True
    """
    return _asked.get()

"""Other people's Mamba code without a GPU: what it imports of mamba-ssm and causal-conv1d, on our operations.

>>> import torch
>>> import speechbrain_mamba.drop_in
>>> modules = speechbrain_mamba.drop_in.install()
>>> from mamba_ssm import Mamba
>>> Mamba(d_model=8)(torch.randn(2, 10, 8)).shape
torch.Size([2, 10, 8])
>>> speechbrain_mamba.drop_in.uninstall()

Call it before the code is imported, or run a script by ``python -m speechbrain_mamba drop-in SCRIPT``. What is
installed is not touched. ``docs/drop_in.md`` lists what is served.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from speechbrain_mamba.drop_in.finder import install, is_installed, served_modules, uninstall

__all__ = ["install", "installed", "is_installed", "served_modules", "uninstall"]


@contextlib.contextmanager
def installed() -> Iterator[tuple[str, ...]]:
    """Serve inside the context; see :func:`install`. What was served before it still is after it.

    Example
    -------
    >>> with installed():
    ...     from mamba_ssm.modules.mamba_simple import Mamba
    >>> is_installed()
    False
    """
    before = is_installed()
    try:
        yield install()
    finally:
        if not before:
            uninstall()

"""Every private interface of another package that this one touches, each behind a function or class with a public name.

Nothing else in the package reaches into another package's private parts. ``tests/utils/test_compat.py`` has a test for
each that fails, and says which, when the interface moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# ---------------------------------------------------------------------------------------------------- SpeechBrain


def segment(model: Any, x: Tensor) -> tuple[Tensor, int]:
    """Cut (batch, channels, time) into overlapping chunks, as ``Dual_Path_Model`` does.

    Returns
    -------
    chunks : Tensor
        The chunks (batch, channels, chunk size, chunks).
    gap : int
        The frames that were padded.
    """
    return model._Segmentation(x, model.K)


def overlap_add(model: Any, chunks: Tensor, gap: int) -> Tensor:
    """Add the chunks returned by :func:`segment` up to (batch, channels, time), as ``Dual_Path_Model`` does."""
    return model._over_add(chunks, gap)


# ---------------------------------------------------------------------------------------------------- HyperPyYAML

# ---------------------------------------------------------------------------------------------------- PyTorch

# ---------------------------------------------------------------------------------------------------- Triton

# ---------------------------------------------------------------------------------------------------- EnCodec

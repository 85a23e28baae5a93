"""Long sequences in pieces of frames, for inference on a CPU.

A layer that sees all frames needs several times the memory of its input for what is inside it. In pieces it needs that
for one of them only, and what it carries from each to the next.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechbrain_mamba.ops.torch_ops import asks_for_gradient

FRAMES = 2048
"""Of a piece, in all examples together. Matrix products of fewer frames are slower."""
SHORTEST = 4
"""Pieces from which on a sequence is cut."""


def find_pieces(module: nn.Module, x: Tensor, time: int) -> list[slice] | None:
    """The pieces of frames in which a module is to work on a batch.

    Arguments
    ---------
    module : torch.nn.Module
        The module.
    x : Tensor
        Its input, (batch, ...).
    time : int
        Frames.

    Returns
    -------
    list of slice or None
        Consecutive pieces. None where all frames are to be worked on at once: where a gradient is asked for, as it
        needs what is inside the module, in a compiler, on a GPU, and when they are few.

    Example
    -------
    >>> with torch.no_grad():
    ...     len(find_pieces(nn.Linear(3, 3), torch.zeros(2, 10000, 3), 10000))
    10
    >>> find_pieces(nn.Linear(3, 3), torch.zeros(2, 10000, 3), 10000)
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return None  # first of all: what follows would fix the number of frames
    frames = max(FRAMES // max(len(x), 1), 1)
    if time < SHORTEST * frames or x.device.type != "cpu":
        return None
    if asks_for_gradient(x, *module.parameters()):
        return None
    return [slice(start, min(start + frames, time)) for start in range(0, time, frames)]


def lengths_in(piece: slice, lengths: Tensor | None) -> Tensor | None:
    """The valid frames of each example in a piece, from those of the whole.

    Example
    -------
    >>> lengths_in(slice(4, 8), torch.tensor([2, 6, 9]))
    tensor([0, 2, 4])
    """
    return None if lengths is None else (lengths - piece.start).clamp(0, piece.stop - piece.start)

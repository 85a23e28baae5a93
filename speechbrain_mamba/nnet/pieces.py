"""Long sequences in pieces of frames, for inference on a CPU.

A layer that sees all frames needs several times the memory of its input for what is inside it. In pieces it needs that
for one of them only, and what it carries from each to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from speechbrain_mamba.ops.torch_ops import asks_for_gradient

FRAMES = 2048
"""Of a piece, in all examples together. Matrix products of fewer frames are slower."""
SHORTEST = 4
"""Pieces from which on a sequence is cut."""
LARGEST_BATCH = 8
"""Examples that are cut together: with more, pieces would be short, and groups of examples are taken instead."""


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
    if _is_traced():
        return None  # first of all: what follows would fix the number of frames
    frames = max(FRAMES // max(len(x), 1), 1)
    if time < SHORTEST * frames or _needs_all(module, x):
        return None
    return slices(time, frames)


def find_groups(module: nn.Module, x: Tensor, time: int) -> list[slice] | None:
    """The groups of examples in which a module is to work on a large batch, one after another.

    Arguments
    ---------
    module : torch.nn.Module
        The module, in which examples do not meet.
    x : Tensor
        Its input, (batch, ...).
    time : int
        Frames.

    Returns
    -------
    list of slice or None
        Consecutive examples. None for small batches, and where :func:`find_pieces` gives none.

    Example
    -------
    >>> with torch.no_grad():
    ...     find_groups(nn.Linear(3, 3), torch.zeros(40, 500, 3), 500)[:2]
    [slice(0, 4, None), slice(4, 8, None)]
    """
    if _is_traced():
        return None
    if len(x) <= LARGEST_BATCH or len(x) * time < SHORTEST * FRAMES or _needs_all(module, x):
        return None
    return slices(len(x), max(FRAMES // time, 1))


def slices(count: int, size: int) -> list[slice]:
    """Consecutive slices of a size, of which the last one may be shorter.

    Example
    -------
    >>> slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def join_pieces(compute: Callable[[slice], Tensor], pieces: Sequence[slice]) -> Tensor:
    """Join what is computed of pieces of frames. Unlike ``torch.cat`` it keeps one piece at a time beside the whole.

    Arguments
    ---------
    compute : callable
        Gives (batch, frames, ...) of a piece.
    pieces : sequence of slice
        Consecutive frames, from the first one to the last.

    Example
    -------
    >>> x = torch.randn(2, 10, 3)
    >>> torch.equal(join_pieces(lambda piece: x[:, piece].exp(), slices(10, 4)), x.exp())
    True
    """
    y = compute(pieces[0])
    whole = y.new_empty(y.shape[0], pieces[-1].stop, *y.shape[2:])
    whole[:, pieces[0]] = y
    for piece in pieces[1:]:
        whole[:, piece] = compute(piece)
    return whole


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


def _needs_all(module: nn.Module, x: Tensor) -> bool:
    return x.device.type != "cpu" or asks_for_gradient(x, *module.parameters())


def lengths_in(piece: slice, lengths: Tensor | None) -> Tensor | None:
    """The valid frames of each example in a piece, from those of the whole.

    Example
    -------
    >>> lengths_in(slice(4, 8), torch.tensor([2, 6, 9]))
    tensor([0, 2, 4])
    """
    return None if lengths is None else (lengths - piece.start).clamp(0, piece.stop - piece.start)

"""What a layer makes of its parameters once, for many steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.utils._compat import ParameterMark, are_marked, mark_parameters


class KeptForSteps:
    """Something that is made of the parameters of a layer, kept from step to step.

    It is made again when a parameter was replaced or changed, as far as torch counts changes. It does not count those
    by fused optimizers and through ``.data``: so a layer also forgets it with every new sequence. Copies and pickles of
    the layer start empty.

    Example
    -------
    >>> layer, kept = nn.Linear(2, 2), KeptForSteps()
    >>> with torch.no_grad():
    ...     total = kept.get(layer, lambda: layer.weight.sum())
    ...     same = kept.get(layer, lambda: layer.weight.sum())
    ...     _ = layer.weight.zero_()
    ...     changed = kept.get(layer, lambda: layer.weight.sum())
    >>> same is total, changed
    (True, tensor(0.))
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what is kept."""
        self._made: Any = None
        self._marks: list[ParameterMark] = []

    def get(self, layer: nn.Module, make: Callable[[], Any], without: tuple[nn.Module, ...] = ()) -> Any:
        """What ``make()`` returns, which depends on the parameters of the layer but those of modules ``without``;
        None where it cannot be kept: where gradients may be asked for, and in calls that torch compiles or
        transforms."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None
        if self._made is None or not are_marked(self._marks):
            marks = mark_parameters(layer, without)
            if marks is None or type(torch.empty(0)) is not Tensor:  # a mode makes stand-ins
                return None
            self._marks, self._made = marks, make()
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return KeptForSteps().__dict__

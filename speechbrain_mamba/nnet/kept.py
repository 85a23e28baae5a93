"""What a layer makes of its parameters once, for many steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.utils._compat import Marks

Modules = tuple[nn.Module, ...]


class KeptForSteps:
    """Things that are made of the parameters of modules, kept from step to step.

    Each is made again when a module inside or a parameter was replaced or changed, as far as torch counts changes. It
    does not count those by fused optimizers and through ``.data``: so a layer also forgets all with every new sequence.
    Copies and pickles of the layer start empty.

    Example
    -------
    >>> layer, kept = nn.Linear(2, 2), KeptForSteps()
    >>> with torch.no_grad():
    ...     total = kept.get((layer,), lambda: layer.weight.sum())
    ...     same = kept.get((layer,), lambda: layer.weight.sum())
    ...     _ = layer.weight.zero_()
    ...     changed = kept.get((layer,), lambda: layer.weight.sum())
    >>> same is total, changed
    (True, tensor(0.))
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what is kept."""
        self._made: dict[tuple[Modules, Modules], tuple[Marks, Any]] = {}

    def get(self, modules: Modules, make: Callable[[], Any], without: Modules = ()) -> Any:
        """What ``make()`` returns, which depends on the parameters of the modules but those of modules ``without``;
        None where it cannot be kept: where gradients may be asked for, where modules have hooks, and in calls that
        torch compiles or transforms."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None
        key = (modules, without)
        marks, made = self._made.get(key, (None, None))
        if marks is None or not marks.hold():
            try:
                marks = Marks(modules, without)
            except ValueError:
                return None
            if not marks.hold() or type(torch.empty(0)) is not Tensor:  # there are hooks, or a mode makes stand-ins
                return None
            made = make()
            self._made[key] = marks, made
        return made

    def __getstate__(self) -> dict[str, Any]:
        return KeptForSteps().__dict__

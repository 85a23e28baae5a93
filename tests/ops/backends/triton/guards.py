"""Memory with guards: what is written past the end of a tensor, or before its beginning, is seen."""

from __future__ import annotations

import torch

_SENTINEL, _GUARD = 0x5A, 1 << 12


class GuardedMemory:
    """New memory lies between guards; :meth:`check` asserts that they are whole.

    Functions are replaced, as modes of torch do not reach inside an operation.
    """

    def __init__(self, monkeypatch):
        self.guarded: list[torch.Tensor] = []
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"),
                            (torch.Tensor, "new_empty_strided")):  # fmt: skip
            monkeypatch.setattr(owner, name, self._guarding(getattr(owner, name)))

    def _guarding(self, function):
        def guarding(*args, **kwargs):
            new = function(*args, **kwargs)
            size = new.untyped_storage().nbytes()
            if size == 0:
                return new
            memory = torch.full((size + 2 * _GUARD,), _SENTINEL, dtype=torch.uint8, device=new.device)
            self.guarded.append(memory)
            own = memory[_GUARD : _GUARD + size].view(new.dtype)
            return own.as_strided(new.shape, new.stride(), own.storage_offset())

        return guarding

    def check(self) -> None:
        """Assert that nothing was written outside the tensors."""
        assert len(self.guarded) > 3
        for memory in self.guarded:
            assert (memory[:_GUARD] == _SENTINEL).all(), "written before a tensor"
            assert (memory[-_GUARD:] == _SENTINEL).all(), "written behind a tensor"

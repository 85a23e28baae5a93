"""Memory and launches of a layer on the Triton backend, by account: no GPU is needed.

Tensors without memory go through the operations of a bidirectional layer, whose kernels are not launched. What is
allocated at the same time is added up, as PyTorch's allocator would hold it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from triton.runtime.jit import JITFunction

from speechbrain_mamba.ops import Direction, SsdInputs
from speechbrain_mamba.ops.backends.triton.layer_launch import layer_backward, layer_forward
from speechbrain_mamba.ops.backends.triton.ssd_launch import ssd_backward, ssd_forward
from speechbrain_mamba.ops.kernel_backend import LayerShared, SsdShared
from speechbrain_mamba.utils._compat import fake_tensors, watch_operations


class AllocatedMemory:
    """Adds up the memory of tensors that the operations that it sees make, and keeps the peak.

    It also lists what would be launched: kernels, and operations that neither make views nor only allocate.
    """

    def __init__(self):
        self.now = self.peak = 0
        self.launched: list[str] = []
        self.active = False
        self._known = weakref.WeakSet()

    def ignore(self, *tensors: torch.Tensor | None) -> None:
        """Leave out tensors that were there before."""
        for tensor in tensors:
            if tensor is not None:
                self._known.add(tensor.untyped_storage())

    def _free(self, size: int) -> None:
        self.now -= size

    def _count(self, schema, returned) -> None:
        """List an operation that launches something."""
        views = any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        allocates = schema.name.startswith(("prim::", "aten::empty", "aten::new_empty", "aten::_unsafe_view"))
        # On a GPU a product of half-precision factors comes out in float32.
        converts = (
            schema.name == "aten::_to_copy" and self.launched[-1:] == ["aten::bmm"] and returned.dtype == torch.float32
        )
        if not (views or allocates or converts):
            self.launched.append(schema.name)

    def see(self, schema, returned) -> None:
        """Take account of an operation."""
        self._count(schema, returned)
        for tensor in returned if isinstance(returned, (tuple, list)) else [returned]:
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                size = -(-storage.nbytes() // 512) * 512
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, size)


class Account(NamedTuple):
    """What a layer's forward and backward pass allocate and launch, bytes of its input and of what it keeps."""

    forward: AllocatedMemory
    backward: AllocatedMemory
    input: int
    kept: int


def layer_tensors(
    batch: int, time: int, channels: int, states: int = 16, dtype: torch.dtype = torch.bfloat16, lengths: bool = True
) -> tuple[list[Direction], LayerShared]:
    """The arguments of a bidirectional layer, all zero; only a batch's lengths are all of its time."""
    rank, d_model = channels // 32, channels // 2

    def direction() -> Direction:
        sizes = (
            (channels, 4), (channels,), (rank + 2 * states, channels), (channels, rank), (channels,),
            (channels, states), (channels,),
        )  # fmt: skip
        return Direction(*(torch.zeros(size) for size in sizes))

    return [direction(), direction()], LayerShared(
        torch.zeros(batch, time, 2 * channels, dtype=dtype), torch.zeros(d_model, channels), None,
        torch.full((batch,), time) if lengths else None,
    )  # fmt: skip


def account_layer(
    batch: int, time: int, channels: int, states: int = 16, dtype: torch.dtype = torch.bfloat16, lengths: bool = True,
    frozen: bool = False,
) -> Account:  # fmt: skip
    """Account for a training step of a bidirectional layer; of a ``frozen`` one only the input has a gradient."""

    def backward(directions: Sequence[Direction], shared: LayerShared, kept: torch.Tensor, doutput: torch.Tensor):
        needs = [Direction(*(not frozen,) * 7)] * 2, LayerShared(True, not frozen, False, False)  # type: ignore[arg-type]
        return layer_backward(directions, shared, kept, doutput, needs=needs)

    make = partial(layer_tensors, batch, time, channels, states, dtype, lengths)
    size = batch * time * 2 * channels * dtype.itemsize
    return _account(make, lambda *inputs: layer_forward(*inputs, True), backward, size)


def account_ssd(
    batch: int, time: int, heads: int, channels: int, states: int, dtype: torch.dtype = torch.bfloat16,
    directions: int = 1, gated: bool = True,
) -> Account:  # fmt: skip
    """Account for a training step of the scan of Mamba-2 in one or two directions, with lengths and one group of B and
    C; the unit is all its inputs over time."""
    no_limit = (0.0, float("inf"))

    def one() -> SsdInputs:
        x = torch.empty(batch, time, heads, channels, dtype=dtype)
        delta, B, C = (torch.empty(batch, time, *s, dtype=dtype) for s in ((heads,), (1, states), (1, states)))
        return SsdInputs(x, delta, torch.empty(heads), B, C, torch.empty(heads), torch.empty(heads))

    def make() -> tuple:
        z = torch.empty(batch, time, heads, channels, dtype=dtype) if gated else None
        return [one() for _ in range(directions)], SsdShared(z, None, torch.empty(batch, dtype=torch.long))

    def forward(directions: Sequence[SsdInputs], shared: SsdShared) -> tuple[torch.Tensor, torch.Tensor]:
        y, _ = ssd_forward(directions, shared, True, False, *no_limit, False)
        return y, y.new_empty(0)

    def backward(directions: Sequence[SsdInputs], shared: SsdShared, kept: torch.Tensor, dy: torch.Tensor):
        needs = [SsdInputs(*(True,) * 7)] * len(directions), SsdShared(gated, False, False)  # type: ignore[arg-type]
        return ssd_backward(directions, shared, dy, None, True, False, *no_limit, needs=needs)

    inputs = directions * (heads * channels + heads + 2 * states) + gated * heads * channels
    size = batch * time * inputs * dtype.itemsize
    return _account(make, forward, backward, size)


def _account(make: Callable, run_forward: Callable, run_backward: Callable, size: int) -> Account:
    """Account for the passes of an operation, from the directions and shared tensors that ``make`` makes."""
    passes = AllocatedMemory(), AllocatedMemory()
    forward, backward = passes

    def count(kernel, *arguments, **options):
        passes[backward.active].launched.append(kernel.fn.__name__)

    run, JITFunction.run = JITFunction.run, count
    try:
        with fake_tensors(), torch.no_grad():
            directions, shared = make()
            forward.ignore(*shared, *(t for d in directions for t in d))
            with watch_operations(forward.see):
                output, kept = run_forward(directions, shared)
            doutput = torch.empty_like(output)
            with watch_operations(backward.see):
                backward.active = True
                backward.ignore(doutput, kept, *shared, *(t for d in directions for t in d))
                gradients = run_backward(directions, shared, kept, doutput)
            del gradients
    finally:
        JITFunction.run = run
    return Account(forward, backward, size, kept.numel() * 4)

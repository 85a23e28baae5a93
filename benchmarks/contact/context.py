"""What the steps of a first contact share: device and backend, the list of steps, and how errors are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechbrain_mamba.ops import use_backend

ALLOWED = {torch.float32: 5e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Error relative to a tensor's largest value; it leaves room for TF32."""
SUMS = 3
"""Factor on that for gradients of parameters, whose terms may cancel."""


class Skip(Exception):
    """A step that cannot be done on this machine, with the reason."""


class Context(NamedTuple):
    """Where the steps run."""

    device: torch.device
    """The device."""
    backend: str
    """The backend that is tried."""
    folder: Path
    """Where the results go."""

    @property
    def is_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    def need_gpu(self) -> None:
        """Skip the step on a machine without a GPU."""
        if not self.is_gpu:
            raise Skip("needs a CUDA GPU")


class Step(NamedTuple):
    """One step of a first contact."""

    name: str
    """Its name."""
    run: Callable[[Context], dict[str, Any] | None]
    """Does it; returns what is worth to keep, raises an error if something is wrong, or Skip."""
    seconds: int
    """How long it may take."""


STEPS: dict[str, Step] = {}
"""All steps by name, in order."""


def step(name: str, seconds: int = 60) -> Callable:
    """Register a function as a step."""

    def register(function: Callable) -> Callable:
        STEPS[name] = Step(name, function, seconds)
        return function

    return register


def results_of(
    module: torch.nn.Module, x: Tensor, lengths: Tensor | None, backend: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Output of a layer and the gradients of its input and parameters, under autocast for half precision."""
    x = x.detach().requires_grad_()
    half = dtype in (torch.bfloat16, torch.float16)
    with use_backend(backend), torch.autocast(x.device.type, dtype=dtype, enabled=half):
        y = module(x, lengths)
    weights = ((torch.arange(y.numel(), device=y.device) % 17 - 8) / 8).reshape(y.shape).to(y.dtype)
    names = [name for name, _ in module.named_parameters()]
    gradients = torch.autograd.grad(y, [x, *module.parameters()], weights)
    return {"output": y.detach(), "gradient of x": gradients[0], **dict(zip(names, gradients[1:]))}


def largest_error(found: dict[str, Tensor], right: dict[str, Tensor], dtype: torch.dtype) -> tuple[float, str]:
    """The largest error relative to what is allowed, and the tensor that has it; raises a ValueError for 1 or more."""
    worst, name = 0.0, ""
    for key, expected in right.items():
        got, expected = found[key].double().cpu(), expected.double().cpu()
        if not got.isfinite().all():
            raise ValueError(f"{key} is not finite.")
        error = (got - expected).abs().max().item() / max(expected.abs().max().item(), 1e-30)
        error /= ALLOWED[dtype] * (1 if key in ("output", "gradient of x") else SUMS)
        worst, name = max((worst, name), (error, key))
    if worst >= 1:
        raise ValueError(f"{name} is off by {worst:.2g} times what is allowed.")
    return worst, name

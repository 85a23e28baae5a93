"""How kernels become torch operations: schema, implementation, shapes for compilation, gradient.

Like the operations of the backend ``cpu``, these avoid ``torch.library.register_autograd``, which spends 0.15 ms of
each call on looking its schema up: more than the kernels take.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

NAMESPACE = "speechbrain_mamba_triton"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
KERNELS = torch.ops.speechbrain_mamba_triton

_functions: dict[str, type[torch.autograd.Function]] = {}


def asks_for_gradient(*arguments) -> bool:
    """Whether autograd will ask for the gradient of any argument."""
    return torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in arguments)


def register(name: str, schema: str, implementation: Callable, fake: Callable) -> None:
    """Define an operation that autograd does not see through.

    Arguments
    ---------
    name : str
        Its name in ``torch.ops.speechbrain_mamba_triton``.
    schema : str
        Its arguments and outputs, in torch's notation.
    implementation : callable
        The operation; on CPU tensors too, which are all that Triton's interpreter has.
    fake : callable
        The same arguments to empty outputs of the right shapes.
    """
    LIBRARY.define(f"{name}{schema}")
    for device in ("CUDA", "CPU"):
        LIBRARY.impl(name, implementation, device)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)


def call(name: str, *arguments):
    """Call an operation by name; where a gradient is wanted, its autograd function is applied right here, for
    transformations like ``torch.func.grad`` know such a function, but not one inside an operation."""
    if not torch.compiler.is_compiling() and asks_for_gradient(*arguments):
        return _functions[name].apply(*arguments)
    return getattr(KERNELS, name)(*arguments)


def register_gradient(name: str, setup_context: Callable, backward: Callable) -> None:
    """Give an operation its gradient; the arguments are those of a ``torch.autograd.Function``."""
    operation = getattr(KERNELS, name).default

    def below_autograd(*arguments):
        with torch._C._AutoDispatchBelowAutograd():
            outputs = operation(*arguments)
        return tuple(outputs) if isinstance(outputs, list) else outputs

    function = type(
        f"{name}_function",
        (torch.autograd.Function,),
        {
            "forward": staticmethod(below_autograd),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(backward),
        },
    )
    _functions[name] = function

    def implementation(*arguments):
        return function.apply(*arguments) if asks_for_gradient(*arguments) else below_autograd(*arguments)

    LIBRARY.impl(name, implementation, "Autograd")


def forbid_gradient(name: str) -> None:
    """Let an operation refuse to be differentiated, rather than silently cut the graph."""

    def backward(ctx, *gradients):
        raise NotImplementedError(
            "The backend 'triton' has first derivatives only: compute second ones inside use_backend('reference')."
        )

    register_gradient(name, lambda ctx, inputs, output: None, backward)

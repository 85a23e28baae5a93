"""How a backend's kernels become torch operations: schema, implementation, shapes for compilation, gradient.

``torch.library.register_autograd`` would do the same in one line, but spends 0.15 ms of each call on looking its schema
up: more than the kernels take on short inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def asks_for_gradient(*arguments) -> bool:
    """Whether autograd will ask for the gradient of any argument."""
    return torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in arguments)


class Operations:
    """The operations of one backend, in the namespace ``torch.ops.speechbrain_mamba_<backend>``.

    Arguments
    ---------
    backend : str
        Its name.
    devices : tuple of str
        Torch's dispatch keys of the devices that its kernels take.

    Example
    -------
    >>> operations = Operations("example", ("CPU",))
    >>> operations.register("double", "(Tensor x) -> Tensor", lambda x: 2 * x, torch.empty_like)
    >>> operations.forbid_gradient("double")
    >>> operations.call("double", torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(self, backend: str, devices: tuple[str, ...]):
        self.backend, self.devices = backend, devices
        self.namespace = f"speechbrain_mamba_{backend}"
        self.library = torch.library.Library(self.namespace, "DEF")
        self.kernels = getattr(torch.ops, self.namespace)
        self._functions: dict[str, type[torch.autograd.Function]] = {}

    def register(self, name: str, schema: str, implementation: Callable, fake: Callable) -> None:
        """Define an operation that autograd does not see through.

        Arguments
        ---------
        name : str
            Its name in the namespace.
        schema : str
            Its arguments and outputs, in torch's notation.
        implementation : callable
            The operation.
        fake : callable
            The same arguments to empty outputs of the right shapes.
        """
        self.library.define(f"{name}{schema}")
        for device in self.devices:
            self.library.impl(name, implementation, device)
        torch.library.register_fake(f"{self.namespace}::{name}", fake, lib=self.library)

    def call(self, name: str, *arguments):
        """Call an operation by name.

        Where a gradient is wanted, its autograd function is applied right here: transformations like
        ``torch.func.grad`` know such functions, but not one inside an operation. A compiler has to see the operation as
        a whole.
        """
        if not torch.compiler.is_compiling() and asks_for_gradient(*arguments):
            return self._functions[name].apply(*arguments)
        return getattr(self.kernels, name)(*arguments)

    def register_gradient(self, name: str, setup_context: Callable, backward: Callable) -> None:
        """Give an operation its gradient; the arguments are those of a ``torch.autograd.Function``."""
        operation = getattr(self.kernels, name).default

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
        self._functions[name] = function

        def implementation(*arguments):
            return function.apply(*arguments) if asks_for_gradient(*arguments) else below_autograd(*arguments)

        self.library.impl(name, implementation, "Autograd")

    def forbid_gradient(self, name: str) -> None:
        """Let an operation refuse to be differentiated, rather than silently cut the graph."""

        def backward(ctx, *gradients):
            raise NotImplementedError(
                f"The backend '{self.backend}' has first derivatives only: compute second ones inside "
                "use_backend('reference')."
            )

        self.register_gradient(name, lambda ctx, inputs, output: None, backward)

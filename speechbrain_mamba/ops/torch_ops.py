"""How kernels become torch operations: schema, implementation, shapes for compilation, gradient.

``torch.library.register_autograd`` would do the same in one line, but spends 0.15 ms of each call on looking its schema
up: more than the kernels take on short inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from speechbrain_mamba.utils._compat import below_autograd


def asks_for_gradient(*arguments: Any) -> bool:
    """Whether autograd will ask for the gradient of any argument. Not while a program is exported: the memory kept for
    it depends on the number of frames, which has to stay open. The backward pass then computes it again."""
    if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():  # torch.compile says yes to both
        return False
    return torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)


class Layout:
    """The order of a call's tensors in an operation's flat schema: those of each direction of time, then shared ones.

    Arguments
    ---------
    direction : type
        Named tuple of the tensors of one direction. A call has one or two; the names of the second end in ``_b``.
    shared : type
        Named tuple of the tensors that both directions share.

    Example
    -------
    >>> from typing import NamedTuple
    >>> from speechbrain_mamba.ops.directions import Filters
    >>> Shared = NamedTuple("Shared", [("x", Tensor)])
    >>> layout = Layout(Filters, Shared)
    >>> layout.schema
    'Tensor weight, Tensor? bias, Tensor? weight_b, Tensor? bias_b, Tensor x'
    >>> [direction], shared = layout.unflatten((torch.ones(1), None, None, None, torch.zeros(1)))
    >>> direction.weight, shared.x
    (tensor([1.]), tensor([0.]))
    """

    def __init__(self, direction: Any, shared: Any):
        self.direction, self.shared = direction, shared
        self.count = len(direction._fields)
        self.size = 2 * self.count + len(shared._fields)
        types = [*_schema(direction), *(f"Tensor? {name}_b" for name in direction._fields), *_schema(shared)]
        self.schema = ", ".join(types)

    def flatten(self, directions: Sequence[tuple], shared: tuple) -> tuple[Tensor | None, ...]:
        """The tensors in order."""
        second = directions[1] if len(directions) == 2 else (None,) * self.count
        return (*directions[0], *second, *shared)

    def unflatten(self, tensors: Sequence[Any]) -> tuple[list[Any], Any]:
        """The tensors of each direction, and the shared ones; arguments of other kinds may follow."""
        return self.unflatten_like(tensors, tensors)

    def unflatten_like(self, tensors: Sequence[Any], values: Sequence[Any]) -> tuple[list[Any], Any]:
        """Values of a call's tensors in the same two parts."""
        count = self.count
        directions = [self.direction(*values[:count])]
        if tensors[count] is not None:
            directions.append(self.direction(*values[count : 2 * count]))
        return directions, self.shared(*values[2 * count : self.size])


def _schema(fields: Any) -> list[str]:
    hints = get_type_hints(fields)
    return [f"{'Tensor?' if type(None) in get_args(hint) else 'Tensor'} {name}" for name, hint in hints.items()]


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
        self.operators: dict[str, Any] = {}
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
        self.operators[name] = getattr(getattr(torch.ops, self.namespace), name).default

    def call(self, name: str, *arguments: Any) -> Any:
        """Call an operation by name.

        Where a gradient is wanted, its autograd function is applied right here: transformations like
        ``torch.func.grad`` know such functions, but not one inside an operation. A compiler has to see the operation as
        a whole.
        """
        if torch.compiler.is_compiling():
            return self.operators[name](*arguments)
        if asks_for_gradient(*arguments):
            return self._functions[name].apply(*arguments)
        with below_autograd():  # which would ask the same again
            return self.operators[name](*arguments)

    def register_gradient(self, name: str, setup_context: Callable, backward: Callable) -> None:
        """Give an operation its gradient; the arguments are those of a ``torch.autograd.Function``."""
        operator = self.operators[name]

        def without_autograd(*arguments: Any) -> Any:
            with below_autograd():
                outputs = operator(*arguments)
            return tuple(outputs) if isinstance(outputs, list) else outputs

        # Autograd asks for it in every call, and it takes longer to find out than a kernel on a short input.
        without_autograd.__signature__ = inspect.signature(without_autograd)  # type: ignore[attr-defined]
        methods = {"forward": without_autograd, "setup_context": setup_context, "backward": backward}
        function: Any = type(
            f"{name}_function",
            (torch.autograd.Function,),
            {key: staticmethod(method) for key, method in methods.items()},
        )
        self._functions[name] = function

        def implementation(*arguments: Any) -> Any:
            return function.apply(*arguments) if asks_for_gradient(*arguments) else without_autograd(*arguments)

        self.library.impl(name, implementation, "Autograd")

    def forbid_gradient(self, name: str) -> None:
        """Let an operation refuse to be differentiated, rather than silently cut the graph."""

        def backward(ctx: Any, *gradients: Tensor | None) -> None:
            raise NotImplementedError(
                f"The backend '{self.backend}' has first derivatives only: compute second ones inside "
                "use_backend('reference')."
            )

        self.register_gradient(name, lambda ctx, inputs, output: None, backward)

    def register_differentiable(
        self,
        name: str,
        layout: Layout,
        outputs: int,
        forward: Callable,
        fake: Callable,
        backward: Callable,
        flags: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> None:
        """Define an operation ``name`` and its gradient, an operation ``<name>_backward``.

        Arguments
        ---------
        name : str
            Its name in the namespace.
        layout : Layout
            Its tensors.
        outputs : int
            The number of its outputs. With an option ``keep``, one more follows: what the backward pass needs of the
            forward pass, empty unless ``keep`` is true.
        forward : callable
            From the tensors as :meth:`Layout.unflatten` returns them, flags and options to the outputs.
        fake : callable
            The same to empty outputs.
        backward : callable
            From such tensors, with ``keep`` that last output, the outputs' gradients or None, and flags to gradients in
            the same two parts; ``needs`` says in two such parts of which tensors they are needed, and others are
            dropped.
        flags : tuple of str
            What forward and backward pass take beside tensors: booleans, or with its type in front, as ``int chunk``.
        options : tuple of str
            Booleans that only the forward pass takes; ``keep`` is the last.
        """
        size, keeps = layout.size, "keep" in options

        def run(function: Callable) -> Callable:
            return lambda *arguments: function(*layout.unflatten(arguments), *arguments[size:])

        def run_backward(*arguments: Any) -> list[Tensor]:
            *given, needed = arguments
            tensors, needs = given[:size], layout.unflatten_like(given, needed)
            gradients = layout.flatten(*backward(*layout.unflatten(tensors), *given[size:], needs=needs))
            found = zip(tensors, gradients, needed)
            return [gradient.to(t.dtype).contiguous() for t, gradient, need in found if need and gradient is not None]

        def fake_backward(*arguments: Any) -> list[Tensor]:
            return [t.new_empty(t.shape) for t, need in zip(arguments[:size], arguments[-1]) if need]

        def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
            ctx.save_for_backward(*inputs[:size], *output[outputs:])
            ctx.flags, ctx.options = inputs[size : size + len(flags)], inputs[size + len(flags) :]
            ctx.set_materialize_grads(False)

        def differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            saved = ctx.saved_tensors  # which may be asked for once
            tensors, kept = saved[:size], saved[size:]
            nothing = (None,) * (len(flags) + len(options))
            if all(gradient is None for gradient in gradients):
                return (None,) * size + nothing
            if keeps and not ctx.options[-1]:  # the forward pass was not told that gradients would be asked for
                kept = self.call(name, *tensors, *ctx.flags, *(False for _ in options[:-1]), True)[outputs:]
            needed = [_has_gradient(t) and need for t, need in zip(tensors, ctx.needs_input_grad)]
            found = iter(self.call(f"{name}_backward", *tensors, *kept, *gradients[:outputs], *ctx.flags, needed))
            return (*(next(found) if need else None for need in needed), *nothing)

        typed = [flag if " " in flag else f"bool {flag}" for flag in flags]
        given = ", ".join([layout.schema, *typed, *(f"bool {option}" for option in options)])
        returned = ", ".join(["Tensor"] * (outputs + keeps))
        self.register(name, f"({given}) -> ({returned})", run(forward), run(fake))
        gradients = [f"Tensor? gradient{i}" for i in range(outputs)]
        given = ", ".join([layout.schema, *["Tensor kept"] * keeps, *gradients, *typed, "bool[] needed"])
        self.register(f"{name}_backward", f"({given}) -> Tensor[]", run_backward, fake_backward)
        self.register_gradient(name, setup_context, differentiate)
        self.forbid_gradient(f"{name}_backward")


def _has_gradient(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point()

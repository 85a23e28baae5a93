"""A program: a module with its example inputs, and the names of what goes in and comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Axes = dict[int, str]
"""The axes of a tensor that have any size, and their names."""

EXAMPLE_SECONDS = 0.6
"""Length of the recording that programs are traced with."""
BATCH = {0: "batch"}


@dataclass
class Program:
    """One program of a deployed model."""

    name: str
    """Also the name of its file."""
    module: nn.Module
    inputs: dict[str, Tensor]
    """Example inputs by name."""
    axes: dict[str, Axes]
    """Of inputs and outputs."""
    outputs: list[str]
    states: dict[str, Tensor] = field(default_factory=dict)
    """Example states by name; the outputs ``next_NAME`` are those after the program."""
    state_axes: dict[str, Axes] = field(default_factory=dict)
    """Of states; the batch alone where they are not listed."""
    makes_states: bool = False
    """Whether the states come out only, for another program."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What ``deployed.json`` says beside inputs and outputs."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The example arguments of the module."""
        return (*self.inputs.values(), *([list(self.states.values())] if self.takes_states else []))

    @property
    def takes_states(self) -> bool:
        """Whether states go in."""
        return bool(self.states) and not self.makes_states

    @property
    def dynamic_shapes(self) -> tuple[Any, ...]:
        """The open axes of the arguments, as ``torch.export`` takes them."""

        def free(axes: Axes) -> dict[int, Any]:
            return {axis: torch.export.Dim.DYNAMIC for axis in axes}

        states = [free(self.state_axes.get(name, BATCH)) for name in self.states]
        return (*(free(self.axes.get(name, {})) for name in self.inputs), *([states] if self.takes_states else []))

    @property
    def input_names(self) -> list[str]:
        """Of all inputs, states included."""
        return [*self.inputs, *(self.states if self.takes_states else ())]

    @property
    def output_names(self) -> list[str]:
        """Of all outputs, states included."""
        return [*self.outputs, *(name if self.makes_states else f"next_{name}" for name in self.states)]

    def run(self, *inputs: Tensor, states: Sequence[Tensor] = ()) -> list[Tensor]:
        """Run the module that is not exported: all outputs in order."""
        with torch.no_grad():
            outputs = self.module(*inputs, *([list(states)] if self.takes_states else []))
        return list(flat(outputs))

    def describe(self, file: str) -> dict[str, Any]:
        """What ``deployed.json`` says of the program in a file."""

        def entry(value: Tensor, axes: Axes) -> dict[str, Any]:
            shape = [axes.get(axis, size) for axis, size in enumerate(value.shape)]
            return {"type": str(value.dtype).removeprefix("torch."), "shape": shape}

        inputs = {name: entry(value, self.axes.get(name, {})) for name, value in self.inputs.items()}
        states = {name: entry(value, self.state_axes.get(name, BATCH)) for name, value in self.states.items()}
        described = {"name": self.name, "file": file, "inputs": inputs, "outputs": self.outputs, **self.facts}
        return described | ({"makes_states" if self.makes_states else "states": states} if states else {})


@dataclass
class Deployed:
    """A model as programs."""

    kind: str
    programs: list[Program]
    facts: dict[str, Any]
    """What ``deployed.json`` says of the model."""

    def __getitem__(self, name: str) -> Program:
        return next(program for program in self.programs if program.name == name)


def flat(values: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts, in order; whatever else is there is left out."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from flat(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from flat(value)


def name_states(state: Any, prefix: str = "state") -> dict[str, Tensor]:
    """The tensors of a nested state by name, in the order of :func:`flat`.

    Example
    -------
    >>> list(name_states(({"conv": torch.zeros(1), "ssm": torch.zeros(1)}, None)))
    ['state_0_conv', 'state_0_ssm']
    """
    if isinstance(state, Tensor):
        return {prefix: state}
    parts: Any = state.items() if isinstance(state, Mapping) else ()
    if isinstance(state, (list, tuple)):
        parts = enumerate(state)
    return {name: value for key, part in parts for name, value in name_states(part, f"{prefix}_{key}").items()}


def fill_state(template: Any, tensors: Iterator[Tensor]) -> Any:
    """A nested state like a template, with other tensors in the order of :func:`flat`.

    The number of frames in a growing cache follows from its keys.
    """
    if isinstance(template, Tensor):
        return next(tensors)
    if isinstance(template, Mapping):
        state = {key: fill_state(value, tensors) for key, value in template.items()}
        return state | ({"used": state["key"].shape[2]} if "used" in state else {})
    if isinstance(template, (list, tuple)):
        return type(template)(fill_state(value, tensors) for value in template)
    return template


def drop_room(state: Any) -> Any:
    """A nested state without the room for frames to come in its growing caches, so that it has the shapes that the
    exported program gives.

    Example
    -------
    >>> cache = {"key": torch.zeros(1, 2, 9, 4), "value": torch.zeros(1, 2, 9, 4), "valid": torch.ones(1, 9), "used": 3}
    >>> [value.shape[-2:] for value in name_states(drop_room([cache])).values()]
    [torch.Size([3, 4]), torch.Size([3, 4]), torch.Size([1, 3])]
    """
    if isinstance(state, Mapping):
        if "used" not in state:
            return {key: drop_room(value) for key, value in state.items()}
        used = state["used"]
        caches = {name: state[name][:, :, :used] for name in ("key", "value")}
        return {**state, **caches, "valid": state["valid"][:, :used]}
    return type(state)(drop_room(value) for value in state) if isinstance(state, (list, tuple)) else state


def find_axes(states: Mapping[str, Tensor], others: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Axes]:
    """The open axes of states: those that differ from states of ``others``, where one thing, the name, is larger."""
    return {
        name: {
            axis: which
            for which, other in others.items()
            for axis, size in enumerate(value.shape)
            if other[name].shape[axis] != size
        }
        for name, value in states.items()
    }

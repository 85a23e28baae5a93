"""Sizes of the Triton kernels that a step changes for a while."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any


def sized(name: str) -> tuple[ModuleType, str]:
    """The module of the backend, and the attribute in it, of a size such as ``plan.SHORTEST_CHUNK``."""
    module, attribute = name.split(".")
    return importlib.import_module(f"speechbrain_mamba.ops.backends.triton.{module}"), attribute


@contextlib.contextmanager
def changed(values: Mapping[str, Any]) -> Iterator[None]:
    """A context in which sizes have other values; plans made with others are forgotten before and after."""
    from speechbrain_mamba.ops.backends.triton import plan

    places = {name: sized(name) for name in values}
    before = {name: getattr(module, attribute) for name, (module, attribute) in places.items()}

    def put(wanted: Mapping[str, Any]) -> None:
        for name, value in wanted.items():
            setattr(*places[name], value)
        plan.forget()

    try:
        put(values)
        yield
    finally:
        put(before)

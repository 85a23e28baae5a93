"""The differences between the hyper-parameters of a run and those of a command."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from hyperpyyaml import resolve_references
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar

from speechbrain_mamba.utils.yaml_text import parse_yaml, tag_of


class Difference(NamedTuple):
    """A setting that differs; its name has dots where it is inside of another one."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {_show(self.before)}, is now {_show(self.now)}"


class _Missing:
    def __repr__(self) -> str:
        return "not set"


MISSING = _Missing()
"""The value of a setting that is not there."""


def find_differences(record: str, text: str) -> list[Difference]:
    """Compare the recorded hyper-parameters of a run with those of a command.

    A value that is derived from others is not listed beside them: of ``lr: 0.1`` and ``optimizer: !name:torch.optim.SGD
    {lr: !ref <lr>}`` only ``lr`` is. Names of the same folder are equal.

    Arguments
    ---------
    record : str
        HyperPyYAML with references resolved.
    text : str
        HyperPyYAML, references not resolved.

    Returns
    -------
    list of Difference
        In the order of ``text``, and then settings that only the record has.

    Example
    -------
    >>> find_differences("lr: 0.1\\ntwice: 0.2\\nn: 3", "lr: 0.2\\ntwice: !ref <lr> * 2\\nn: 3")
    [Difference(name='lr', before=0.1, now=0.2)]
    """
    plain = parse_yaml(text, "The hyper-parameters")
    old = parse_yaml(record, "The record of the run") or CommentedMap()
    new = parse_yaml(resolve_references(text).getvalue(), "The hyper-parameters")
    changed = {key for key in {*old, *new} if _plain(old.get(key, MISSING)) != _plain(new.get(key, MISSING))}
    return list(_compare("", old, new, plain, changed))


def _compare(name: str, old: Any, new: Any, plain: Any, changed: set[str]) -> Iterator[Difference]:
    if _plain(old) == _plain(new):
        return
    if tag_of(plain).startswith(("!ref", "!copy")):
        if changed.isdisjoint(re.findall(r"<(\w+)", str(plain.value))):
            yield Difference(name, _plain(old), _plain(new))
    elif isinstance(plain, CommentedMap) and isinstance(old, CommentedMap):
        if tag_of(old) != tag_of(new):
            yield Difference(name, tag_of(old) or "a mapping", tag_of(new) or "a mapping")
        for key in {**dict.fromkeys(new), **dict.fromkeys(old)}:
            inner = [part.get(key, MISSING) for part in (old, new, plain)]
            yield from _compare(f"{name}.{key}".lstrip("."), inner[0], inner[1], inner[2], changed)
    elif _is_nested(plain) and isinstance(old, CommentedSeq) and len(old) == len(new) == len(plain):
        for index, (before, now, derived) in enumerate(zip(old, new, plain)):
            yield from _compare(f"{name}[{index}]", before, now, derived, changed)
    else:
        yield Difference(name, _plain(old), _plain(new))


def _is_nested(node: Any) -> bool:
    return isinstance(node, CommentedSeq) and any(
        isinstance(i, (CommentedMap, CommentedSeq, TaggedScalar)) for i in node
    )


def _plain(node: Any) -> Any:
    """A node in values of Python that can be compared; a tag stands before what it is about."""
    value: Any = node
    if isinstance(node, CommentedMap):
        value = {str(key): _plain(inner) for key, inner in node.items()}
    elif isinstance(node, CommentedSeq):
        value = [_plain(inner) for inner in node]
    elif isinstance(node, TaggedScalar):
        value = str(node.value or "")
    elif isinstance(node, bool):
        value = bool(node)
    elif isinstance(node, float):
        value = float(node)
    elif isinstance(node, int):
        value = int(node)
    elif isinstance(node, str):
        value = os.path.realpath(node) if os.sep in node and os.path.exists(node) else str(node)
    return (tag_of(node), value) if tag_of(node) else value


def _show(value: Any) -> str:
    text = f"{value[0]} {value[1] or ''}".strip() if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

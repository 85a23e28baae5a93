"""YAML with its comments and tags, read and written."""

from __future__ import annotations

from functools import lru_cache
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError


def parse_yaml(text: str, origin: str) -> Any:
    """Read YAML.

    Arguments
    ---------
    text : str
        The YAML.
    origin : str
        Its name in messages.

    Returns
    -------
    CommentedMap or other node of ruamel.yaml
        The document with its comments and tags; None if it is empty.

    Raises
    ------
    ValueError
        If it is not valid YAML; the message says in which line.

    Example
    -------
    >>> parse_yaml("a: [1, 2", "settings.yaml")
    Traceback (most recent call last):
    ValueError: settings.yaml is not valid YAML: expected ',' or ']', but got '<stream end>' in line 1.
    """
    try:
        return YAML().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{origin} is not valid YAML: {error.problem or error.context}{where}.") from error


@lru_cache(maxsize=16)
def look_at_yaml(text: str, origin: str) -> Any:
    """Read YAML that nobody changes: as :func:`parse_yaml`, but each text once.

    The start of a run looks at its hyper-parameters ten times, and to parse them takes a twentieth of a second.

    Example
    -------
    >>> look_at_yaml("a: 1", "settings.yaml") is look_at_yaml("a: 1", "settings.yaml")
    True
    """
    return parse_yaml(text, origin)


def dump_yaml(tree: CommentedMap) -> str:
    """Write a document with its comments and tags. No line is wrapped.

    Example
    -------
    >>> dump_yaml(parse_yaml("a: 1  # one", ""))
    'a: 1  # one\\n'
    """
    stream, yaml = StringIO(), YAML()
    yaml.width = 4096
    yaml.dump(tree, stream)
    return stream.getvalue()


def tag_of(node: Any) -> str:
    """The tag of a node, such as ``!new:torch.nn.ReLU``; empty without one.

    Example
    -------
    >>> tag_of(parse_yaml("!ref <a>", ""))
    '!ref'
    """
    return str(getattr(getattr(node, "tag", None), "value", None) or "")

"""The text of a model's HyperPyYAML as a tree, whose every node is checked before anything is made of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from speechbrain_mamba.utils.allowed_names import Permission
from speechbrain_mamba.utils.terminal import printable

LARGEST = 200_000
"""Characters of the largest file that is parsed. Those of SpeechBrain's models have some thousands."""
_LONGEST = 300
"""Characters of a message that come from the file."""
_DEEPEST = 100
"""Lists and mappings within one another."""
_TOO_DEEP = f"more than {_DEEPEST} lists and mappings stand in one another"
_BRACKETS = re.compile(rf"(?:[\[{{]\s*){{{_DEEPEST + 1}}}")
_CORE = "tag:yaml.org,2002:"
_PLAIN = {f"{_CORE}{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "seq", "map")}
_CALLS = ("new", "name", "apply")

NOT_ALLOWED = "is not among the classes and functions that a model may use"
_ADVICE = (
    "Load it with trust_yaml=True only if you trust its author with your machine: the file can then run any program."
)


class UnsafeModelError(ValueError):
    """A model's file asks for more than a model needs, or is not what it seems; nothing of it was built."""


def refusal(file: str, node: Node, problem: str, advice: str = _ADVICE) -> UnsafeModelError:
    """The error that names the file, the line of a node, the problem and what to do."""
    # tags and keys may hold escapes that a terminal obeys, and any number of characters
    shown = printable(problem if len(problem) <= _LONGEST else f"{problem[:_LONGEST]}...")
    return UnsafeModelError(f"'{file}', line {node.start_mark.line + 1}: {shown}. {advice}".rstrip())


@dataclass(frozen=True)
class CheckedYaml:
    """A model's file that was checked.

    Attributes
    ----------
    file : str
        Its name in messages.
    root : MappingNode
        Its tree, which is all that is built.
    allowed : mapping of str to Permission
        The names that it may use.
    sources : frozenset of str
        The models that it may download besides its own.
    """

    file: str
    root: MappingNode
    allowed: Mapping[str, Permission]
    sources: frozenset[str] = frozenset()


def read_model_yaml(path: str | os.PathLike) -> str:
    """Read the text of a model's file.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    UnsafeModelError
        When it is too large, or not UTF-8.
    """
    file = Path(path)
    if not file.is_file():  # nor a device or a pipe, which would never end
        raise FileNotFoundError(f"There is no file '{path}'.")
    with open(file, "rb") as stream:
        content = stream.read(4 * LARGEST + 1)
    if len(content) > 4 * LARGEST:
        raise _too_large(str(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UnsafeModelError(f"'{path}', line {line}: the text is not UTF-8. Save the file as UTF-8.") from error


def parse_model_yaml(text: str, file: str, allowed: Mapping[str, Permission]) -> MappingNode:
    """Parse a text, and check the tag, the name and the keys of each node of its tree.

    Arguments
    ---------
    text, file, allowed
        As of :func:`~speechbrain_mamba.utils.safe_yaml.check_model_yaml`.

    Returns
    -------
    MappingNode
        The tree.

    Raises
    ------
    UnsafeModelError
        When it is not one YAML mapping of reasonable size and depth, and for tags and names that are not allowed.
    """
    if len(text) > LARGEST:
        raise _too_large(file)
    try:
        _check_events(text, file)
        root = YAML(typ="rt", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UnsafeModelError(
            f"'{file}'{where}: this is not valid YAML of one document: {error.problem or error.context}."
        ) from error
    except YAMLError as error:
        raise UnsafeModelError(f"'{file}' is not valid YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(root, MappingNode) or str(root.tag) != f"{_CORE}map":
        tag = f" but {_shown(root)}" if root is not None and str(root.tag) not in _PLAIN else ""
        raise UnsafeModelError(f"'{file}', line 1: the file is not a mapping of settings{tag}.")
    for node in _walk(root):
        _check_node(node, file, allowed)
    for key, _ in root.value:
        if str(key.tag) != f"{_CORE}str":
            raise refusal(file, key, f"the setting {key.value!r} is not a name", "")
    return root


def _too_large(file: str) -> UnsafeModelError:
    return UnsafeModelError(f"'{file}' has more than {LARGEST} characters, which no model's settings need.")


def _check_events(text: str, file: str) -> None:
    """Refuse directives, and depths at which readers of YAML, which are recursive, fail."""
    brackets = _BRACKETS.search(text)  # which take seconds to parse
    if brackets:
        raise UnsafeModelError(f"'{file}', line {text[: brackets.start()].count(chr(10)) + 1}: {_TOO_DEEP}.")
    depth = 0
    for event in YAML(typ="rt", pure=True).parse(text):
        kind = type(event).__name__
        if getattr(event, "version", None) or getattr(event, "tags", None):
            directive = re.search(r"^%.*", text, re.MULTILINE)
            line = text[: directive.start()].count("\n") + 1 if directive else 1
            raise UnsafeModelError(
                f"'{file}', line {line}: the directive {directive and directive[0]} changes what the lines below it "
                f"mean. {_ADVICE}"
            )
        depth += kind in ("SequenceStartEvent", "MappingStartEvent")
        depth -= kind in ("SequenceEndEvent", "MappingEndEvent")
        if depth > _DEEPEST:
            raise refusal(file, event, _TOO_DEEP, "")


def _walk(root: Node) -> Iterator[Node]:
    """Each node once, also those that aliases reach again, keys of mappings too; in the order of the file."""
    todo, seen = [root], {id(root)}
    while todo:
        node = todo.pop()
        yield node
        children = node.value if isinstance(node, SequenceNode) else []
        if isinstance(node, MappingNode):
            children = [part for pair in node.value for part in pair]
        for child in reversed(children):
            if id(child) not in seen:
                seen.add(id(child))
                todo.append(child)


def split_tag(node: Node) -> tuple[str, str]:
    """The kind of a node and the name that it calls: ``new`` and ``torch.nn.ReLU``. Both are empty for plain values.

    Example
    -------
    >>> split_tag(YAML().compose("!new:torch.nn.ReLU")), split_tag(YAML().compose("!ref <a>"))
    (('new', 'torch.nn.ReLU'), ('ref', ''))
    """
    tag = str(node.tag)
    if tag.startswith(_CORE):
        return "", ""
    kind, _, name = tag.removeprefix("!").partition(":")
    return kind, name


def _shown(node: Node) -> str:
    return str(node.tag).replace(_CORE, "!!")


def _check_node(node: Node, file: str, allowed: Mapping[str, Permission]) -> None:
    tag, (kind, name) = str(node.tag), split_tag(node)
    if isinstance(node, MappingNode):
        _check_keys(node, file)
    if tag in _PLAIN:
        return
    if kind in _CALLS and name:
        if name not in allowed or kind not in allowed[name].uses:
            raise refusal(file, node, f"{tag} {NOT_ALLOWED}")
        if isinstance(node, ScalarNode) and node.value not in ("", "null", "~"):
            raise refusal(file, node, f"{tag} has the text {node.value[:40]!r} where its arguments stand", "")
        return
    if tag in ("!ref", "!copy", "!tuple") and isinstance(node, ScalarNode):
        return
    if tag == "!PLACEHOLDER":
        raise refusal(file, node, "a !PLACEHOLDER has no value", "Give one by overrides.")
    raise refusal(file, node, f"the tag {_shown(node)} is not for models")


def _check_keys(node: MappingNode, file: str) -> None:
    """Keys are plain and different: of two that are the same, readers differ in which one counts."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode) or str(key.tag) not in _PLAIN:
            shown = "<<" if str(key.tag) == f"{_CORE}merge" else _shown(key)
            raise refusal(file, key, f"a key of a mapping is {shown}, but must be a plain name", "")
        if key.value in seen:
            raise refusal(file, key, f"the key '{key.value}' stands twice", "Remove one of them.")
        seen.add(key.value)

"""HyperPyYAML of models that nobody vouches for: checked as a whole, then built from what was checked.

HyperPyYAML calls any function that a file names, so that loading a file is running it. Here a model's file is parsed
once into a tree. All of the tree is checked before anything is built: tags, names, arguments, references. What is built
is the same tree, by a builder that has no way to a class or function but the list of
:mod:`~speechbrain_mamba.utils.allowed_names`. ``docs/security.md`` says what is trusted and why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from speechbrain_mamba.utils.allowed_names import ALLOWED, Permission
from speechbrain_mamba.utils.overrides import update_tree
from speechbrain_mamba.utils.yaml_text import dump_yaml, parse_yaml

LARGEST = 500_000
"""Characters of the largest file that is parsed. SpeechBrain's have some thousands."""

_CORE = "tag:yaml.org,2002:"
_PLAIN = {f"{_CORE}{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "seq", "map")}
_CALLS = ("new", "name", "apply")
_ADVICE = (
    "Load it with trust_yaml=True only if you trust its author with your machine: the file can then run any program."
)


class UnsafeModelError(ValueError):
    """A model's file asks for more than a model needs, or is not what it seems; nothing of it was built."""


@dataclass(frozen=True)
class Place:
    """A file, and how its lines are named in messages."""

    file: str

    def refusal(self, node: Node, problem: str, advice: str = _ADVICE) -> UnsafeModelError:
        """The error that names the file, the line and the problem."""
        return UnsafeModelError(f"'{self.file}', line {node.start_mark.line + 1}: {problem}. {advice}")


@dataclass(frozen=True)
class CheckedYaml:
    """A model's file that was checked.

    Attributes
    ----------
    place : Place
        The file.
    root : MappingNode
        Its tree, which is all that is built.
    allowed : mapping of str to Permission
        The names that it may use.
    sources : frozenset of str
        The models that it may download besides its own.
    """

    place: Place
    root: MappingNode
    allowed: Mapping[str, Permission]
    sources: frozenset[str]


def read_model_yaml(path: str | os.PathLike) -> str:
    """Read the text of a model's file.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is too large, or not UTF-8.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    with open(file, "rb") as stream:
        content = stream.read(4 * LARGEST + 1)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) > 4 * LARGEST:
            raise _too_large(str(path)) from error
        line = content[: error.start].count(b"\n") + 1
        raise UnsafeModelError(f"'{path}', line {line}: the text is not UTF-8. Save the file as UTF-8.") from error


def check_model_yaml(
    text: str,
    file: str,
    allowed: Mapping[str, Permission] = ALLOWED,
    *,
    overrides: str | Mapping[str, Any] | None = None,
    must_match: bool = True,
    sources: frozenset[str] = frozenset(),
) -> CheckedYaml:
    """Check the HyperPyYAML of a model: nothing is imported, built, read or downloaded.

    Arguments
    ---------
    text : str
        The HyperPyYAML.
    file : str
        Its name in messages.
    allowed : mapping of str to Permission
        The classes and functions that it may use, by their exact names.
    overrides : str or mapping, optional
        Values to replace, as of ``from_hparams``. They are held to the same rules as the file.
    must_match : bool
        Whether a key of the overrides must exist in the file.
    sources : frozenset of str
        Other models that the file may name to be downloaded, by Hub id.

    Returns
    -------
    CheckedYaml
        What :func:`~speechbrain_mamba.utils.yaml_builder.build_model_yaml` builds.

    Raises
    ------
    UnsafeModelError
        When the file is not a single YAML mapping of reasonable size, or names anything that is not allowed. The
        message names the file, the line and the tag.

    Example
    -------
    >>> _ = check_model_yaml("size: 3\\nlayer: !new:torch.nn.Linear [!ref <size>, 2]", "model.yaml")
    >>> try:
    ...     check_model_yaml("a: 1\\nb: !new:os.system [touch me]", "model.yaml")
    ... except UnsafeModelError as error:
    ...     print(str(error).split(". ")[0])
    'model.yaml', line 2: !new:os.system is not among the classes and functions that a model may use
    """
    from speechbrain_mamba.utils.yaml_builder import plan_model_yaml  # which needs this module

    root = _compose(text, Place(file), allowed)
    place = Place(file)
    if overrides:
        place = Place(f"{file} with overrides")
        root = _compose(_override(text, overrides, must_match, file), place, allowed)
    checked = CheckedYaml(place, root, allowed, frozenset(sources))
    plan_model_yaml(checked)
    return checked


def _too_large(file: str) -> UnsafeModelError:
    return UnsafeModelError(f"'{file}' has more than {LARGEST} characters, which no model's settings need.")


def _override(text: str, overrides: str | Mapping[str, Any], must_match: bool, file: str) -> str:
    """The text with other values. The tree keeps tags as they are: nothing is built."""
    given = parse_yaml(overrides, "The text of the overrides") if isinstance(overrides, str) else overrides
    if given is None:
        return text
    if not isinstance(given, Mapping):
        raise ValueError(f"Overrides are keys with values, but these are '{given}'.")
    tree = YAML().load(text)
    unknown = [key for key in given if key not in tree] if must_match else []
    if unknown:
        raise ValueError(f"'{file}' has no '{unknown[0]}' to override; it has {', '.join(map(str, tree))}.")
    update_tree(tree, given)
    try:
        return dump_yaml(tree)
    except YAMLError as error:
        raise ValueError(f"Overrides are numbers, text, lists and mappings: {error}.") from error


def _compose(text: str, place: Place, allowed: Mapping[str, Permission]) -> MappingNode:
    """Parse a text, and check each node of its tree."""
    if len(text) > LARGEST:
        raise _too_large(place.file)
    yaml = YAML(typ="rt", pure=True)
    try:
        for event in yaml.parse(text):
            version, tags = getattr(event, "version", None), getattr(event, "tags", None)
            if type(event).__name__ == "DocumentStartEvent" and (version or tags):
                directive = "%TAG" if tags else "%YAML"
                raise place.refusal(event, f"the directive {directive} changes what the lines below it mean")
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UnsafeModelError(
            f"'{place.file}'{where}: not valid YAML of one document: {error.problem or error.context}."
        ) from error
    except YAMLError as error:
        raise UnsafeModelError(f"'{place.file}' is not valid YAML: {str(error).splitlines()[0]}.") from error
    except RecursionError as error:
        raise UnsafeModelError(f"'{place.file}' is nested too deeply for the settings of a model.") from error
    if not isinstance(root, MappingNode) or _tag(root) != f"{_CORE}map":
        raise UnsafeModelError(f"'{place.file}' is not a mapping of settings.")
    for node in _walk(root):
        _check_node(node, place, allowed)
    return root


def _walk(root: Node) -> Iterator[Node]:
    """Each node once, also those that aliases reach again, keys of mappings too."""
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


def _tag(node: Node) -> str:
    return str(node.tag)


def split_tag(node: Node) -> tuple[str, str]:
    """The kind of a node and the name that it calls: ``new`` and ``torch.nn.ReLU``. The kind of plain values is empty;
    a name is there for ``new``, ``name`` and ``apply`` alone.

    Example
    -------
    >>> split_tag(YAML().compose("!new:torch.nn.ReLU"))
    ('new', 'torch.nn.ReLU')
    """
    tag = _tag(node)
    if tag.startswith(_CORE):
        return "", ""
    kind, _, name = tag.removeprefix("!").partition(":")
    return kind, name


def _check_node(node: Node, place: Place, allowed: Mapping[str, Permission]) -> None:
    tag = _tag(node)
    kind, name = split_tag(node)
    if isinstance(node, MappingNode):
        _check_keys(node, place)
    if tag in _PLAIN:
        return
    if kind in _CALLS and name:
        if name not in allowed or kind not in allowed[name].uses:
            raise place.refusal(node, f"{tag} is not among the classes and functions that a model may use")
        if isinstance(node, ScalarNode) and node.value not in ("", "null", "~"):
            raise place.refusal(node, f"{tag} has the text {node.value[:40]!r} where its arguments stand", "")
        return
    if tag in ("!ref", "!copy", "!tuple") and isinstance(node, ScalarNode):
        return
    if tag == "!PLACEHOLDER":
        raise place.refusal(node, "a !PLACEHOLDER has no value", "Give one by overrides.")
    shown = tag.replace(_CORE, "!!")
    raise place.refusal(node, f"the tag {shown} is not for models")


def _check_keys(node: MappingNode, place: Place) -> None:
    """Keys are plain and different: of two that are the same, readers differ in which one counts."""
    seen: set[str] = set()
    for key, _ in node.value:
        plain = isinstance(key, ScalarNode) and _tag(key) in _PLAIN
        if not plain:
            shown = "<<" if _tag(key) == f"{_CORE}merge" else _tag(key).replace(_CORE, "!!")
            raise place.refusal(key, f"a key of a mapping is {shown}, but must be a name", "")
        if key.value in seen:
            raise place.refusal(key, f"the key '{key.value}' stands twice", "Remove one of them.")
        seen.add(key.value)


def top_level_keys(checked: CheckedYaml) -> list[str]:
    """The keys of a checked file."""
    return [key.value for key, _ in checked.root.value]


__all__ = [
    "CheckedYaml",
    "Place",
    "UnsafeModelError",
    "check_model_yaml",
    "read_model_yaml",
    "split_tag",
    "top_level_keys",
]

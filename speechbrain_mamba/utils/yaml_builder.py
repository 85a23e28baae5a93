"""The objects of a model's file, made from the tree that :mod:`~speechbrain_mamba.utils.yaml_tree` has checked.

The same tags as HyperPyYAML's, but for those that a model does not need: ``!new:``, ``!name:``, a few ``!apply:``,
``!ref`` with arithmetic, ``!copy`` and tuples.
"""

from __future__ import annotations

import ast
import functools
import importlib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from speechbrain_mamba.utils.allowed_names import PRETRAINER, Permission
from speechbrain_mamba.utils.yaml_tree import NOT_ALLOWED, CheckedYaml, UnsafeModelError, refusal, split_tag

_REFERENCE = re.compile(r"<([^<>]*)>")
_TUPLE = re.compile(r"\(.*\)", re.DOTALL)
_LONGEST = 10_000
"""Characters of the longest text that references may make."""
_MOST = 100_000
"""Values that a file may make, copies included."""
_LARGEST = 1e15
"""The largest number that arithmetic may make."""
_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


@dataclass
class Planned:
    """An object that would be built: its tag, its name and its arguments, themselves planned."""

    kind: str
    name: str
    positional: list = field(default_factory=list)
    named: dict = field(default_factory=dict)


def plan_model_yaml(checked: CheckedYaml) -> dict[str, Any]:
    """Follow all references and check all arguments of a file, without importing or building anything.

    Arguments
    ---------
    checked : CheckedYaml
        The file, whose names and tags were checked.

    Returns
    -------
    dict
        Its values by key, with a :class:`Planned` in place of each object.

    Raises
    ------
    UnsafeModelError
        For arguments that a name must not have, references that lead nowhere, and values that grow without bound.

    Example
    -------
    >>> from speechbrain_mamba.utils.safe_yaml import check_model_yaml
    >>> plan_model_yaml(check_model_yaml("size: 3\\nnet: !new:torch.nn.Linear [!ref <size> * 2, 2]", "model.yaml"))
    {'size': 3, 'net': Planned(kind='new', name='torch.nn.Linear', positional=[6, 2], named={})}
    """
    return _Builder(checked, Planned).build()


def build_model_yaml(checked: CheckedYaml) -> dict[str, Any]:
    """Build the objects of a file.

    Arguments
    ---------
    checked : CheckedYaml
        The file.

    Returns
    -------
    dict
        Its values by key; keys that begin with two underscores are left out.

    Raises
    ------
    ValueError
        When a class or function refuses its arguments; the message names the file and the line.

    Example
    -------
    >>> from speechbrain_mamba.utils.safe_yaml import check_model_yaml
    >>> built = build_model_yaml(check_model_yaml("size: 3\\nnet: !new:torch.nn.Linear [!ref <size>, 2]", "model.yaml"))
    >>> built["net"]
    Linear(in_features=3, out_features=2, bias=True)
    """
    built = _Builder(checked, _call).build()
    return {key: value for key, value in built.items() if not str(key).startswith("__")}


def _call(kind: str, name: str, positional: list, named: dict) -> Any:
    """Import an allowed name, and use it."""
    found = _locate(name)
    if kind == "name":
        return functools.partial(found, *positional, **named) if positional or named else found
    return found(*positional, **named)


def _locate(name: str) -> Any:
    """A class or function of a module, or a function of a class of one."""
    module, attribute = name.rsplit(".", 1)
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return getattr(_locate(module), attribute)


class _Builder:
    """Makes the values of a tree. Each node is made once: references and aliases give the same object again."""

    def __init__(self, checked: CheckedYaml, call: Callable[[str, str, list, dict], Any]) -> None:
        self.checked, self.call = checked, call
        self.left = [_MOST]  # shared with the builders of copies
        self.made: dict[int, Any] = {}
        self.begun: set[int] = set()
        self.scalars = YAML(typ="safe", pure=True).constructor

    def build(self) -> dict[str, Any]:
        try:
            return self.make(self.checked.root)
        except RecursionError as error:
            raise UnsafeModelError(f"'{self.checked.file}' is nested too deeply.") from error

    def refusal(self, node: Node, problem: str, *advice: str) -> UnsafeModelError:
        return refusal(self.checked.file, node, problem, *advice)

    def make(self, node: Node) -> Any:
        if id(node) not in self.made:
            if id(node) in self.begun:
                raise self.refusal(node, "a value refers to itself", "")
            self.left[0] -= 1
            if self.left[0] < 0:
                raise self.refusal(node, f"copies make more than {_MOST} values", "")
            self.begun.add(id(node))
            self.made[id(node)] = self._make(node)
            self.begun.discard(id(node))
        return self.made[id(node)]

    def _make(self, node: Node) -> Any:
        kind, name = split_tag(node)
        if kind in ("ref", "copy") and isinstance(node, ScalarNode):
            return self._refer(node, copy=kind == "copy")
        if kind in ("new", "name", "apply"):
            return self._use(node, kind, name)
        if isinstance(node, SequenceNode):
            return [self.make(part) for part in node.value]
        if isinstance(node, MappingNode):
            return {self.make(key): self.make(value) for key, value in node.value}
        assert isinstance(node, ScalarNode)
        plain_tuple = not node.style and str(node.tag) == "tag:yaml.org,2002:str" and _TUPLE.fullmatch(node.value)
        if kind == "tuple" or plain_tuple:
            return self._tuple(node)
        try:
            return self.scalars.construct_object(node, deep=True)
        except (ValueError, OverflowError) as error:
            raise self.refusal(node, f"{node.value[:40]!r} is not a value: {error}", "") from error

    def _tuple(self, node: ScalarNode) -> tuple:
        """``(3, 4)``. HyperPyYAML reads what is within with all of Python's tags; here it has none."""
        text = node.value.strip()
        try:
            return tuple(YAML(typ="safe", pure=True).load(f"[{text[1:-1]}]"))
        except ConstructorError as error:
            raise self.refusal(node, f"a tag stands in the tuple {text[:40]!r}") from error
        except YAMLError as error:
            raise self.refusal(node, f"{text[:40]!r} is not a tuple", "") from error

    # ------------------------------------------------------------------------------------------------ references

    def _refer(self, node: ScalarNode, copy: bool) -> Any:
        text = node.value.strip()
        whole = _REFERENCE.fullmatch(text)
        if whole:
            target = self._find(node, whole[1])
            if copy:  # made again, with all that is in it
                fresh = _Builder(self.checked, self.call)
                fresh.begun, fresh.left = self.begun, self.left
                return fresh.make(target)
            return self.make(target)

        def fill(match: re.Match) -> str:
            value = self.make(self._find(node, match[1]))
            if isinstance(value, (list, dict, tuple, Planned)) or len(str(value)) > _LONGEST:
                raise self.refusal(node, f"<{match[1]}> is not a number or a short text, but stands within one", "")
            return str(value)

        filled = _REFERENCE.sub(fill, text)
        if len(filled) > _LONGEST:
            raise self.refusal(node, "the references make a text without bound", "")
        return self._calculate(node, filled)

    def _find(self, node: Node, reference: str) -> Node:
        """The node at ``a[b][c]``."""
        if "." in reference:
            raise self.refusal(node, f"<{reference}> asks for an attribute of an object")
        found: Node = self.checked.root
        for part in reference.split("["):
            through = _REFERENCE.fullmatch(found.value.strip()) if split_tag(found)[0] == "ref" else None
            if through:
                found = self._find(node, through[1])
            pairs = found.value if isinstance(found, MappingNode) else []
            matches = [value for key, value in pairs if key.value == part.strip("]")]
            if not matches:
                raise self.refusal(node, f"<{reference}> refers to nothing in this file", "")
            found = matches[0]
        return found

    def _calculate(self, node: Node, text: str) -> Any:
        """The number that an expression gives; the text itself if it is none."""
        if len(text) > 200 or not re.fullmatch(r"[\d\s.+\-*/%()eE]+", text):
            return text
        try:
            return self._evaluate(node, ast.parse(text.strip(), mode="eval").body)
        except UnsafeModelError:
            raise
        except (SyntaxError, TypeError, KeyError, ValueError, MemoryError):
            return text
        except ZeroDivisionError as error:
            raise self.refusal(node, f"'{text}' divides by zero", "") from error

    def _evaluate(self, node: Node, expression: ast.AST) -> Any:
        if isinstance(expression, ast.Constant) and isinstance(expression.value, (int, float)):
            return expression.value
        if isinstance(expression, ast.UnaryOp):
            return _OPERATORS[type(expression.op)](self._evaluate(node, expression.operand))
        if not isinstance(expression, ast.BinOp):
            raise TypeError(expression)
        left, right = self._evaluate(node, expression.left), self._evaluate(node, expression.right)
        if max(abs(left), abs(right)) > _LARGEST or (isinstance(expression.op, ast.Pow) and abs(right) > 64):
            raise self.refusal(node, "the arithmetic makes numbers without bound", "")
        return _OPERATORS[type(expression.op)](left, right)

    # ------------------------------------------------------------------------------------------------ names

    def _use(self, node: Node, kind: str, name: str) -> Any:
        permission = self.checked.allowed.get(name)
        if permission is None or kind not in permission.uses:  # checked before: nothing else leads to a call
            raise self.refusal(node, f"!{kind}:{name} {NOT_ALLOWED}")
        positional = [self.make(part) for part in node.value] if isinstance(node, SequenceNode) else []
        named = {}
        if isinstance(node, MappingNode):
            named = {self.make(key): self.make(value) for key, value in node.value}
        self._check_arguments(node, f"!{kind}:{name}", permission, positional, named)
        named.update({argument: None for argument in permission.without if argument in named})
        if name == PRETRAINER:
            self._check_pretrainer(node, named)
        try:
            return self.call(kind, name, positional, named)
        except UnsafeModelError:
            raise
        except Exception as error:  # whatever a class raises for arguments that it does not take
            raise ValueError(
                f"'{self.checked.file}', line {node.start_mark.line + 1}: !{kind}:{name} cannot be made: {error}"
            ) from error

    def _check_arguments(
        self, node: Node, tag: str, permission: Permission, positional: list, named: dict[Any, Any]
    ) -> None:
        unnamed = [key for key in named if not isinstance(key, str)]
        if unnamed:
            raise self.refusal(node, f"{tag} has the argument {unnamed[0]!r}, which is not a name", "")
        if positional and permission.by_name:
            raise self.refusal(node, f"{tag} has arguments without names")
        extra = [] if permission.only is None else [key for key in named if key not in permission.only]
        if extra:
            raise self.refusal(node, f"{tag} has the argument {extra[0]}, which a model must not give")
        for argument in sorted(permission.sources & named.keys()):
            source = named[argument]
            if source not in self.checked.sources:
                raise self.refusal(
                    node,
                    f"{tag} downloads another model, {source!r}",
                    f"If you want this, load it with sources=[{source!r}].",
                )

    def _check_pretrainer(self, node: Node, named: dict[str, Any]) -> None:
        """The weights have names of files, and paths that stay in one model."""
        for argument in ("loadables", "paths"):
            given = named.get(argument, {})
            if not isinstance(given, dict):
                raise self.refusal(node, f"{argument} of the pretrainer are names with values, but not here", "")
            for key in given:
                if not re.fullmatch(r"\w[\w.\-]*", str(key)):
                    raise self.refusal(node, f"{argument} of the pretrainer have {key!r}, which is not a file's name")
        for key, path in named.get("paths", {}).items():
            last = str(path).rpartition("/")[2]
            outside = not isinstance(path, str) or "\\" in path or ".." in path.split("/") or path.startswith("~")
            if outside or re.match(r"\w+:", path) or not re.fullmatch(r"\w[\w.\-]*", last):
                raise self.refusal(node, f"the path of '{key}' is {path!r}, which leads out of the model")

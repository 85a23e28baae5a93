"""Small faults that a person could make: one changed operator, number, flag, argument or statement at a time.

The kinds of faults in Python are mutmut's, less those that any test notices (values replaced by None) or that change
wording or looks only (texts, colors), plus two: a call whose value nobody uses is left out, and the condition of an
``if`` is negated. In YAML every number grows and every flag is turned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

LEFT_OUT = {
    mutators.operator_string,
    mutators.operator_assignment,
    mutators.operator_dict_arguments,
    mutators.operator_arg_removal,  # replaces values by None, too
}
# Arguments that say how a picture looks, or how text is stored where the platform's default is the same.
LOOKS = {"alpha", "cmap", "color", "dpi", "encoding", "figsize", "fontsize", "label", "linewidth", "loc", "newline"}
WORDING = m.Call(func=m.Attribute(value=m.Name("logger") | m.Name("warnings"))) | m.Call(func=m.Name("print"))
NUMBER = re.compile(r"(?<![\w.<-])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w>])")
FLAG = re.compile(r"(?<![\w<])(?:[Tt]rue|[Ff]alse)(?![\w>])")


@dataclass(frozen=True)
class Fault:
    """A changed file, and where it differs.

    ``lines`` is the statement's first and last line (from 1), ``scope`` the function or class that holds it, empty at
    the level of the module. ``mutate`` returns the text of the whole changed file.
    """

    path: str
    line: int
    lines: tuple[int, int]
    scope: str
    mutate: Callable[[], str]


def find_faults(root: Path, path: str) -> list[Fault]:
    """All faults of a file, Python or YAML, in the order of its text."""
    text = (root / path).read_text(encoding="utf-8")
    return list(_yaml_faults(path, text) if path.endswith(".yaml") else _python_faults(path, text))


def difference(before: str, after: str) -> tuple[str, str]:
    """The lines that differ between two texts, stripped and joined."""
    old, new = before.splitlines(), after.splitlines()
    start = next((i for i, pair in enumerate(zip(old, new)) if pair[0] != pair[1]), min(len(old), len(new)))
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return tuple(" ".join(line.strip() for line in lines[start : len(lines) - end]) for lines in (old, new))


def _yaml_faults(path: str, text: str) -> Iterator[Fault]:
    start = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        code = re.split(r"(?:^|\s)#", line)[0]
        value = re.match(r"\s*(?:- )?(?:[\w.-]+:)?", code).end()
        if not line.startswith("!include:"):
            for kind, change in ((NUMBER, _larger), (FLAG, _turned)):
                for match in kind.finditer(code, value):
                    span = (start + match.start(), start + match.end())
                    yield Fault(path, number, (number, number), "", _replaced(text, span, change(match[0])))
        start += len(line)


def _larger(number: str) -> str:
    return repr(int(number) + 1) if re.fullmatch(r"-?\d+", number) else repr(float(number) * 2 or 1.0)


def _turned(flag: str) -> str:
    return "False" if flag.lower() == "true" else "True"


def _replaced(text: str, span: tuple[int, int], new: str) -> Callable[[], str]:
    return lambda: text[: span[0]] + new + text[span[1] :]


def _python_faults(path: str, text: str) -> Iterator[Fault]:
    wrapper = MetadataWrapper(cst.parse_module(text))
    collector = _Collector()
    wrapper.visit(collector)
    for old, new, line, lines, scope in collector.found:
        yield Fault(path, line, lines, scope, _replaced_node(wrapper.module, old, new))


def _replaced_node(module: cst.Module, old: cst.CSTNode, new: cst.CSTNode) -> Callable[[], str]:
    return lambda: module.deep_replace(old, new).code


class _Collector(cst.CSTVisitor):
    """Walks a module and notes each node with each of its changes."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self):
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, int, tuple[int, int], str]] = []
        self._scopes: list[str] = []
        self._lines = (0, 0)

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _is_left_alone(node):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._scopes.append(node.name.value)
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            self._lines = self._header(node)
        position = self.get_metadata(PositionProvider, node, None)
        if position:
            for changed in _changes(node):
                self.found.append((node, changed, position.start.line, self._lines, ".".join(self._scopes)))
        return True

    def on_leave(self, node: cst.CSTNode) -> None:
        if isinstance(node, cst.FunctionDef | cst.ClassDef) and not _is_left_alone(node):
            self._scopes.pop()

    def _header(self, node: cst.CSTNode) -> tuple[int, int]:
        """First and last line of a statement, of a compound one without its body."""
        whole = self.get_metadata(PositionProvider, node)
        body = getattr(node, "body", None)
        if isinstance(body, cst.BaseSuite):
            return whole.start.line, max(whole.start.line, self.get_metadata(PositionProvider, body).start.line - 1)
        return whole.start.line, whole.end.line


def _is_left_alone(node: cst.CSTNode) -> bool:
    """Whether a node holds nothing that behaves: types, imports, decorators, texts and messages."""
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom | cst.Raise | cst.SimpleString):
        return True
    return m.matches(node, WORDING) or m.matches(node, m.Assign(targets=[m.AssignTarget(target=m.Name("__all__"))]))


def _changes(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    for kind, operator in mutators.mutation_operators:
        if isinstance(node, kind) and operator not in LEFT_OUT:
            yield from operator(node)
    if isinstance(node, cst.Call) and len(node.args) > 1:
        for i, argument in enumerate(node.args):
            if argument.keyword is None or argument.keyword.value not in LOOKS:
                yield node.with_changes(args=[*node.args[:i], *node.args[i + 1 :]])
    if isinstance(node, cst.If | cst.While):
        inner = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inner))
    if m.matches(node, m.Expr(value=m.Call())) and not m.matches(node.value, WORDING):
        yield cst.Pass()

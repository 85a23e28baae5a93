"""Hyper-parameter files for people: includes resolved, comments kept, and where each value comes from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from speechbrain_mamba.utils.hparams import merge_files
from speechbrain_mamba.utils.overrides import Overrides, list_leaves, read_overrides, update_tree
from speechbrain_mamba.utils.yaml_text import dump_yaml, parse_yaml

COMMAND_LINE = "the command line"
NOTE_COLUMN = 60
SECTION = "# --"
"""Start of a comment that is a heading for the keys below it."""


class Block(NamedTuple):
    """The lines of one key in a file."""

    comments: list[str]
    """Comments and empty lines above the key."""
    lines: list[str]
    """The key with its value."""


def list_hparams(path: str | os.PathLike[str], overrides: Overrides = None, origins: bool = True) -> str:
    """List the hyper-parameters of a file and of all files that it includes.

    Arguments
    ---------
    path : str or Path
        The file.
    overrides : str or mapping, optional
        Values to replace, as in :func:`~speechbrain_mamba.utils.hparams.read_hparams`.
    origins : bool
        Whether to add a comment to each value that names the file, or the command line, that it is from.

    Returns
    -------
    str
        HyperPyYAML that loads to the same values as the file, without our includes and with the files' comments.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`~speechbrain_mamba.utils.hparams.read_hparams`.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "base.yaml").write_text("lr: 0.1\\nsteps: 3  # in all")
    >>> _ = (folder / "slow.yaml").write_text("!include:base.yaml\\nlr: 0.01")
    >>> print(list_hparams(folder / "slow.yaml", "steps: 5"), end="")
    lr: 0.01         # from slow.yaml
    steps: 5 # in all    # from the command line
    """
    top = Path(path).resolve()
    tree, sources = merge_files(top)
    given = read_overrides(tree, overrides, path)
    for override in given:
        update_tree(tree, override)
    changed = [keys for override in given for keys in list_leaves(override)]
    text = merge_texts(top, tree, sources, {keys[0] for keys in changed})
    if not origins:
        return text
    notes: dict[tuple[str, ...], str] = {}
    for key, files in sources.items():
        notes[key,] = os.path.relpath(files[-1], top.parent).replace(os.sep, "/")
    notes |= dict.fromkeys(changed, COMMAND_LINE)
    return add_notes(text, notes)


def merge_texts(top: Path, tree: CommentedMap, sources: dict[str, tuple[Path, ...]], changed: set[str]) -> str:
    """Join the lines of all files: those of a key are from the last file that defines it, or new if it was changed."""
    blocks = {}
    for file in {file for files in sources.values() for file in files}:
        if (parts := split_file(file)) is None:
            return dump_yaml(tree)  # without the comments of the files
        blocks[file] = parts
    lines = read_header(top)
    for key, files in sources.items():
        first, last = blocks[files[0]][key], blocks[files[-1]][key]
        comments = first.comments
        if files[0] != files[-1]:
            comments = [line for line in first.comments if line.startswith(SECTION) or not line]
            comments += [line for line in last.comments if line and not line.startswith(SECTION)]
        lines += comments + (write_changed(key, tree, last) if key in changed else last.lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def split_file(path: Path) -> dict[str, Block] | None:
    """Split a file into its keys; None if their lines depend on each other, as with aliases or a ``{...}`` around."""
    text = path.read_text(encoding="utf-8")
    root = YAML().compose(text)
    if not isinstance(root, MappingNode) or not root.value:
        return {}
    if root.flow_style or any(isinstance(event, AliasEvent) for event in YAML().parse(text)):
        return None
    lines, blocks = text.splitlines(), {}
    starts = [key.start_mark.line for key, _ in root.value]
    comments = [line for line in lines[: starts[0]] if not line.strip() or line.startswith("#")]
    comments = comments[len(read_header(path)) :]
    for (key, _), start, end in zip(root.value, starts, [*starts[1:], len(lines)]):
        own = strip_comments(lines[start:end])
        blocks[key.value] = Block(comments, own)
        comments = [line.rstrip() for line in lines[start + len(own) : end]]
    return blocks


def strip_comments(lines: list[str]) -> list[str]:
    """Lines without the empty ones and the comments at their end that are not indented."""
    end = len(lines)
    while end and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    return lines[:end]


def read_header(path: Path) -> list[str]:
    """The comment that a file starts with, up to an empty line or the first key."""
    header: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            header.append(line)
        elif header or not line.startswith(("!", "%", "---")):
            break
    return header


def write_changed(key: str, tree: CommentedMap, block: Block) -> list[str]:
    """The lines of a key whose value was replaced, with the comment that followed the old value."""
    lines = strip_comments(dump_yaml(CommentedMap({key: tree[key]})).splitlines())
    old = parse_yaml("\n".join(block.lines), key).ca.items.get(key)
    if old and old[2] and len(lines) == len(block.lines) == 1:
        lines = [f"{lines[0]}  {old[2].value.splitlines()[0]}"]
    return lines


def add_notes(text: str, notes: dict[tuple[str, ...], str]) -> str:
    """Add comments that say where values are from.

    Arguments
    ---------
    text : str
        YAML with a mapping at the top.
    notes : dict of tuple of str to str
        Origins of values, by the keys that lead to them.

    Returns
    -------
    str
        The same YAML with comments.

    Example
    -------
    >>> print(add_notes("a: 1\\nb:\\n  c: 2", {("a",): "x.yaml", ("b", "c"): "y.yaml"}), end="")
    a: 1    # from x.yaml
    b:
      c: 2   # from y.yaml
    """
    lines, root = text.splitlines(), YAML().compose(text)
    origins: dict[int, list[str]] = {}
    for keys, origin in notes.items():
        found = origins.setdefault(find_line(root, keys), [])
        found += [origin] if origin not in found else []
    for number, found in origins.items():
        lines[number] = f"{lines[number].ljust(NOTE_COLUMN)}  # from {' and '.join(found)}"
    return "\n".join(lines) + "\n"


def find_line(root: Node, keys: Sequence[str]) -> int:
    """The line, counted from 0, that may end in a comment on a value: that of its key, or the last one of a scalar or
    flow collection that spans several lines."""
    node, line = root, 0
    for name in keys:
        line, node = next((key.start_mark.line, value) for key, value in node.value if key.value == str(name))
    if isinstance(node, ScalarNode):
        return node.end_mark.line if node.value and node.style not in ("|", ">") else line
    return node.end_mark.line if isinstance(node, CollectionNode) and node.flow_style else line

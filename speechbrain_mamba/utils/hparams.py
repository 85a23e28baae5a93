"""HyperPyYAML files that build on one another.

HyperPyYAML can include a file below a key, but not at the top. Here a file whose first line is ``!include:other.yaml``
takes all keys of the other file and states only what differs::

    !include:base/mambatasnet.yaml
    experiment_name: mambatasnet_M
    n_mamba: 32

``!include:one.yaml+two.yaml`` includes several files; later ones override earlier ones. Redefining a key replaces its
old value entirely. Everything else (tags, references, overrides) is HyperPyYAML's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, TaggedScalar

from speechbrain_mamba.utils.overrides import Overrides, read_overrides, update_tree
from speechbrain_mamba.utils.yaml_text import dump_yaml, look_at_yaml, parse_yaml, tag_of

INCLUDE = "!include:"


def merge_files(path: Path, seen: tuple[Path, ...] = ()) -> tuple[CommentedMap, dict[str, tuple[Path, ...]]]:
    """Merge a file with all files that it includes.

    Arguments
    ---------
    path : Path
        The file.
    seen : tuple of Path
        The files that include it, outermost first.

    Returns
    -------
    CommentedMap, dict of str to tuple of Path
        The hyper-parameters; and by key the files that define it, of which the last one counts.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`read_hparams`.
    """
    path = path.resolve()
    if path in seen:
        raise ValueError(f"{path} includes itself: {' -> '.join(p.name for p in (*seen, path))}.")
    if not path.is_file():
        origin = f" that {seen[-1]} includes" if seen else ""
        raise FileNotFoundError(f"There is no hyper-parameter file {path}{origin}.")
    tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    tag = tag_of(tree)
    includes = tag.removeprefix(INCLUDE).split("+") if tag.startswith(INCLUDE) else []
    if includes and isinstance(tree, TaggedScalar) and not tree.value:
        tree = CommentedMap()  # a file may include others and change nothing
    if not isinstance(tree, CommentedMap):
        raise ValueError(f"{path} is not a mapping of hyper-parameters.")
    parts = [merge_files(path.parent / name, (*seen, path)) for name in includes]
    parts.append((tree, dict.fromkeys(tree, (path,))))
    merged, sources = parts[0]
    for other, origins in parts[1:]:
        for key, value in other.items():
            merged[key] = value
            sources[key] = (*sources.get(key, ()), *origins[key])
    return merged, sources


def read_hparams(path: str | os.PathLike[str], overrides: Overrides = None) -> str:
    """Read a hyper-parameter file and all files that it includes.

    Arguments
    ---------
    path : str or Path
        The file.
    overrides : str or mapping, optional
        Values to replace, as returned by ``speechbrain.parse_arguments``. Their keys must exist, and keys inside a
        value may be given as a mapping or with dots (``mamba_config.d_state``). Keys of the published files that are
        called otherwise here are accepted with a warning.

    Returns
    -------
    str
        HyperPyYAML without includes at the top, references not resolved.

    Raises
    ------
    FileNotFoundError
        If the file, or one that it includes, does not exist.
    ValueError
        If a file is not a mapping, is not valid YAML or includes itself, or an override names a key that does not
        exist.
    """
    tree, _ = merge_files(Path(path))
    for override in read_overrides(tree, overrides, path):
        update_tree(tree, override)
    return dump_yaml(tree)


def load_hparams(path: str | os.PathLike[str], overrides: Overrides = None) -> dict[str, Any]:
    """Load a hyper-parameter file and all files that it includes, and make its objects.

    Arguments
    ---------
    path, overrides
        As in :func:`read_hparams`.

    Returns
    -------
    dict
        The hyper-parameters.

    Raises
    ------
    FileNotFoundError, ValueError
        Like :func:`read_hparams`; also a ValueError if a ``!PLACEHOLDER`` was not replaced.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "base.yaml").write_text("lr: 0.1\\nsteps: 3")
    >>> _ = (folder / "slow.yaml").write_text("!include:base.yaml\\nlr: 0.01")
    >>> load_hparams(folder / "slow.yaml", "steps: 5")
    {'lr': 0.01, 'steps': 5}
    """
    return load_hyperpyyaml(read_hparams(path, overrides))


def select_hparams(text: str, keys: Iterable[str]) -> str:
    """Reduce HyperPyYAML to some keys and all that they refer to.

    Arguments
    ---------
    text : str
        HyperPyYAML, references not resolved.
    keys : iterable of str
        The keys to keep.

    Returns
    -------
    str
        HyperPyYAML with the keys, in their order in ``text``.

    Raises
    ------
    KeyError
        If ``text`` lacks one of the keys.

    Example
    -------
    >>> print(select_hparams("a: 1\\nb: 2\\nc: !ref <a> + 1", ["c"]), end="")
    a: 1
    c: !ref <a> + 1
    """
    tree = look_at_yaml(text, "The hyper-parameters")
    todo, kept = list(keys), set()
    while todo:
        key = todo.pop()
        if key not in kept:
            kept.add(key)
            part = dump_yaml(CommentedMap({key: tree[key]}))
            todo += [name for name in re.findall(r"<(\w+)[^>]*>", part) if name in tree]
    return dump_yaml(CommentedMap({key: value for key, value in tree.items() if key in kept}))


def resolve_operators(text: str) -> str:
    """Replace functions of Python's ``operator``, which training files apply, by their values.

    Exported models have none: what runs a function when it is loaded is not safe to load.

    Arguments
    ---------
    text : str
        HyperPyYAML, references not resolved.

    Returns
    -------
    str
        The same with ``!apply:operator.NAME`` replaced.

    Example
    -------
    >>> print(resolve_operators("a: True\\nb: {c: !apply:operator.not_ [!ref <a>]}"), end="")
    a: true
    b: {c: false}
    """
    tree = YAML().load(text)

    def resolve(node: Any) -> Any:
        if tag_of(node).startswith("!apply:operator."):
            whole = dump_yaml(CommentedMap({**tree, "resolved": node}))
            return load_hyperpyyaml(select_hparams(whole, ["resolved"]))["resolved"]
        places: Iterable[Any] = ()
        if isinstance(node, (dict, list)):
            places = list(node) if isinstance(node, dict) else range(len(node))
        for place in places:
            node[place] = resolve(node[place])
        return node

    return dump_yaml(resolve(tree))

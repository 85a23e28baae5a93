"""HyperPyYAML files that build on one another.

HyperPyYAML can include a file below a key, not at the top. Here a file whose first line is ``!include:other.yaml``
takes over every key of the other file and states only what differs::

    !include:base/mambatasnet.yaml
    experiment_name: mambatasnet_M
    n_mamba: 32

Several files are included as ``!include:one.yaml+two.yaml``, the later ones over the earlier ones.
A key that is given anew replaces the old one whole. Everything else (tags, references, overrides) is HyperPyYAML's.
"""

from __future__ import annotations

import difflib
import re
from io import StringIO
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml
from hyperpyyaml.core import recursive_update
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

_INCLUDE = "!include:"


def _read_tree(path: Path, seen: tuple[Path, ...] = ()) -> CommentedMap:
    path = path.resolve()
    if path in seen:
        raise ValueError(f"{path} includes itself: {' -> '.join(p.name for p in (*seen, path))}.")
    if not path.is_file():
        origin = f" that {seen[-1]} includes" if seen else ""
        raise FileNotFoundError(f"There is no hyper-parameter file {path}{origin}.")
    tree = YAML().load(path)
    if not isinstance(tree, CommentedMap):
        raise ValueError(f"{path} is not a mapping of hyper-parameters.")
    tag = tree.tag.value or ""
    if not tag.startswith(_INCLUDE):
        return tree
    merged, *others = [_read_tree(path.parent / name, (*seen, path)) for name in tag[len(_INCLUDE) :].split("+")]
    for other in (*others, tree):
        for key, value in other.items():
            merged[key] = value
    return merged


def _dump(tree: CommentedMap) -> str:
    stream = StringIO()
    YAML().dump(tree, stream)
    return stream.getvalue()


def read_hparams(path, overrides=None):
    """Read a hyper-parameter file with all that it includes.

    Arguments
    ---------
    path : str or Path
        The file.
    overrides : str or dict, optional
        Values to replace, as ``speechbrain.parse_arguments`` gives them; their keys have to exist.

    Returns
    -------
    str
        HyperPyYAML without includes at the top, references not resolved.

    Raises
    ------
    FileNotFoundError
        When the file, or one that it includes, does not exist.
    ValueError
        When a file is no mapping or includes itself, or an override names a key that does not exist.
    """
    tree = _read_tree(Path(path))
    if isinstance(overrides, str):
        overrides = YAML().load(overrides)
    for key in overrides or {}:
        if key not in tree:
            near = difflib.get_close_matches(key, tree, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"{path} has no hyper-parameter '{key}' to override.{hint}")
    recursive_update(tree, overrides or {})
    return _dump(tree)


def load_hparams(path, overrides=None):
    """Load a hyper-parameter file with all that it includes, and make its objects.

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
        As :func:`read_hparams`; a ValueError too when a ``!PLACEHOLDER`` was not replaced.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "base.yaml").write_text("lr: 0.1\\nsteps: 3")
    >>> _ = (folder / "slow.yaml").write_text("!include:base.yaml\\nlr: 0.01")
    >>> load_hparams(folder / "slow.yaml", "steps: 5")
    {'lr': 0.01, 'steps': 5}
    """
    return load_hyperpyyaml(read_hparams(path, overrides))


def select_hparams(text, keys):
    """Cut HyperPyYAML down to some keys and all that they refer to.

    Arguments
    ---------
    text : str
        HyperPyYAML, references not resolved.
    keys : list of str
        The keys to keep.

    Returns
    -------
    str
        HyperPyYAML with the keys, in their order in ``text``.

    Example
    -------
    >>> print(select_hparams("a: 1\\nb: 2\\nc: !ref <a> + 1", ["c"]), end="")
    a: 1
    c: !ref <a> + 1
    """
    tree = YAML().load(text)
    todo, kept = list(keys), set()
    while todo:
        key = todo.pop()
        if key not in kept:
            kept.add(key)
            part = _dump(CommentedMap({key: tree[key]}))
            todo += [name for name in re.findall(r"<(\w+)[^>]*>", part) if name in tree]
    return _dump(CommentedMap({key: value for key, value in tree.items() if key in kept}))

"""HyperPyYAML of models that nobody vouches for: checked as a whole, then built from what was checked.

HyperPyYAML calls any function that a file names, so that loading a file is running it. Here a model's file is parsed
once into a tree. All of the tree is checked before anything is built: tags, names, arguments, references. What is built
is the same tree, by a builder that has no way to a class or function but the list of
:mod:`~speechbrain_mamba.utils.allowed_names`. ``docs/security.md`` says what is trusted and why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain_mamba.utils.allowed_names import ALLOWED, Permission
from speechbrain_mamba.utils.overrides import update_tree
from speechbrain_mamba.utils.yaml_builder import Planned, build_model_yaml, plan_model_yaml
from speechbrain_mamba.utils.yaml_text import dump_yaml, parse_yaml
from speechbrain_mamba.utils.yaml_tree import CheckedYaml, UnsafeModelError, parse_model_yaml, read_model_yaml

__all__ = [
    "CheckedYaml",
    "Planned",
    "UnsafeModelError",
    "build_model_yaml",
    "check_model_yaml",
    "plan_model_yaml",
    "read_model_yaml",
]


def check_model_yaml(
    text: str,
    file: str,
    allowed: Mapping[str, Permission] = ALLOWED,
    *,
    overrides: str | Mapping[str, Any] | None = None,
    must_match: bool = True,
    sources: Collection[str] = (),
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
    sources : collection of str
        Other models that the file may name to be downloaded, by Hub id.

    Returns
    -------
    CheckedYaml
        What :func:`build_model_yaml` builds.

    Raises
    ------
    UnsafeModelError
        When the file is not a single YAML mapping of reasonable size, or names anything that is not allowed. The
        message names the file, the line and the tag.
    ValueError
        When the overrides are no mapping, or one names a key that does not exist.

    Example
    -------
    >>> text = "size: 3\\nlayer: !new:torch.nn.Linear [!ref <size>, 2]"
    >>> build_model_yaml(check_model_yaml(text, "model.yaml", overrides={"size": 4}))["layer"]
    Linear(in_features=4, out_features=2, bias=True)
    >>> try:
    ...     check_model_yaml("a: 1\\nb: !new:os.system [touch me]", "model.yaml")
    ... except UnsafeModelError as error:
    ...     print(str(error).split(". ")[0])
    'model.yaml', line 2: !new:os.system is not among the classes and functions that a model may use
    """
    checked = CheckedYaml(file, parse_model_yaml(text, file, allowed), allowed, frozenset(sources))
    if overrides:
        name = f"{file} with overrides"
        changed = _override(text, overrides, must_match, file)
        checked = CheckedYaml(name, parse_model_yaml(changed, name, allowed), allowed, frozenset(sources))
    plan_model_yaml(checked)
    return checked


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

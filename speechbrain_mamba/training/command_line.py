"""The first second of a training script: ``--help``, and packages that are missing.

Nothing here imports PyTorch or SpeechBrain, which take seconds. For the same reason a recipe is read, not imported.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import sys
from pathlib import Path

import yaml
from ruamel.yaml.comments import CommentedMap, TaggedScalar

from speechbrain_mamba.training.patterns import quote_patterns
from speechbrain_mamba.training.requirements import check_requirements, named_packages, setting_packages
from speechbrain_mamba.utils._compat import run_option_helps
from speechbrain_mamba.utils.hparams_listing import list_hparams
from speechbrain_mamba.utils.terminal import show
from speechbrain_mamba.utils.yaml_text import look_at_yaml


def check_command_line(recipe: str | os.PathLike, arguments: list[str] | None = None) -> None:
    """Answer ``--help``, or stop a run that lacks a package.

    A training script calls it before its slow imports::

        from speechbrain_mamba.training.command_line import check_command_line

        if __name__ == "__main__":
            check_command_line(__file__)

    Arguments
    ---------
    recipe : str or Path
        The script. Its docstring is the help's description. The tuple ``needs`` of its Brain, which may stand in a file
        beside it, names the packages that it cannot do without.
    arguments : list of str, optional
        The command line without the program's name; that of the process by default.

    Raises
    ------
    SystemExit
        After the help was printed, and with a message when a package is missing.

    Example
    -------
    >>> recipe = getfixture("tmp_path") / "train.py"
    >>> _ = recipe.write_text('"Train a toy."')
    >>> check_command_line(recipe, ["toy.yaml"])
    >>> try:
    ...     check_command_line(recipe, ["--help"])
    ... except SystemExit:
    ...     pass  # doctest: +ELLIPSIS
    usage: train.py HPARAMS.yaml ...
    """
    given = quote_patterns(sys.argv[1:] if arguments is None else arguments)
    tree = ast.parse(Path(recipe).read_text(encoding="utf-8"))
    path = Path(given[0]) if given and not given[0].startswith("-") else None
    text = list_hparams(path, origins=False) if path is not None and path.is_file() else ""
    if "-h" in given or "--help" in given:
        show(_format_help(Path(recipe).name, ast.get_docstring(tree) or "", path, text))
        raise SystemExit
    settings = {key: value for key, (value, _) in read_comments(text).items()} | _read_pairs(given)
    try:
        check_requirements([*_read_needs(Path(recipe), tree), *named_packages(text), *setting_packages(settings)])
    except ModuleNotFoundError as error:
        raise SystemExit(str(error)) from None


def read_comments(text: str) -> dict[str, tuple[object, str]]:
    """Read the plain settings of hyper-parameters with what is said about them.

    Arguments
    ---------
    text : str
        HyperPyYAML. Only keys at the top that hold a number, a string or a list are read, no objects.

    Returns
    -------
    dict of str to tuple of object and str
        Values and comments by key; a value that refers to others is its text.

    Example
    -------
    >>> read_comments("seed:\\nlr: 0.1   # at the peak,\\n          # after the warm-up\\nopt: !new:a.B\\n    x: 1")
    {'seed': (None, ''), 'lr': (0.1, 'at the peak, after the warm-up')}
    """
    lines, tree = text.splitlines(), look_at_yaml(text, "The hyper-parameters") or CommentedMap()
    found: dict[str, tuple[object, str]] = {}
    for key, value in tree.items():
        tag = getattr(value, "tag", None)
        if isinstance(value, TaggedScalar):
            found[key] = (f"{value.tag.value} {value.value}".strip(), "")
        elif not isinstance(value, dict) and not (tag and tag.value):
            found[key] = (value, "")
        if key in found and "#" not in str(value):
            found[key] = (found[key][0], _join_comment(lines[tree.lc.key(key)[0] :]))
    return found


def _join_comment(lines: list[str]) -> str:
    """The comment at the end of the first line and in the lines below that hold nothing else."""
    words = [lines[0].partition(" #")[2]]
    for line in itertools.takewhile(lambda line: line.startswith(" ") and line.strip().startswith("#"), lines[1:]):
        words.append(line.strip().lstrip("#"))
    return " ".join(part.strip() for part in words).strip()


def _read_pairs(arguments: list[str]) -> dict[str, object]:
    """The values on a command line, by option."""
    pairs: dict[str, object] = {}
    for option, value in zip(arguments, [*arguments[1:], "--"]):
        if option.startswith("--"):
            key, joined, own = option[2:].partition("=")
            if joined or not value.startswith("--"):
                pairs[key] = yaml.safe_load(own if joined else value)
    return pairs


def _read_needs(recipe: Path, tree: ast.Module) -> tuple[str, ...]:
    """The tuple ``needs`` of a recipe's Brain, here or in a file beside it; by default that of ``TrainingBrain``."""
    modules = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    files = [path for name in modules if name and (path := recipe.with_name(f"{name}.py")).is_file()]
    for part in (tree, *(ast.parse(path.read_text(encoding="utf-8")) for path in files)):
        for node in ast.walk(part):
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["needs"]:
                return ast.literal_eval(node.value)
    return ("matplotlib",)


def _format_help(program: str, description: str, path: Path | None, text: str) -> str:
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} HPARAMS.yaml [--KEY VALUE ...] [--OPTION [VALUE] ...]",
        description=description.replace("``", ""),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=32),
    )
    parser.add_argument(
        "hparams", metavar="HPARAMS.yaml", help="the hyper-parameter file; with --help its keys are shown"
    )
    settings = read_comments(text)
    keys = parser.add_argument_group(f"keys of {path.name if path else 'the file'}")
    for key, (value, comment) in settings.items():
        keys.add_argument(f"--{key}", metavar="", help=f"{comment} [{_show(value)}]".strip().replace("%", "%%"))
    if not settings:
        keys.description = "each can be replaced: --lr 0.001"
    runs = parser.add_argument_group("options of a run")
    text_of_changes = "go on with the run in the output folder although its settings differ from those of this command"
    runs.add_argument("--resume_with_changes", action="store_true", help=text_of_changes)
    options = parser.add_argument_group("options of SpeechBrain")
    for option, (default, comment) in run_option_helps().items():
        if option not in settings:
            shown = "" if default is None or default is False else f" [{default}]"
            options.add_argument(f"--{option}", metavar="", help=(comment + shown).replace("%", "%%"))
    return parser.format_help()


def _show(value: object) -> str:
    return {"None": "null", "!PLACEHOLDER": "to be given"}.get(str(value), str(value).removeprefix("!ref "))

"""Where recipes and hyper-parameter files are: in an installed package, or beside it in a checkout."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def find_share() -> Path:
    """The folder that has ``hparams/`` and ``recipes/``.

    Returns
    -------
    Path
        ``share`` in the installed package, or the checkout.

    Raises
    ------
    FileNotFoundError
        If there is neither.

    Example
    -------
    >>> (find_share() / "hparams" / "separation").is_dir()
    True
    """
    for folder in (PACKAGE / "share", PACKAGE.parent):
        if (folder / "hparams").is_dir() and (folder / "recipes").is_dir():
            return folder
    raise FileNotFoundError(
        f"This installation of speechbrain_mamba has no recipes: neither '{PACKAGE / 'share'}' nor '{PACKAGE.parent}' "
        "has the folders hparams and recipes. Install it again from a wheel or from a checkout."
    )


def list_tasks() -> list[str]:
    """The tasks that have hyper-parameter files.

    Example
    -------
    >>> list_tasks()
    ['asr', 'codec', 'separation', 'speaker', 'tts']
    """
    return sorted({path.parent.name for path in (find_share() / "hparams").glob("*/*.yaml")})


def list_names(task: str) -> list[str]:
    """The names of a task's hyper-parameter files.

    Example
    -------
    >>> list_names("speaker")
    ['mini_speaker']
    """
    folder = find_share() / "hparams" / check_choice("task", task, list_tasks())
    return sorted(path.stem for path in folder.glob("*.yaml"))


def check_choice(kind: str, given: str, choices: Iterable[str]) -> str:
    """Return one of some choices, or raise a ValueError that names them.

    Example
    -------
    >>> check_choice("task", "ast", ["asr", "tts"])
    Traceback (most recent call last):
    ValueError: There is no task 'ast'. Did you mean 'asr'? Choose from asr, tts.
    """
    choices = list(choices)
    if given in choices:
        return given
    near = difflib.get_close_matches(given, choices, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"There is no {kind} '{given}'.{hint} Choose from {', '.join(choices)}.")


def find_hparams(name: str, task: str | None = None) -> Path:
    """Find a hyper-parameter file.

    Arguments
    ---------
    name : str
        A path that ends in ``.yaml``; or a name, ``mini_mambatasnet`` with a task and
        ``separation/mini_mambatasnet`` without one.
    task : str, optional
        The task that the name belongs to.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is no file at the path.
    ValueError
        If there is no such task or name.

    Example
    -------
    >>> find_hparams("separation/mini_mambatasnet") == find_hparams("mini_mambatasnet", "separation")
    True
    """
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        if not Path(name).is_file():
            raise FileNotFoundError(f"There is no hyper-parameter file '{name}'.")
        return Path(name).resolve()
    folder, _, stem = name.rpartition("/") if task is None else (task, "", name)
    if not folder:
        raise ValueError(f"'{name}' is not a hyper-parameter file: give the path of one, or TASK/NAME.")
    return find_share() / "hparams" / folder / f"{check_choice(f'{folder} model', stem, list_names(folder))}.yaml"


def find_recipe(task: str) -> Path:
    """The script that trains the models of a task.

    Raises
    ------
    ValueError
        If there is no such task.
    FileNotFoundError
        If the task has no script.

    Example
    -------
    >>> find_recipe("separation").name
    'train.py'
    """
    script = find_share() / "recipes" / check_choice("task", task, list_tasks()) / "train.py"
    if not script.is_file():
        raise FileNotFoundError(f"There is no recipe '{script}'.")
    return script

"""The short commands: doctor, hparams and recipes."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechbrain_mamba.cli.locations import find_hparams, find_share
from speechbrain_mamba.utils.terminal import show

PROGRAM = "python -m speechbrain_mamba"


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with exit code 1 and one sentence on stderr if what the user gave is wrong."""
    try:
        yield
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def run_doctor(arguments: list[str]) -> None:
    """Print what the package finds on this machine; with ``--check``, fail with exit code 1 if a backend is wrong."""
    description = "Show versions, backends and threads, and what would make it faster."
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} doctor", description=description)
    parser.add_argument(
        "--check",
        action="store_true",
        help="also compare all operations of all backends with the reference, on the CPU and on each GPU; kernels "
        "that were not compiled before take minutes",
    )
    check = parser.parse_args(arguments).check
    from speechbrain_mamba.doctor import check_backends, report

    show(report())
    if check:
        text, failures = check_backends()
        show(f"\nBackends against the reference\n{text}")
        if failures:
            raise SystemExit(1)


def show_hparams(arguments: list[str]) -> None:
    """Print the hyper-parameters of a file, and where each one comes from.

    Example
    -------
    >>> show_hparams(["codec/mini_codec", "--batch_size", "2"])  # doctest: +ELLIPSIS
    # A small codec ...
    """
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} hparams",
        usage=f"{PROGRAM} hparams FILE [--key value ...]",
        description="Print the hyper-parameters of a file with all files that it includes, and where each one comes "
        "from. The text is a hyper-parameter file too, which hyperpyyaml.load_hyperpyyaml loads.",
        epilog="--key value replaces a hyper-parameter, as in training. Inside a mapping: --mamba_config.d_state 8.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="a path, or TASK/NAME such as separation/mini_mambatasnet")
    options, rest = parser.parse_known_args(arguments)
    with user_errors():
        from speechbrain_mamba.utils.hparams_listing import list_hparams

        text = list_hparams(find_hparams(options.file), read_options(rest))
    show(text)


def read_options(arguments: list[str]) -> dict[str, Any]:
    """Read ``--key value`` and ``--key=value`` as SpeechBrain does; values are YAML.

    Raises
    ------
    ValueError
        If a key has no value, or a value no key.

    Example
    -------
    >>> read_options(["--lr", "0.1", "--splits=[a, b]"])
    {'lr': 0.1, 'splits': ['a', 'b']}
    """
    from speechbrain_mamba.utils.yaml_text import parse_yaml

    found: dict[str, list[str]] = {}
    key = ""
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            found[key] = [value] if equals else []
        elif key:
            found[key].append(argument)
        else:
            raise ValueError(f"'{argument}' has no key: give hyper-parameters as --key value.")
    for key, values in found.items():
        if not values:
            raise ValueError(f"--{key} has no value: give hyper-parameters as --key value.")
    return {key: parse_yaml(" ".join(values), f"The value of --{key}") for key, values in found.items()}


def copy_recipes(arguments: list[str]) -> None:
    """Copy recipes and hyper-parameter files into a folder, and say how to run them there."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} recipes",
        description="Copy the folders recipes and hparams into DIR, to be changed there. Nothing is overwritten.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new or an existing folder")
    folder = parser.parse_args(arguments).folder
    with user_errors():
        share = find_share()
        for name in ("recipes", "hparams"):
            if (folder / name).exists():
                raise FileExistsError(f"'{folder / name}' exists and is not overwritten: choose another folder.")
        for name in ("recipes", "hparams"):
            shutil.copytree(share / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    print(f"Recipes and hyper-parameter files are in '{folder}'. Change them there and train, for example:\n")
    print(f"cd {folder}\npython recipes/separation/train.py hparams/separation/mini_mambatasnet.yaml")

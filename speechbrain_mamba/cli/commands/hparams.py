"""The command hparams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from speechbrain_mamba.cli.locations import find_hparams
from speechbrain_mamba.cli.program import RawCommand
from speechbrain_mamba.utils.terminal import show


@click.command(
    cls=RawCommand,
    section="Train a model",
    options_metavar="FILE [--key value ...]",
    short_help="Print the hyper-parameters of a model, and where each one comes from.",
    epilog="--key value replaces a hyper-parameter, as in training. Inside a mapping: --mamba_config.d_state 8.",
    examples=[
        ("hparams separation/mini_mambatasnet", "a file of the package"),
        ("hparams separation/mini_mambatasnet --lr 1e-4", "with another value"),
    ],
)
def command(arguments: list[str]) -> None:
    """Print the hyper-parameters of a file with all files that it includes, and where each one comes from.

    FILE is a path, or TASK/NAME such as separation/mini_mambatasnet. The text is a hyper-parameter file too, which
    hyperpyyaml.load_hyperpyyaml loads.
    """
    if not arguments or arguments[0].startswith("--"):
        raise click.UsageError("The first argument must be FILE, a path or TASK/NAME.", click.get_current_context())
    from speechbrain_mamba.utils.hparams_listing import list_hparams

    show(list_hparams(find_hparams(arguments[0]), read_options(arguments[1:])))


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
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

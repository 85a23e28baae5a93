"""The command recipes."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from speechbrain_mamba.cli.locations import find_share
from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.utils.terminal import show

FOLDERS = ("recipes", "hparams")


@click.command(
    cls=Command,
    section="Train a model",
    short_help="Copy recipes and hyper-parameter files into a folder, to change them.",
    examples=[("recipes mine", "mine/recipes and mine/hparams")],
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Copy the folders recipes and hparams into DIR, a new or an existing folder, to change them there.

    Nothing is overwritten.
    """
    share = find_share()
    for name in FOLDERS:
        if (folder / name).exists():
            raise FileExistsError(f"'{folder / name}' exists and is not overwritten: choose another folder.")
    for name in FOLDERS:
        shutil.copytree(share / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    show(
        f"Recipes and hyper-parameter files are in '{folder}'. Change them there and train, for example:\n\n"
        f"cd {folder}\npython recipes/separation/train.py hparams/separation/mini_mambatasnet.yaml"
    )

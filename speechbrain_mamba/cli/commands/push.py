"""The command push."""

from __future__ import annotations

import click

from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.utils.terminal import show


@click.command(
    cls=Command,
    section="Share a model",
    short_help="Upload an exported model to the Hugging Face Hub.",
    epilog="The token is that of 'hf auth login', or of the variable HF_TOKEN; it must be allowed to write.",
    examples=[("push two-voices me/two-voices --private", "into a private repository")],
)
@click.argument("folder", metavar="FOLDER")
@click.argument("repo", metavar="NAME/MODEL")
@click.option("--private/--public", default=None, help="For a new repository; by default as your account has it.")
@click.option("--branch", metavar="NAME", help="A branch other than main; it is made if it does not exist.")
@click.option("--message", metavar="TEXT", help="The message of the commit.")
def command(folder: str, repo: str, private: bool | None, branch: str | None, message: str | None) -> None:
    """Upload FOLDER, which the command export wrote, to the repository NAME/MODEL of the Hub, in one commit.

    The repository is made if it does not exist. The examples of the card load the model from there.
    """
    from speechbrain_mamba.inference.sharing import push_model

    address = push_model(folder, repo, private=private, branch=branch, message=message)
    show(f"'{repo}' has the model: {address}\nUse it with --source {repo}, or from_hparams(\"{repo}\").")

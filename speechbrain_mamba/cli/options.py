"""Options that several commands share. Each function decorates a command with some of them."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import click

from speechbrain_mamba.cli.model_choice import ModelChoice

Decorator = Callable[[Callable], Callable]


def _all(function: Callable, *options: Decorator) -> Callable:
    for option in reversed(options):
        function = option(function)
    return function


def precision_option(function: Callable) -> Callable:
    """``--precision``."""
    return click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "int8", "fp16"]),
        help="Numbers that the model computes with: bf16 and int8 are faster on new CPUs and lose little, fp16 is for "
        "GPUs.  [default: fp32, or int8 for a model that was exported so]",
    )(function)


def model_options(default: str) -> Decorator:
    """``--source``, ``--device``, ``--precision`` and ``--trust-yaml``: the command gets a ``model``, a
    :class:`~speechbrain_mamba.cli.model_choice.ModelChoice`."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def command(*, source: str, device: str, precision: str | None, trust_yaml: bool, **rest: Any) -> Any:
            return function(model=ModelChoice(source, device, precision, trust_yaml), **rest)

        return _all(
            command,
            click.option(
                "--source",
                metavar="MODEL",
                default=default,
                show_default=True,
                help="The model: the name of one that comes with the package, a folder, or its id on the Hugging Face "
                "Hub.",
            ),
            click.option(
                "--device",
                default="auto",
                show_default=True,
                help="'cpu', 'cuda' or 'cuda:1'. 'auto' is a GPU if there is one, else the CPU.",
            ),
            precision_option,
            click.option(
                "--trust-yaml",
                is_flag=True,
                help="Let the model's hyperparams.yaml run any code. Only for models of people whom you trust.",
            ),
        )

    return decorate


def file_options(function: Callable) -> Callable:
    """``FILES``, ``--channels``, ``--batch-size``, ``--jobs`` and ``--force``."""
    return _all(
        function,
        click.argument("files", metavar="FILE...", nargs=-1, required=True),
        click.option(
            "--channels",
            type=click.Choice(["mix", "each"]),
            default="mix",
            show_default=True,
            help="What happens to recordings with several channels: mixed to one, or each one on its own.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            default=8,
            show_default=True,
            help="How many pieces the model computes at a time.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="How many files are worked on at a time, each by its own process.",
        ),
        force_option,
    )


def force_option(function: Callable) -> Callable:
    """``--force``."""
    return click.option("--force", is_flag=True, help="Overwrite files that exist.")(function)


def talk_options(function: Callable) -> Callable:
    """``--quiet`` and ``--verbose``: the command gets ``progress``, whether it may show bars, and logs accordingly."""

    @functools.wraps(function)
    def command(*, quiet: bool, verbose: bool, **rest: Any) -> Any:
        if quiet and verbose:
            raise click.UsageError("--quiet and --verbose exclude each other.", click.get_current_context())
        set_up_logging(logging.ERROR if quiet else logging.DEBUG if verbose else logging.WARNING)
        return function(progress=not quiet, **rest)

    return _all(
        command,
        click.option("--quiet", "-q", is_flag=True, help="Show errors only: no notices, no progress."),
        click.option("--verbose", "-v", is_flag=True, help="Show details, and a traceback after an error."),
    )


def set_up_logging(level: int) -> None:
    """Write messages of the package from a level on to stderr, those of others from warnings on, and those of Python's
    module warnings only if the level is DEBUG."""

    def is_shown(record: logging.LogRecord) -> bool:
        # SpeechBrain sets a level on each of its loggers, so that one on the root logger would not count.
        return record.levelno >= (
            level if record.name.startswith("speechbrain_mamba.") else max(level, logging.WARNING)
        )

    handler = logging.StreamHandler()
    handler.addFilter(is_shown)
    logging.basicConfig(format="%(message)s", handlers=[handler])
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own, and would say all twice
    logging.getLogger("speechbrain_mamba").setLevel(level)
    if level > logging.DEBUG:
        warnings.simplefilter("ignore")

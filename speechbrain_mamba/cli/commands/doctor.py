"""The command doctor."""

from __future__ import annotations

import click

from speechbrain_mamba.cli.program import Command
from speechbrain_mamba.utils.terminal import show


@click.command(
    cls=Command,
    section="This installation",
    short_help="Show versions, backends and threads, and what would make it faster.",
    examples=[("doctor", "what works here"), ("doctor --check", "compare all backends with the reference")],
)
@click.option(
    "--check",
    is_flag=True,
    help="Also compare all operations of all backends with the reference, on the CPU and on each GPU. Kernels that "
    "were not compiled before take minutes.",
)
def command(check: bool) -> None:
    """Show versions, backends and threads, and what would make it faster.

    With --check, the exit code is 1 if a backend is wrong.
    """
    from speechbrain_mamba.doctor import check_backends, report

    show(report())
    if check:
        text, failures = check_backends()
        show(f"\nBackends against the reference\n{text}")
        if failures:
            raise SystemExit(1)

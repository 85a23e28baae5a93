"""Steps: what the machine is, and what the package's own checks say."""

from __future__ import annotations

from typing import Any

from contact.context import Context, step
from gpu_facts import gpu_facts
from speechbrain_mamba.doctor import check_backends, report


@step("machine")
def machine(context: Context) -> dict[str, Any]:
    """Versions, compiler, GPU and clocks."""
    return {"gpu": gpu_facts(context.device), "doctor": report().splitlines()}


@step("doctor --check", seconds=240)
def doctor_check(context: Context) -> dict[str, Any]:
    """Every operation and type of every backend."""
    text, failures = check_backends()
    if failures:
        raise ValueError(text)
    return {"table": text.splitlines()}

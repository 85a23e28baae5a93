"""The results of a first contact as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechbrain_mamba.utils.files import atomic_path


def write_page(path: Path, machine: str, results: list[dict[str, Any]]) -> None:
    """Write a table of all steps, and below it what each one found."""
    lines = ["# First contact with a GPU", "", machine, "", "| step | result | seconds | |", "|---|---|---|---|"]
    for result in results:
        reason = " ".join(result["reason"].split())[:300].replace("|", "\\|")
        lines.append(f"| {result['step']} | {result['status']} | {result['seconds']:.1f} | {reason} |")
    for result in results:
        if result["data"]:
            lines += ["", f"## {result['step']}", "", *_described(result["data"])]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _described(data: dict[str, Any]) -> Iterator[str]:
    for name, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield from _table(value)
        elif isinstance(value, list):
            yield from (f"{name}:", "", "```", *map(str, value), "```")
        elif isinstance(value, dict):
            yield f"- {name}: {', '.join(f'{key} {_short(item)}' for key, item in value.items())}"
        else:
            yield f"- {name}: {_short(value)}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{'---|' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(map(_short, row.values()))} |"

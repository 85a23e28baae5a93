"""The rows of an efficiency map: where they are kept, and on which machine they were made."""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gpu_facts import gpu_facts
from speechbrain_mamba.ops import available_backends
from speechbrain_mamba.utils.files import write_csv

COLUMNS = ["task", "system", "attention", "pass", "device", "dtype", "token_ms", "length", "tokens", "status",
           "seconds", "fastest", "repeats", "peak_mb", "saved_mb", "parameters", "machine", "torch", "date",
           "reason"]  # fmt: skip


def machine_name(device: torch.device) -> str:
    """The GPU, or the processor with the backend that serves its calls."""
    if device.type == "cuda":
        return gpu_facts(device)["gpu"]
    name, instructions = platform.processor() or platform.machine(), ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            facts = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    except OSError:
        return name
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    instructions = next((f", {flag.upper()}" for flag in ("avx512f", "avx2") if flag in flags), "")
    backend = "native kernels" if "cpu" in available_backends() else "without native kernels"
    return f"{facts.get('model name', name)}{instructions}, one thread, {backend}"


def table_path(folder: Path, device: str) -> Path:
    """The table of a device in a folder of results."""
    return folder / f"efficiency_{device}.csv"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of earlier runs; none if there were none.

    Raises
    ------
    ValueError
        For a table with other columns.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if reader.fieldnames != COLUMNS:
        raise ValueError(f"{path} was not written by this version of the benchmark: give another --out.")
    return rows


def check_machine(path: Path, rows: Sequence[Mapping[str, Any]], machine: str, dtype: str) -> None:
    """Check that earlier rows are of this machine and type, since times of different ones cannot be compared.

    Raises
    ------
    ValueError
        When they are not.
    """
    for row in rows:
        if (row["machine"], row["dtype"]) != (machine, dtype):
            raise ValueError(
                f"{path} has measurements of {row['machine']} in {row['dtype']}, but this is {machine} in {dtype}: "
                "give another --out."
            )


def as_written(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as it is read back, so that what is measured next does not depend on whether a run was resumed: figures
    with 6 digits.

    Example
    -------
    >>> as_written({"seconds": 0.12345678, "status": "done"})
    {'seconds': '0.123457', 'status': 'done'}
    """
    return {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in row.items()}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows."""
    write_csv(path, rows, COLUMNS)

"""When does Mamba beat attention? Time and memory over length, and the lengths from which on Mamba is cheaper.

    python benchmarks/efficiency.py --task asr --device cpu --budget 3600 --out results/efficiency

Published sizes of the systems of a task and of their baselines, and hybrids; batch 1, random weights; inference and a
training step without the optimizer. On a CPU: one thread, float32, processor time, so that other programs do not
matter. On a GPU: bfloat16, time on the GPU's clock. OUT/efficiency_DEVICE.csv has a row for each measurement, those
that ran out of memory or time included. The same command again resumes, and one for another task adds to the same
tables and figure. It ends with a line for each threshold:

    threshold asr, inference, time: conmamba_ctc against conformer_ctc: 4.1 s (3.8 to 4.4), 102 tokens

``--task layer`` is the paper's first experiment: one layer of Mamba against one of attention, in tokens.
``--report`` measures nothing and makes tables and figures again; ``--publish docs/results/efficiency`` copies them to
where RESULTS.md takes them from.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from crossings.catalog import COMPARISONS, TASKS, Comparison
from crossings.cell import DONE, FAILED, Limits, measure_apart, measure_here
from crossings.figure import draw_layers, draw_map
from crossings.networks import NetworkCache
from crossings.results import as_written, check_machine, machine_name, read_rows, table_path, write_rows
from crossings.schedule import due, tokens
from crossings.thresholds import COLUMNS, LAW_COLUMNS, describe, find_laws, find_thresholds
from speechbrain_mamba.utils.files import atomic_path, write_csv

WEIGHTS = 3 * 2**30
"""Bytes of parameters that are kept in memory."""


def choose(task: str, wanted: Sequence[str] | None, priority: int) -> list[Comparison]:
    """The comparisons of a task up to a priority, or those that have one of some words in their names.

    Raises
    ------
    ValueError
        When no name has any of the words.
    """
    every = list(COMPARISONS[task]())
    if wanted is None:
        return [c for c in every if c.priority <= priority]
    chosen = [c for c in every if any(word in c.label for word in wanted)]
    if not chosen:
        labels = "; ".join(dict.fromkeys(c.label for c in every))
        raise ValueError(f"--only {' '.join(wanted)} chooses none of these comparisons: {labels}.")
    return chosen


def spent(device: torch.device) -> float:
    """Seconds that the budget counts: processor time of this process and those that have ended on a CPU, so that other
    programs do not shorten the map, and time on the clock on a GPU."""
    return sum(os.times()[:4]) if device.type == "cpu" else time.monotonic()


def sweep(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Measure what is missing until the budget is spent; adds to ``rows`` and to the table."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    path, machine = table_path(arguments.out, device.type), machine_name(device)
    check_machine(path, rows, machine, arguments.dtype)
    limits = Limits(call=arguments.limit, memory=1e9 * arguments.memory)
    comparisons = choose(arguments.task, arguments.only, arguments.priority)
    networks, start = NetworkCache(WEIGHTS), spent(device)
    while spent(device) - start < arguments.budget:
        cells = due(comparisons, rows, limits, arguments.repeats)
        if not cells:
            print("All of it is measured.")
            return
        network = networks.get(cells[0].system)
        for cell in cells:
            if device.type == "cpu":
                said = measure_apart(network, cell, dtype, limits)
            else:
                said = measure_here(network, cell, device, dtype, limits)
            system = cell.system
            row = {
                "task": arguments.task, "system": system.label, "attention": system.form, "pass": cell.passed,
                "device": device.type, "dtype": arguments.dtype, "token_ms": system.token_ms, "length": cell.length,
                "tokens": tokens(system, cell.length), "parameters": network.parameters, "machine": machine,
                "torch": torch.__version__, "date": datetime.date.today().isoformat(), **said,
            }  # fmt: skip
            rows.append(as_written(row))
            write_rows(path, rows)
            unit = "s" if system.token_ms else "tokens"
            took = f"{said['seconds']:.4g} s, {said['peak_mb']:.4g} MB" if said["status"] == DONE else said["status"]
            print(
                f"{system.label}, {system.form}, {system.token_ms:g} ms, {cell.passed}, {cell.length:g} {unit}: {took}"
                + (f" ({said['reason']})" if said["status"] == FAILED else ""),
                flush=True,
            )
            if "CUDA error" in said["reason"]:
                raise RuntimeError("The GPU cannot be used by this process any more; the same command goes on.")
            # a call that fails or takes too long is the last of its series, and on a CPU another system is next
            if device.type == "cpu" or said["status"] != DONE or said["seconds"] > limits.call:
                break
            if spent(device) - start >= arguments.budget:
                break
    print("The budget is spent; the same command resumes.")


def report(folder: Path, device: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the tables of thresholds and of the law, draw the figure, and print a line for each threshold."""
    found = list(find_thresholds(rows))
    laws = find_laws(found)
    write_csv(folder / f"thresholds_{device}.csv", (_rounded(one.row) for one in found), COLUMNS)
    write_csv(folder / f"token_law_{device}.csv", (_rounded(law) for law in laws), LAW_COLUMNS)
    if found:
        draw_map(folder / f"efficiency_{device}.png", rows, found)
        draw_layers(folder / f"layer_{device}.png", rows, found)
    for law in laws:
        print(
            f"law {law['task']}, {law['pass']}, {law['measure']}: {law['comparison']}, {law['attention']}: slope "
            f"{law['slope']:.3g} ({law['low']:.3g} to {law['high']:.3g}) of log threshold over log token duration, "
            f"{law['points']} points"
        )
    for one in found:
        at = f", {one.row['token_ms']:.3g} ms tokens" if one.row["token_ms"] else ""
        line = f"{one.row['task']}, {one.passed}, {one.measure}: {one.row['comparison']}{at}"
        print(f"threshold {line}: {describe(one.row)}")


def publish(folder: Path, device: str, target: Path) -> None:
    """Copy the tables and figures of a map.

    Raises
    ------
    FileNotFoundError
        When nothing has been measured.
    """
    if not table_path(folder, device).is_file():
        raise FileNotFoundError(f"'{folder}' has no measurements on {device} yet: nothing can be published.")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("efficiency_{}.csv", "thresholds_{}.csv", "token_law_{}.csv", "efficiency_{}.png", "layer_{}.png"):
        source = folder / name.format(device)
        if source.is_file():
            with atomic_path(target / source.name) as temporary:
                shutil.copyfile(source, temporary)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}


def main(given: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--budget", type=float, default=3600, help="seconds, after which nothing is started: of processor time on a CPU"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of tables and figure")
    parser.add_argument("--priority", type=int, default=2, help="1: the main comparisons; 2: hybrids too; 3: all sizes")
    parser.add_argument("--only", nargs="+", help="comparisons that have one of these words in their names")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each length close to a crossing")
    parser.add_argument("--limit", type=float, default=10, help="seconds of a call; a longer one ends its series")
    parser.add_argument("--memory", type=float, default=4, help="GB that a pass on a CPU may take beyond the weights")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="bfloat16 on a GPU by default")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--publish", type=Path, help="also copy tables and figures, to docs/results/efficiency")
    arguments = parser.parse_args(given)
    if arguments.device == "cuda" and not torch.cuda.is_available() and not arguments.report:
        parser.error("--device is cuda, but torch finds no GPU: give --device cpu.")
    arguments.dtype = arguments.dtype or ("float32" if arguments.device == "cpu" else "bfloat16")
    try:
        rows = read_rows(table_path(arguments.out, arguments.device))
        if not arguments.report:
            sweep(arguments, rows)
        report(arguments.out, arguments.device, rows)
        if arguments.publish:
            publish(arguments.out, arguments.device, arguments.publish)
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

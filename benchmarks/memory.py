"""Memory of inference: of whole recordings by their length, and of a process that separates many of them.

    python benchmarks/memory.py --out results/memory.csv

``whole``: separators with random weights separate mixtures of some lengths, such as ``mambatasnet_S:mamba2``, the file
and its mixer; the peak is resident memory beyond that of the process before the call. ``pieces`` is the way that is
taken, ``at once`` the one of trainings; both have the same mean level of estimates. Peaks are medians of processes,
with the least and the most, as equal processes differ. ``many calls``: the bundled separator on mixtures of changing
lengths; growth is resident memory beyond that after ten calls. A ``program`` limits oneDNN's kernels, a ``library``
does not; ``every length`` is a library whose convolutions are not filled up to lengths of a grid. ``code_mb`` is the
growth of compiled kernels among it, ``in_use_mb`` that of memory that malloc has given out, kernels' tables included;
the rest are gaps between what is in use, which are used again. Linux only, as the system has to tell the peak.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import torch

from speechbrain_mamba.inference import pretrained
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet import pieces
from speechbrain_mamba.utils.hparams import load_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory, settle_memory
from timing import write_table

RATE = 8000
HPARAMS = Path(__file__).parent.parent / "hparams" / "separation"
COUNTED = 10
CALLS = ("program", "library", "every length")


def resident(field: str) -> float:
    """A figure of this process, in MB: VmRSS or its peak, VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000
    raise OSError(f"/proc/self/status has no {field}: this benchmark needs Linux.")


def forget_peak() -> None:
    """Give freed memory back, and begin the peak again."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def whole(model: str, seconds: list[float], way: str) -> list[dict[str, Any]]:
    """Peaks of a model by length; ``way`` is pieces or at once."""
    keep_freed_memory()
    torch.manual_seed(0)
    name, _, mixer = model.partition(":")
    overrides = {"data_folder": "", **({"mixer": mixer} if mixer else {})}
    modules = load_hparams(HPARAMS / f"{name}.yaml", overrides)["modules"]
    parts = [modules[name] for name in ("encoder", "masknet", "decoder")]
    if way == "at once":
        pieces.SHORTEST = 10**9
    rows = []
    with torch.no_grad():
        separate(*parts, torch.randn(1, RATE))
        for length in seconds:
            mix = torch.randn(1, round(RATE * length), generator=torch.Generator().manual_seed(0))
            forget_peak()
            before, start = resident("VmRSS"), time.process_time()
            estimate = separate(*parts, mix)
            cpu, peak = time.process_time() - start, resident("VmHWM") - before
            rows.append(
                {
                    "what": "whole", "model": model, "way": way, "seconds_of_audio": length, "peak_mb": peak,
                    "peak_mb_per_second": peak / length, "cpu_s_per_second": cpu / length,
                    "mean_level": float(estimate.double().abs().mean()),
                }
            )  # fmt: skip
    return rows


class Allocated(ctypes.Structure):
    """What glibc's ``mallinfo2`` returns, in bytes."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "top",
        )
    ]


def kept() -> dict[str, float]:
    """Resident memory of this process, that of code that it compiled, and what malloc has given out, in MB."""
    code, runs = 0.0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):  # the head of a mapping; inode 0: of no file
            runs = "x" in fields[1] and fields[4] == "0" and len(fields) == 5
        elif runs and fields[0] == "Rss:":
            code += int(fields[1]) / 1000
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Allocated
    found = mallinfo()
    return {"growth_mb": resident("VmRSS"), "code_mb": code, "in_use_mb": (found.uordblks + found.hblkhd) / 1e6}


def many_calls(counts: list[int], way: str) -> list[dict[str, Any]]:
    """Growth of a process that separates mixtures of changing lengths, after some numbers of calls."""
    (settle_memory if way == "program" else keep_freed_memory)()
    if way == "every length":
        pretrained.settle_convolutions = lambda model: 0
    separator, generator = SpeechSeparator.from_hparams("separator"), torch.Generator().manual_seed(0)
    before, rows = {}, []
    with torch.no_grad():
        for call in range(max(counts) + COUNTED + 1):
            if call == COUNTED:
                before = kept()
            elif call - COUNTED in counts:
                grown = {name: value - before[name] for name, value in kept().items()}
                rows.append({"what": "many calls", "model": "separator", "way": way, "calls": call - COUNTED} | grown)
            separator.separate_batch(torch.zeros(1, int(torch.randint(4000, 12000, (1,), generator=generator))))
    return rows


def summarize(rows: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The median of each figure of several processes, and the least and the largest peak."""
    row = {name: statistics.median(r[name] for r in rows) if isinstance(value, float) else value
           for name, value in rows[0].items()}  # fmt: skip
    if "peak_mb" in row:
        peaks = [r["peak_mb"] for r in rows]
        row |= {"least_peak_mb": min(peaks), "most_peak_mb": max(peaks)}
    return row


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mambatasnet_S", "mambatasnet_S:mamba2", "dpmamba_S"])
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 30.0])
    parser.add_argument("--calls", type=int, nargs="+", default=[300, 1000, 2000])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=3, help="processes for each peak")
    parser.add_argument("--out", type=Path, help="a CSV file for the figures")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        torch.set_num_threads(arguments.threads[0])
        what, way = arguments.measure
        if what == "calls":
            print(json.dumps(many_calls(arguments.calls, way)))
        else:
            print(json.dumps(whole(what, arguments.seconds, way)))
        return
    rows = []
    for threads in arguments.threads:
        found = [(model, way) for model in arguments.models for way in ("pieces", "at once")]
        for what, way in [*found, *(("calls", way) for way in CALLS)]:
            command = [sys.executable, __file__, *sys.argv[1:], "--threads", str(threads), "--measure", what, way]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            rounds = []
            for _ in range(1 if what == "calls" else arguments.rounds):
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
                rounds.append(json.loads(output.splitlines()[-1]))
            rows += [{**summarize(processes), "threads": threads} for processes in zip(*rounds)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_table([{name: row.get(name, "") for name in columns} for row in rows], arguments.out)


if __name__ == "__main__":
    main()

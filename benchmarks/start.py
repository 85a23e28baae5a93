"""Where the time of a first separation goes: imports, loading, computing, in a process of its own.

    python benchmarks/start.py --out results/start.csv

Each stage is measured in new processes, one after the other, by processor time and by the clock. Files are in the
system's cache from the first, uncounted round on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from speechbrain_mamba.dataio.audio import write_audio
from timing import write_table

SECONDS, RATE = 4, 8000
STAGES = """
import json, time
found = []
def stage(name, run):
    clock, cpu = time.perf_counter(), time.process_time()
    made = run()
    found.append((name, 1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - cpu)))
    return made
def imported(name):
    return lambda: __import__(name, fromlist=["_"])
stage("import speechbrain_mamba", imported("speechbrain_mamba"))
torch = stage("import torch", imported("torch"))
module = stage("import speechbrain_mamba.inference.separation", imported("speechbrain_mamba.inference.separation"))
separator = stage("load the bundled separator", lambda: module.SpeechSeparator.from_hparams("separator"))
mix = torch.randn(1, {samples})
separate = lambda: separator.separate_batch(mix)
with torch.no_grad():
    stage("separate {seconds} s for the first time", separate)
    stage("separate them again", separate)
print(json.dumps(found))
"""


def run(command: list[str], threads: int) -> tuple[str, float, float]:
    """Output of a process, and its milliseconds by the clock and of processor time."""
    environment, before = os.environ | {"OMP_NUM_THREADS": str(threads)}, _children()
    start = time.perf_counter()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return output, 1e3 * (time.perf_counter() - start), 1e3 * (_children() - before)


def _children() -> float:
    """Processor time of all child processes that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(threads: int) -> list[tuple[str, float, float]]:
    """One round: each stage with its milliseconds by the clock and of processor time."""
    code = STAGES.format(samples=SECONDS * RATE, seconds=SECONDS)
    _, *whole = run([sys.executable, "-c", code], threads)
    rows = json.loads(run([sys.executable, "-c", code], threads)[0].splitlines()[-1])
    for option in ("--help", "separate --help"):
        rows.append((f"speechbrain-mamba {option}", *run(command_line(option), threads)[1:]))
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder, "talk.wav")
        write_audio(recording, 0.1 * torch.randn(SECONDS * RATE), RATE)
        command = [*command_line("separate"), str(recording), "--out", folder, "--quiet"]
        rows.append((f"speechbrain-mamba separate, {SECONDS} s", *run(command, threads)[1:]))
    return [*rows, ("process from nothing to two separations", *whole)]


def command_line(options: str) -> list[str]:
    """The program of the package."""
    return [sys.executable, "-m", "speechbrain_mamba", *options.split()]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a CSV file for the figures")
    arguments = parser.parse_args()
    rows = []
    for threads in arguments.threads:
        measure(threads)
        rounds = [measure(threads) for _ in range(arguments.rounds)]
        for stages in zip(*rounds):
            clocks, cpus = zip(*(stage[1:] for stage in stages))
            rows.append(
                {
                    "stage": stages[0][0],
                    "threads": threads,
                    "median_ms": statistics.median(clocks),
                    "fastest_ms": min(clocks),
                    "cpu_ms": statistics.median(cpus),
                }
            )
    write_table(rows, arguments.out)


if __name__ == "__main__":
    main()

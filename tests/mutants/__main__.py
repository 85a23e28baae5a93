"""Plant faults one at a time and count which the tests notice: ``python -m tests.mutants AREA``; see README.md."""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.areas import AREAS
from tests.mutants.faults import Fault, difference, find_faults
from tests.mutants.suite import Suite, environment

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("path", "line", "scope", "before", "after", "status", "seconds", "by")


class Worker:
    """A process with a copy of the working tree of its own."""

    def __init__(self, source: Path, folder: Path):
        self.copy = folder
        shutil.copytree(source, folder)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.worker"],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: dict) -> dict:
        """Run the tests of one fault."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        reply = self.process.stdout.readline()
        if not reply:
            raise RuntimeError("A worker stopped before it answered; its messages are above.")
        return json.loads(reply)

    def close(self):
        """Let the process end."""
        self.process.stdin.close()
        self.process.wait()


def copy_tree(folder: Path):
    """Copy what git tracks or would track, and the built kernels."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    kernels = [str(path.relative_to(ROOT)) for path in (ROOT / "speechbrain_mamba").rglob("*.so")]
    for name in filter(None, [*names, *kernels]):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def expand(patterns: tuple[str, ...]) -> list[str]:
    """Paths that match patterns, relative to the root."""
    return sorted({str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)})


def row_of(fault: Fault, text: str, result: dict) -> dict:
    """A line of the table of results."""
    before, after = difference((ROOT / fault.path).read_text(encoding="utf-8"), text)
    return dict(zip(COLUMNS, (fault.path, fault.line, fault.scope, before, after, *result.values())))


def try_faults(faults: list[Fault], tests: list[str], workers: int, report) -> str:
    """Try faults on several processes, calling ``report`` with each row; returns pytest's summary of the sound tree."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        clean = Path(folder) / "clean"
        copy_tree(clean)
        suite = Suite(clean, tests)
        free: SimpleQueue[Worker] = SimpleQueue()
        crew = [Worker(clean, Path(folder) / f"worker{i}") for i in range(workers)]
        for worker in crew:
            free.put(worker)

        def attempt(fault: Fault):
            chosen, text = suite.noticing(fault), fault.mutate()
            if not chosen:
                return row_of(fault, text, {"status": "survived", "seconds": 0, "by": "no test runs it"})
            timeout = 30 + 5 * sum(suite.seconds[test] for test in chosen)
            worker = free.get()
            try:
                request = {"path": fault.path, "text": text, "tests": chosen, "timeout": timeout}
                return row_of(fault, text, worker.ask(request))
            finally:
                free.put(worker)

        with ThreadPoolExecutor(workers) as pool:
            for row in pool.map(attempt, faults):
                report(row)
        for worker in crew:
            worker.close()
        return suite.summary


def earlier_survivors(table: Path, faults: list[Fault]) -> list[Fault]:
    """Those faults that an earlier run noted as survivors; known by scope and text, as lines move."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = {tuple(row[key] for key in ("path", "scope", "before", "after"))
                for row in csv.DictReader(file) if row["status"] == "survived"}  # fmt: skip
    paths = {row[0] for row in rows}
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    known = (f for f in faults if f.path in paths)
    return [f for f in known if (f.path, f.scope, *difference(texts[f.path], f.mutate())) in rows]


def main():
    """Parse the command line, try the faults, and write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("area", choices=AREAS)
    parser.add_argument("--files", default="*", metavar="GLOB", help="only files whose path matches")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="faults drawn at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that run tests")
    parser.add_argument("--survivors", action="store_true", help="only those that survived the last run")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mutants", help="folder of the tables")
    options = parser.parse_args()

    area = AREAS[options.area]
    sources = [path for path in expand(area.sources) if fnmatch.fnmatch(path, options.files)]
    if not sources:
        parser.error(f"no file of {options.area} matches '{options.files}': its files are {', '.join(area.sources)}.")
    faults = [fault for path in sources for fault in find_faults(ROOT, path)]
    table = options.out / f"{options.area}.csv"
    if options.survivors:
        if not table.exists():
            parser.error(f"--survivors needs the table of an earlier run, but there is no {table}.")
        chosen = earlier_survivors(table, faults)
    elif 0 < options.sample < len(faults):
        chosen = random.Random(options.seed).sample(faults, options.sample)
    else:
        chosen = faults
    chosen.sort(key=lambda fault: (fault.path, fault.line))
    print(f"{options.area}: {len(chosen)} of {len(faults)} faults in {len(sources)} files", flush=True)
    if not chosen:
        return

    options.out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()

        def report(row: dict):
            writer.writerow(row)
            file.flush()
            counts[row["status"]] += 1
            progress = f"[{sum(counts.values())}/{len(chosen)}] {row['status']}"
            print(f"{progress} {row['seconds']} s {row['path']}:{row['line']} {row['by']}", flush=True)
            if row["status"] == "survived":
                print(f"    - {row['before']}\n    + {row['after']}", flush=True)

        summary = try_faults(chosen, expand(area.tests), options.workers, report)
    noticed = len(chosen) - counts["survived"]
    print(f"sound tree: {summary}")
    print(f"{options.area}: {noticed} of {len(chosen)} noticed ({100 * noticed / len(chosen):.0f} %): {table}")


if __name__ == "__main__":
    main()

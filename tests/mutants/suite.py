"""Which tests run which lines, and how long they take: measured once, by coverage.py, before anything is mutated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import coverage

from tests.mutants.faults import Fault


class Suite:
    """The tests of an area in a copy of the working tree, run once.

    Raises RuntimeError where no test passes.
    """

    def __init__(self, copy: Path, tests: list[str]):
        durations, data_file = copy / "durations.json", copy / "coverage.data"
        options = (
            "-m pytest -p tests.mutants.durations -p no:xdist --cov=speechbrain_mamba --cov=recipes --cov-context=test"
        )
        command = [sys.executable, *options.split(), "--cov-report=", "-m", "not slow", *tests]
        settings = {"MUTANTS_DURATIONS": str(durations), "COVERAGE_FILE": str(data_file)}
        run = subprocess.run(
            command, cwd=copy, env={**environment(copy), **settings}, capture_output=True, text=True, check=False
        )
        if not durations.exists() or not (seconds := json.loads(durations.read_text(encoding="utf-8"))):
            raise RuntimeError(f"No test of {', '.join(tests)} passed:\n{run.stdout[-3000:]}{run.stderr[-3000:]}")
        self.seconds: dict[str, float] = seconds
        self.summary = run.stdout.strip().splitlines()[-1]
        self._lines = _tests_by_line(copy, data_file, set(seconds))

    def noticing(self, fault: Fault) -> list[str]:
        """The tests that run a fault's statement, quickest first: all tests for YAML, which is read rather than run."""
        if fault.path.endswith(".yaml"):
            return sorted(self.seconds, key=self.seconds.__getitem__)
        lines = self._lines.get(fault.path, {})
        first, last = fault.lines
        tests = set().union(*(lines.get(line, ()) for line in range(first, last + 1)))
        if not lines.get(0, set()).isdisjoint(range(first, last + 1)):
            # Run on import, as the values of constants and defaults are: any test of the file may notice.
            tests = set().union(*(names for line, names in lines.items() if line))
        return sorted(tests, key=self.seconds.__getitem__)


def environment(copy: Path) -> dict[str, str]:
    """Environment of a process that imports a copy of the working tree, and uses one thread."""
    return {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _tests_by_line(copy: Path, data_file: Path, passed: set[str]) -> dict[str, dict[int, set]]:
    """Names of tests by path and line; under line 0, the lines that ran outside of any test.

    What ran while a test was set up may serve other tests of its file, too: fixtures of a module run once.
    """
    data = coverage.CoverageData(str(data_file))
    data.read()
    found: dict[str, dict[int, set]] = {}
    for path in data.measured_files():
        lines: defaultdict[int, set] = defaultdict(set)
        for line, contexts in data.contexts_by_lineno(path).items():
            runs = [context.rpartition("|")[::2] for context in contexts if context]
            files = {name.partition("::")[0] for name, phase in runs if phase == "setup"}
            lines[line] |= {name for name, _ in runs} & passed
            lines[line] |= {name for name in passed if name.partition("::")[0] in files}
            if "" in contexts:
                lines[0].add(line)
        found[str(Path(path).resolve().relative_to(copy.resolve()))] = lines
    return found

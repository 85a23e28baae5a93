"""Run the tests of the CPU kernels with a sanitized library.

    python -m tests.sanitize [options of pytest]

Builds the C sources with AddressSanitizer and UndefinedBehaviorSanitizer in a temporary folder. Any access outside of a
tensor or of a thread's memory, and any undefined operation, then ends the run with a report. Without paths, the tests
of the kernels and of the process around them are run, but for those that compile with torch or start processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "speechbrain_mamba/ops/backends/cpu/csrc").glob("*.c"))
FLAGS = [
    "-O1", "-g", "-std=gnu11", "-pthread", "-fPIC", "-shared", "-fno-omit-frame-pointer", "-fno-math-errno",
    "-fno-trapping-math", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
]  # fmt: skip
TESTS = [
    "tests/ops/backends/cpu", "tests/ops/test_step.py", "tests/ops/test_block_step.py", "tests/ops/test_few_rows.py",
    "tests/ops/test_int8.py",
    "-k", "not compiled and not child and not workers and not library",
]  # fmt: skip


def file_of(compiler: str, *names: str) -> str | None:
    """The first of some libraries that the compiler has."""
    for name in names:
        found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        if Path(found).is_absolute():
            return str(Path(found).resolve())
    return None


def preloaded(compiler: str) -> str:
    """What has to be loaded before the interpreter: the sanitizer's runtime, and C++'s, whose exceptions it watches."""
    names = ("libasan.so", "libclang_rt.asan-x86_64.so", "libclang_rt.asan-aarch64.so")
    sanitizer, exceptions = file_of(compiler, *names), file_of(compiler, "libstdc++.so.6")
    if sanitizer is None:
        raise SystemExit(f"{compiler} has no AddressSanitizer: install its runtime (libasan for gcc), or set CC.")
    return " ".join(library for library in (sanitizer, exceptions) if library)


def main() -> int:
    """Build and test."""
    compiler = os.environ.get("CC", "gcc")
    given = sys.argv[1:]
    paths = given if any(Path(argument.split("::")[0]).exists() for argument in given) else [*TESTS, *given]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "_kernels_sanitized.so")
        subprocess.run([compiler, *FLAGS, *map(str, SOURCES), "-o", str(library)], check=True)
        environment = os.environ | {
            "SANITIZED_KERNELS": str(library),
            "LD_PRELOAD": preloaded(compiler),
            # Python and torch keep what they allocate to the end, and torch's allocations may fail by design.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        command = [sys.executable, "-m", "pytest", "-p", "tests.sanitize.plugin", "-x", "-s", *paths]  # -s: reports
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())

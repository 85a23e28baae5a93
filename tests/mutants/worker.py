"""Runs tests against one fault after the other, each in a fork of a process that has the large libraries loaded.

Reads requests from standard input, a JSON object a line: ``path``, ``text`` (the changed file), ``tests`` and
``timeout`` in seconds. Answers each with ``status`` (killed, survived or timeout), ``seconds`` and ``by``, the test
that failed. The faulty file stands on the disk of the worker's own copy while its tests run, so that programs that
tests start see it too.
"""

import importlib
import itertools
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

LIBRARIES = (
    "torch", "torchaudio", "speechbrain", "speechbrain.core", "speechbrain.lobes.models.dual_path", "hyperpyyaml",
    "speechbrain.inference.interfaces", "speechbrain.lobes.models.transformer.Transformer", "speechbrain.decoders",
    "speechbrain.lobes.models.transformer.Conformer", "scipy.signal", "hypothesis", "torchmetrics", "mir_eval", "jiwer",
    "matplotlib.pyplot", "tensorboard", "encodec", "sentencepiece", "pandas", "pytest", "torch._dynamo",
)  # fmt: skip
# Whole seconds, no two alike: Python takes a compiled file for current by the time of its source.
_times = itertools.count(1_000_000_000)


def run_tests(tests, timeout, log):
    """Run tests in a fork of this process, up to the first failure; returns status and seconds."""
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        import pytest

        code = pytest.main(["-x", "--tb=line", "-p", "no:xdist", "-p", "no:cov", *tests])
        os._exit(int(code))
    while True:
        done, code = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - begin
        if done:
            unnoticed = os.waitstatus_to_exitcode(code) in (0, 5)  # pytest's codes of success and of no tests
            return ("survived" if unnoticed else "killed"), seconds
        if seconds > timeout:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout", seconds
        time.sleep(0.02)


def main():
    """Answer requests until there are no more."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # only saves time
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    log = Path("worker.log").resolve()
    for line in sys.stdin:
        request = json.loads(line)
        path = Path(request["path"])
        original, stamp = path.read_bytes(), path.stat().st_mtime_ns
        try:
            path.write_text(request["text"], encoding="utf-8")
            seconds = next(_times)
            os.utime(path, (seconds, seconds))
            status, seconds = run_tests(request["tests"], request["timeout"], log)
        finally:
            path.write_bytes(original)
            os.utime(path, ns=(stamp, stamp))
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.MULTILINE)
        by = failed[1] if failed else ""
        print(json.dumps({"status": status, "seconds": round(seconds, 2), "by": by}), file=replies, flush=True)


if __name__ == "__main__":
    main()

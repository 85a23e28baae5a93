"""A pytest plugin that writes how long each passed test took, as JSON to the file named by ``MUTANTS_DURATIONS``."""

import json
import os
from collections import defaultdict
from pathlib import Path

_seconds: defaultdict[str, float] = defaultdict(float)
_failed: set[str] = set()


def pytest_runtest_logreport(report):
    """Add up set-up, call and tear-down."""
    _seconds[report.nodeid] += report.duration
    if report.outcome != "passed":
        _failed.add(report.nodeid)


def pytest_sessionfinish():
    """Write what passed."""
    passed = {name: seconds for name, seconds in _seconds.items() if name not in _failed}
    Path(os.environ["MUTANTS_DURATIONS"]).write_text(json.dumps(passed), encoding="utf-8")

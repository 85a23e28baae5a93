"""Runs the steps of a first contact in a worker process, and keeps their results: JSON, and a page."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from contact.context import STEPS, Context, Skip
from contact.page import write_page
from speechbrain_mamba.utils.files import write_json

DONE = ("pass", "skip")
STARTING = 60
"""Seconds to start a process and import torch."""
ROOT = Path(__file__).parents[2]


def machine_key(context: Context) -> str:
    """What results belong to: device, backend, torch and the source of the package and of these steps."""
    source = hashlib.sha256()
    for folder in ("speechbrain_mamba", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            source.update(path.read_bytes())
    gpu = torch.cuda.get_device_name(context.device) if context.is_gpu else "cpu"
    return f"{gpu}, {context.backend}, torch {torch.__version__}, source {source.hexdigest()[:12]}"


def step_path(context: Context, name: str) -> Path:
    """The file of one step's result."""
    return context.folder / "steps" / f"{''.join(c if c.isalnum() else '_' for c in name)}.json"


def write_result(context: Context, name: str, status: str, seconds: float, reason: str = "", data: Any = None) -> None:
    """Keep a result."""
    result = {"step": name, "status": status, "seconds": round(seconds, 2), "reason": reason, "data": data}
    write_json(step_path(context, name), result | {"machine": machine_key(context)})


def read_result(context: Context, name: str) -> dict[str, Any] | None:
    """The result of a step on this machine and source, None if there is none."""
    path = step_path(context, name)
    if not path.exists():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if result["machine"] == machine_key(context) else None


def run_one(context: Context, name: str) -> None:
    """Run a step in this process, and keep its result."""
    start = time.perf_counter()
    try:
        data = STEPS[name].run(context)
        if context.is_gpu:
            torch.cuda.synchronize(context.device)
        status, reason = "pass", ""
    except Skip as skip:
        status, reason, data = "skip", str(skip), None
    except Exception as error:
        status, reason = "fail", f"{type(error).__name__}: {error}"
        data = {"traceback": traceback.format_exc().splitlines()[-12:]}
    write_result(context, name, status, time.perf_counter() - start, reason, data)
    if context.is_gpu and status == "fail":
        torch.cuda.synchronize(context.device)  # raises, and ends this process, if the GPU is in an undefined state
    torch.manual_seed(0)


def work(context: Context, names: list[str]) -> None:
    """The worker: run steps one after the other, as many as the caller allows."""
    for name in names:
        print(name, flush=True)
        run_one(context, name)


def run_steps(context: Context, names: list[str], worker: list[str], seconds: float, again: bool) -> int:
    """Run steps that are not done in a worker; a new one takes over where one dies or a step takes too long.

    Arguments
    ---------
    context : Context
        Where.
    names : list of str
        The steps.
    worker : list of str
        Command of a worker, to which the names are added.
    seconds : float
        When to stop; what was not finished then is left to the next command.
    again : bool
        Whether to repeat steps that are done.

    Returns
    -------
    int
        1 if a step failed, otherwise 0.
    """
    results = {name: read_result(context, name) for name in names}
    if not again:
        rest = [name for name in names if (results[name] or {"status": ""})["status"] not in DONE]
    else:
        rest = list(names)
    for name in rest:
        step_path(context, name).unlink(missing_ok=True)
    end = time.monotonic() + seconds
    while rest and time.monotonic() < end:
        rest = _supervise(context, rest, worker, end)
    found = [read_result(context, name) or _no_time(name) for name in names]
    write_json(context.folder / "results.json", found)
    write_page(context.folder / "page.md", machine_key(context), found)
    counts = {status: sum(result["status"] == status for result in found) for status in ("pass", "fail", "skip")}
    print(f"{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped: {context.folder / 'page.md'}")
    return 1 if counts["fail"] else 0


def _no_time(name: str) -> dict[str, Any]:
    """The result of a step that was not started, which is not kept."""
    reason = "there was no time left: give the command again"
    return {"step": name, "status": "skip", "seconds": 0.0, "reason": reason, "data": None}


def _supervise(context: Context, names: list[str], worker: list[str], end: float) -> list[str]:
    """Run a worker until it ends or has to be ended; returns the steps that are left."""
    log = context.folder / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    left, started = list(names), time.monotonic()
    with open(log, "a", encoding="utf-8") as output:
        process = subprocess.Popen([*worker, "--steps", *names], stdout=output, stderr=subprocess.STDOUT)
    try:
        while left:
            name, ended = left[0], process.poll() is not None
            seconds = time.monotonic() - started
            if not step_path(context, name).exists():
                if ended:
                    reason = f"the process ended with code {process.returncode}: see {log}"
                elif time.monotonic() > end:
                    break
                elif seconds > STEPS[name].seconds + STARTING:
                    reason = f"it took more than the {STEPS[name].seconds} s that it has"
                else:
                    time.sleep(0.05)
                    continue
                write_result(context, name, "fail", seconds, reason)
                _report(context, left.pop(0))
                break
            _report(context, left.pop(0))
            started = time.monotonic()
    finally:
        if process.poll() is None and left:
            process.kill()
        process.wait()
    return left


def _report(context: Context, name: str) -> None:
    result = read_result(context, name)
    assert result is not None
    print(f"{result['status']}  {name}, {result['seconds']:.1f} s  {result['reason'][:300]}".rstrip(), flush=True)

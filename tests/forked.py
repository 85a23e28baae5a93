"""Programs in processes that are forked from one that has imported what training scripts import.

To import PyTorch, SpeechBrain and the package takes a process several seconds; here it is done once for all programs
that a test process starts. Several processes of one program are started, signaled and ended as torchrun does it:
tests/distributed/test_two_nodes.py and tests/cli/test_main.py start torchrun itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[1]
TRAINING = (
    "torch.distributed", "torch._dynamo", "speechbrain", "matplotlib.pyplot", "speechbrain_mamba.training.run",
    "speechbrain_mamba.training.script", "speechbrain_mamba.corpora", "speechbrain_mamba.inference.separation",
    "speechbrain_mamba.inference.recognition", "tests.training.conftest",
)  # fmt: skip
OPTIONAL = ("encodec", "fast_bss_eval", "torch.utils.tensorboard")
"""What recipes need beside; a test that starts one of them asks for the package first. The others are of TRAINING."""


class ForkedProcess:
    """A process that was forked; the interface is that of ``subprocess.Popen``.

    Arguments
    ---------
    server : ForkServer
        Which has started it.
    pid : int
        Its id.
    log : Path
        Where all goes that it says.
    """

    def __init__(self, server: ForkServer, pid: int, log: Path) -> None:
        self.server, self.pid, self.log = server, pid, log
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.ask(poll=self.pid)
        return self.returncode

    def wait(self, seconds: float = 600) -> int:
        """Wait for its end; it is an error if that does not come."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            assert time.monotonic() < deadline, f"hangs, having said: {self.said()}"
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")


class ForkServer:
    """Starts programs in processes that are forked from one that it starts first.

    Arguments
    ---------
    imported : sequence of str
        The modules that they find imported; the optional ones of recipes too if it is ``TRAINING``.
    """

    def __init__(self, imported: Sequence[str] = TRAINING) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "tests.forked", *imported]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def ask(self, **request: Any) -> Any:
        """Give the process a request, and return its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, arguments: list[str], log: Path, processes: int = 1, **environment: str) -> ForkedProcess:
        """Start a program.

        Arguments
        ---------
        arguments : list of str
            The script and its command line.
        log : Path
            A new file for what it says.
        processes : int
            How many; more than one are a group as under torchrun, whose place has the process that is returned.
        **environment : str
            Variables.
        """
        log.write_text("")
        given = {"arguments": list(map(str, arguments)), "log": str(log), "processes": processes}
        return ForkedProcess(self, self.ask(start=given | {"environment": environment}), log)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, which ends those that are left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


# --------------------------------------------------------------------------------------------- in the other process


def serve(answers: TextIO) -> dict[str, Any] | None:
    """Answer requests until there are no more. Returns what a forked process is to do, None in the one that forks."""
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            running.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            answers.close()
            return request["start"]
        else:
            running.add(answer)
        print(json.dumps(answer), file=answers, flush=True)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return None


def run(arguments: list[str], log: str, processes: int, environment: dict[str, str]) -> None:
    """Be the program, which ends as any other process of Python does."""
    for stream, name, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND)):
        os.dup2(os.open(name, flags), stream)
    os.dup2(1, 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # the other one has read ahead
    os.environ.update(environment)
    if processes > 1:
        launch(processes)
    import torch

    torch.seed()  # else it would draw what its siblings draw
    random.seed()
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    runpy.run_path(arguments[0], run_name="__main__")


def launch(count: int) -> None:
    """Fork processes, and return in each of them. This one never returns: it passes SIGTERM on, and tells the others to
    end when one has failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[int] = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()})
            return
        started.append(pid)

    def tell_all(*_: Any) -> None:
        for pid in started:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, tell_all)
    failed = False
    while started:
        pid, status = os.wait()
        started.remove(pid)
        if os.waitstatus_to_exitcode(status) and not failed:
            failed = True
            tell_all()
    sys.exit(int(failed))


def prepare(names: Sequence[str]) -> None:
    """Import what the programs are to find imported."""
    for name in names:
        importlib.import_module(name)
    if tuple(names) == TRAINING:
        for name in OPTIONAL:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        sys.modules["speechbrain.utils.logger"].get_environment_description = str  # as tests/conftest.py does


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some packages say something when they are imported
    prepare(sys.argv[1:])
    if (program := serve(answers)) is not None:
        run(**program)

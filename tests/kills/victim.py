"""A process that runs a recipe to be killed: it says where it is, and may kill itself at a file operation."""

from __future__ import annotations

import atexit
import importlib.util
import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

import torch
from matplotlib.figure import Figure

from speechbrain_mamba.training.brain import TrainingBrain
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from tests.conftest import HPARAMS

RECIPES = HPARAMS.parent / "recipes"
FILE_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
PHASES = {
    "set_up": "setting up", "prepare_data": "preparing the data", "make_datasets": "reading the data",
    "fit_batch": "in a step", "evaluate_batch": "evaluating a batch", "on_stage_end": "ending a stage",
    "on_evaluate_start": "loading the best", "write_results": "writing results", "export": "exporting",
    "results": "showing results",
}  # fmt: skip
"""What methods of a Brain do."""


class Place:
    """Where a process is, in memory that it shares with the one that forked it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self.write(0, "starting")

    def write(self, operations: int, text: str) -> None:
        """Say how many file operations came before, and what is done now."""
        data = text.encode()[:2000]
        self._memory[: 12 + len(data)] = struct.pack("<qi", operations, len(data)) + data

    def read(self) -> tuple[int, str]:
        """The number of file operations, and what is done."""
        operations, size = struct.unpack("<qi", self._memory[:12])
        return operations, self._memory[12 : 12 + size].decode(errors="replace")


def load_recipe(script: str) -> ModuleType:
    """A script of the recipes as a module. Modules beside it are found while it is imported."""
    path = RECIPES / f"{script}.py"
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(script.replace("/", "_"), path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


class Victim:
    """The recipe in a process of its own, forked from this one, which has imported everything.

    Arguments
    ---------
    recipe : ModuleType
        The training script.
    arguments : list of str
        Its command line.
    output : Path
        The output folder.
    log : Path
        Where all that it prints goes, behind what is there.
    die_at : int, optional
        The file operation in the output folder before which it kills itself, counted from 1.
    """

    def __init__(self, recipe: ModuleType, arguments: list[str], output: Path, log: Path, die_at: int = 0):
        self.place, self.log = Place(), log
        self._output, self._die_at, self._operations, self._phase = str(output), die_at, 0, "starting"
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(recipe, arguments)

    # ------------------------------------------------------------------------------------------- in the parent

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, negative after a signal; None if it still runs after these seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if deadline is not None and time.monotonic() >= deadline:
                return None
            time.sleep(0.0005)

    def kill(self) -> tuple[int, str]:
        """Kill it and what it has started; returns where it was."""
        place = self.place.read()
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        return place

    # -------------------------------------------------------------------------------------------- in the child

    def _live(self, recipe: ModuleType, arguments: list[str]) -> None:
        """Run the recipe; never returns."""
        code = 1
        try:
            os.setsid()
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(log, stream)
            sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
            torch.set_num_threads(1)  # again, while there is one thread: the pool of the parent is of no use here
            # A process of its own would not draw what its parent would draw next.
            random.seed()
            torch.seed()
            self._tell(recipe)
            recipe.main(arguments)
            atexit._run_exitfuncs()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _tell(self, recipe: ModuleType) -> None:
        """Let the recipe say where it is. Pictures are not drawn, and packages not listed: that takes seconds."""
        run, save = recipe.run_recipe, torch.save

        def run_recipe(brain_class: type[TrainingBrain], *options: object) -> None:
            for name, phase in PHASES.items():
                setattr(brain_class, name, self._in_phase(getattr(brain_class, name), phase))
            run(brain_class, *options)

        def save_tensors(*inputs: object, **options: object) -> None:
            self._operate(f"torch.save {inputs[1]}")
            save(*inputs, **options)
            self._operate(f"torch.save {inputs[1]}, done")

        recipe.run_recipe, torch.save = run_recipe, save_tensors
        for name, phase in (("save_checkpoint", "saving a checkpoint"), ("recover_if_possible", "recovering")):
            setattr(AtomicCheckpointer, name, self._in_phase(getattr(AtomicCheckpointer, name), phase))
        Figure.savefig = lambda figure, path, **options: Path(path).write_bytes(b"picture")
        sys.modules["speechbrain.utils.logger"].get_environment_description = str
        sys.addaudithook(self._audit)

    def _in_phase(self, method, phase: str):
        def call(owner, *inputs, **options):
            outer = self._phase
            numbers = f" {owner.epoch}:{owner.step}" if phase == "in a step" else ""
            self._phase = f"{outer}, {phase}{numbers}" if outer != "starting" else f"{phase}{numbers}"
            self.place.write(self._operations, self._phase)
            try:
                return method(owner, *inputs, **options)
            finally:
                self._phase = outer if outer != "starting" else "between"
                self.place.write(self._operations, self._phase)

        return call

    def _audit(self, event: str, details: tuple) -> None:
        if event == "open":
            path, _, flags = details
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(self._output):
                self._operate(f"open {path}")
        elif event in FILE_EVENTS and str(details[0]).startswith(self._output):
            self._operate(f"{event} {details[0]}")

    def _operate(self, what: str) -> None:
        """Count a file operation, and die if it is the one."""
        self._operations += 1
        if self._operations == self._die_at:
            short = what.replace(f"{self._output}/", "")
            self.place.write(self._operations, f"{self._phase}, {short}")
            os.kill(os.getpid(), signal.SIGKILL)
        self.place.write(self._operations, self._phase)

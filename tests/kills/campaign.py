"""Runs that are killed at random moments and started again until they are done."""

from __future__ import annotations

import csv
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tests.kills.comparison import compare_runs, list_temporary
from tests.kills.tiny_runs import TINY_RUNS
from tests.kills.victim import Victim, load_recipe

KILLS_PER_RUN = 5
"""After so many kills a run is left alone; another one begins."""


@dataclass
class Kill:
    """One kill: of which run, by what, when, and where it was."""

    recipe: str
    run: int
    kill: int
    by: str
    moment: str
    where: str
    last_line: str
    outcome: str = ""


@dataclass
class Outcome:
    """What came of the kills of a recipe."""

    recipe: str
    kills: list[Kill]
    failures: list[str]
    seconds: float

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {by}" for by, count in sorted(Counter(kill.by for kill in self.kills).items()))
        runs = len({kill.run for kill in self.kills})
        found = "all equal to the uninterrupted one" if not self.failures else f"{len(self.failures)} FAILED"
        return f"{self.recipe}: {len(self.kills)} kills ({kinds}) of {runs} runs, {found}; {self.seconds:.0f} s"


class Campaign:
    """Kills of one recipe.

    Arguments
    ---------
    recipe : str
        The name of a run in ``TINY_RUNS``.
    folder : Path
        Where everything goes: ``data``, ``expected`` of the uninterrupted run, and a folder of each other one; those
        of runs that are equal are removed.
    seed : int
        Of the moments.
    """

    def __init__(self, recipe: str, folder: Path, seed: int = 0):
        self.recipe, self.folder, self.tiny = recipe, folder / recipe, TINY_RUNS[recipe]
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.data = self.tiny.make_data(self.folder / "data")
        self.module = load_recipe(self.tiny.script)
        self.random = random.Random(f"{recipe} {seed}")
        self.expected = self.folder / "expected"
        start = time.monotonic()
        victim = self.start(self.expected)
        code = victim.wait()
        if code:
            raise RuntimeError(f"The uninterrupted run of {recipe} has failed, see {victim.log}.")
        self.duration, (self.operations, _) = time.monotonic() - start, victim.place.read()

    def start(self, output: Path, die_at: int = 0) -> Victim:
        """Start the command in a process."""
        arguments = self.tiny.arguments(output, self.data)
        return Victim(self.module, arguments, output, output.with_suffix(".log"), die_at)

    def kill_once(self, output: Path, by: str, moment: float) -> tuple[str, str] | int:
        """Start the command and kill it.

        Arguments
        ---------
        output : Path
            The output folder.
        by : str
            ``time``: after some seconds. ``file``: before a file operation of some number.
        moment : float
            The seconds or the number.

        Returns
        -------
        tuple of str, or int
            Where it was and its last line; the exit code if it ended before.
        """
        victim = self.start(output, int(moment) if by == "file" else 0)
        code = victim.wait(moment if by == "time" else None)
        if code is not None and code != -9:
            return code
        _, where = victim.kill() if code is None else victim.place.read()
        lines = victim.log.read_text(errors="replace").splitlines()
        return where, lines[-1][:200] if lines else ""

    def run(self, kills: int, kinds: Sequence[str] = ("time", "file")) -> Outcome:
        """Kill runs so many times, each of them a few times, and compare what they leave in the end."""
        start, found, failures, number = time.monotonic(), [], [], 0
        while len(found) < kills:
            number += 1
            own: list[Kill] = []
            output = self.folder / f"run{number}"
            code: int | None = None
            while len(found) + len(own) < kills and len(own) < KILLS_PER_RUN and code is None:
                by = kinds[(len(found) + len(own)) % len(kinds)]
                limit = self.duration if by == "time" else self.operations
                # Early moments come more often, so that a run is killed a few times before it is done.
                moment = self.random.uniform(0, limit) * self.random.choice([0.5, 1.0])
                moment = round(moment, 3) if by == "time" else 1 + int(moment)
                result = self.kill_once(output, by, moment)
                if isinstance(result, int):
                    code = result  # it was done, or it failed, before the kill
                else:
                    own.append(Kill(self.recipe, number, len(own) + 1, by, str(moment), *result))
            code = self.start(output).wait() if code is None else code
            differences = [f"exit code {code}"] if code else compare_runs(self.expected, output)
            differences += [] if code else [f"{name} is left over" for name in list_temporary(output)]
            for kill in own:
                kill.outcome = "; ".join(differences) or "equal"
            found += own
            if differences:
                places = " | ".join(kill.where for kill in own)
                failures.append(f"{self.recipe} run {number} (killed: {places}): {'; '.join(differences)}")
            else:
                shutil.rmtree(output)
                output.with_suffix(".log").unlink()
        return Outcome(self.recipe, found, failures, time.monotonic() - start)


def write_kills(path: Path, kills: list[Kill]) -> None:
    """Write a row for each kill."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Kill)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, kills))

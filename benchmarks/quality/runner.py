"""Runs what a study needs, in an order in which all systems have had the same when the time is over. Several processes
may run one study: each takes what no other one has begun."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml

import tune
from quality.items import READERS
from quality.machine import MACHINE, describe_machine
from quality.study_file import ROOT, Study, System
from quality.training_run import Outcome, read_outcome, run_training
from sharing import OutOfTime, work_through
from speechbrain_mamba.utils.files import atomic_path, write_csv, write_json
from speechbrain_mamba.utils.hparams import read_hparams, select_hparams

STEPS, TIME = "equal steps", "equal time"
"""The two comparisons: all systems are trained for the same number of epochs, or for the same computing time."""

RUN_COLUMNS = [
    "comparison", "system", "seed", "with", "status", "reason", "parameters", "epochs", "seconds_per_epoch", "clock",
    "score_name", "score", "settings",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A training of a study."""

    comparison: str
    system: str
    seed: int
    repeated_with: str
    """The name of further options, "" without."""

    epochs: int
    folder: Path

    @property
    def key(self) -> dict[str, Any]:
        """The columns that name it in tables."""
        return {"comparison": self.comparison, "system": self.system, "seed": self.seed, "with": self.repeated_with}

    @property
    def label(self) -> str:
        """The system and what it is trained with, in words."""
        return f"{self.system}, seed {self.seed}" + (f", {self.repeated_with}" if self.repeated_with else "")


class Runner:
    """A study in the folder of its results.

    Arguments
    ---------
    study : Study
        The study.
    out : Path
        The folder.
    budget : float
        Seconds after which a training is stopped, with a checkpoint, and no other one starts. A trial of the tuning is
        let to its end.
    options : sequence of str
        Options for all trainings, such as ``--device cuda``.
    """

    def __init__(self, study: Study, out: Path, budget: float, options: Sequence[str] = ()) -> None:
        self.study, self.out, self.options = study, out, list(options)
        self.end = time.monotonic() + budget
        self.parameters: dict[str, int] = {}

    @property
    def claims(self) -> Path:
        """The folder in which processes claim their tasks."""
        return self.out / "claims"

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.end - time.monotonic()

    def check_time(self) -> None:
        """End what is not begun yet."""
        if self.left <= 0:
            raise OutOfTime

    # ------------------------------------------------------------------------------------------------- what is there

    def hparams(self, system: System) -> Path:
        """The hyper-parameters of a system as the trainings read them."""
        return self.out / "hparams" / self.study.task / f"{system.name}.yaml"

    def write_hparams(self) -> None:
        """Write the hyper-parameters of the systems with the options of the study.

        Raises
        ------
        ValueError
            When the study was begun with others, or the numbers of parameters differ too much.
        """
        given = dict(next(iter(self.study.repeated_with.values()), {})) | self._given()
        for system in self.study.systems:
            text = read_hparams(system.hparams, system.options)
            path = self.hparams(system)
            if path.is_file() and path.read_text(encoding="utf-8") != text:
                raise ValueError(
                    f"'{path}' has other settings than the study now: give another --out, or remove '{self.out}' to "
                    "start again."
                )
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            resolved = read_hparams(path, given) if given else text
            modules = load_hyperpyyaml(select_hparams(resolved, ["modules"]))["modules"]
            self.parameters[system.name] = sum(p.numel() for p in torch.nn.ModuleDict(modules).parameters())
        base = self.parameters[self.study.baseline]
        far = {
            name: count for name, count in self.parameters.items() if abs(count / base - 1) > self.study.sizes_within
        }
        if far:
            named = ", ".join(f"{name} has {count:,}" for name, count in far.items())
            raise ValueError(
                f"{self.study.baseline} has {base:,} parameters, but {named}: systems of one study differ by "
                f"{self.study.sizes_within:.0%} at most. Change their sizes, or sizes_within."
            )

    def _given(self) -> dict[str, Any]:
        """The options of the command line that are hyper-parameters of the systems."""
        _, _, overrides, _ = parse_options(self.options)
        return dict(overrides)

    # ---------------------------------------------------------------------------------------------------- the stages

    def prepare(self) -> None:
        """Run the commands that prepare data, once, and the data that all runs share."""
        commands = [[sys.executable, str(ROOT / words[0]), *words[1:]] for words in map(str.split, self.study.prepare)]
        if self.study.shared_data is not None:
            first = self.study.systems[0]
            data = dict(self.study.shared_data)
            command = [sys.executable, str(self.study.recipe), str(self.hparams(first)), "--data_prep_only", "True"]
            command += ["--output_folder", str(self.data), *(p for k, v in data.items() for p in (f"--{k}", str(v)))]
            commands.append([*command, *self.options])

        def missing() -> list[list[str]]:
            return [command for command in commands if command not in self.prepared()][:1]  # one needs those before it

        work_through(missing, self.run_preparation, lambda command: self.claims / "preparation", self.check_time)

    def prepared(self) -> list[list[str]]:
        """The commands of the preparation that are done."""
        done = self.out / "prepared.json"
        return json.loads(done.read_text(encoding="utf-8")) if done.is_file() else []

    def run_preparation(self, command: list[str]) -> None:
        """Run a command of the preparation."""
        print(f"Preparing: {' '.join(command[1:])}", flush=True)
        log = self.out / "preparation.txt"
        with open(log, "w", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, check=False).returncode
        if code:
            raise RuntimeError(f"The preparation failed. {tune.last_sentence(log, code)}")
        write_json(self.out / "prepared.json", [*self.prepared(), command])

    @property
    def data(self) -> Path:
        """The folder of the data that all runs share."""
        return (self.out / "data").absolute()

    def set_up(self, folder: Path) -> None:
        """Give a run the shared data: the same mixtures or utterances, whatever its seed."""
        if self.study.shared_data is not None:
            (folder / "save").mkdir(parents=True, exist_ok=True)
            for path in (self.data / "save").glob("*.csv"):
                if not (folder / "save" / path.name).exists():
                    shutil.copy(path, folder / "save" / path.name)

    def run_options(self, repeated_with: str = "") -> list[str]:
        """Options of all trainings, and those of a name in ``repeated_with``."""
        shared = ["--skip_prep", "True"] if self.study.shared_data is not None else []
        own = self.study.repeated_with[repeated_with] if repeated_with else {}
        return [*shared, *(part for key, value in own.items() for part in (f"--{key}", str(value))), *self.options]

    def tune(self) -> None:
        """Run the trials."""
        tuning = self.study.tuning
        if not tuning.trials:
            return
        parsed = argparse.Namespace(
            hparams=[self.hparams(system) for system in self.study.systems], trials=tuning.trials,
            epochs=tuning.epochs, seeds=[0], space=[tune.Range.parse(text) for text in tuning.space],
            minutes=self.left / 60, trial_minutes=math.inf, out=self.out / "tuning",
            options=self.run_options(self.study.repeats[0][1]),
        )  # fmt: skip
        tune.Trials(parsed, self.set_up).run()

    def best_options(self, system: str) -> dict[str, str]:
        """The values of a system's best trial."""
        tuning = self.study.tuning
        if not tuning.trials:
            return {}
        found = tune.best_trial(tune.read_rows(self.out / "tuning" / "trials.csv"), system, 1)
        if found is None:
            raise RuntimeError(f"No trial of {system} was successful: see '{self.out / 'tuning' / 'trials.csv'}'.")
        keys = [tune.Range.parse(text).key for text in tuning.space]
        return {key: found[1][key] for key in keys if found[1][key] != ""}  # empty: the system has no such key

    def runs(self, comparison: str) -> Iterator[Run]:
        """The runs of a comparison, seed by seed, with all systems of a seed and what it is repeated with."""
        epochs = {system.name: self.study.epochs for system in self.study.systems}
        if comparison == TIME:
            epochs = self.epochs_of_equal_time()
        for seed, repeated_with in self.study.repeats:
            for system in self.study.systems:
                number = epochs.get(system.name)
                if number is None:  # a system whose trainings failed has no time
                    continue
                kind = "steps" if number == self.study.epochs else "time"
                folder = self.out / "runs" / kind / system.name / repeated_with / str(seed)
                yield Run(comparison, system.name, seed, repeated_with, number, folder)

    def seconds_per_epoch(self, system: str) -> float | None:
        """Seconds of a system's epoch: the mean over the seeds of the runs of equal steps."""
        found = [read_outcome(run.folder) for run in self.runs(STEPS) if run.system == system]
        seconds = [each.seconds_per_epoch for each in found if each is not None and each.seconds_per_epoch]
        return statistics.mean(seconds) if seconds else None

    def epochs_of_equal_time(self) -> dict[str, int]:
        """As many epochs of each system as take the time of the fastest one's training.

        Systems that have no time, since their trainings failed, are left out.
        """
        seconds = {system.name: self.seconds_per_epoch(system.name) for system in self.study.systems}
        known = {name: value for name, value in seconds.items() if value}
        fastest = min(known.values(), default=0.0)
        return {name: max(1, round(self.study.epochs * fastest / value)) for name, value in known.items()}

    def train(self, comparison: str) -> None:
        """Run the trainings of a comparison that are missing."""
        runs = list(self.runs(comparison))

        def missing() -> list[Run]:
            over = ("done", "failed")
            return [run for run in runs if (read_outcome(run.folder) or Outcome("")).status not in over]

        def train(run: Run) -> None:
            self.train_one(run, f"{comparison}, {len(missing())} of {len(runs)} runs left: {run.label}")

        def claimed(run: Run) -> Path:
            return self.claims / "_".join(run.folder.relative_to(self.out).parts)

        work_through(missing, train, claimed, self.check_time)
        self.collect()

    def train_one(self, run: Run, name: str) -> None:
        """Run one training, or resume it; ``name`` is what it is called in messages."""
        self.set_up(run.folder)
        command = [sys.executable, str(self.study.recipe), str(self.hparams(self.study.system(run.system)))]
        values = self.best_options(run.system)
        command += [part for key, value in values.items() for part in (f"--{key}", value)]
        command += ["--seed", str(run.seed), "--number_of_epochs", str(run.epochs)]
        command += ["--output_folder", str(run.folder.absolute()), *self.run_options(run.repeated_with)]

        def tell(epoch: int, seconds: float | None) -> None:
            spent = f", {seconds:.0f} s per epoch" if seconds else ""
            print(f"{name}: epoch {epoch} of {run.epochs}{spent}, {self.left / 60:.0f} min left", flush=True)

        outcome = run_training(command, run.folder, run.epochs, self.left, self.on_gpu, tell)
        print(f"{name}: {outcome.status}{outcome.reason and ': ' + outcome.reason}", flush=True)
        self.collect()
        write_json(self.out / MACHINE, describe_machine())
        if outcome.status == "stopped":
            raise OutOfTime

    @property
    def on_gpu(self) -> bool:
        """Whether the trainings are on a GPU."""
        return any(part.startswith("cuda") for part in self.options)

    def work(self) -> bool:
        """Do all that is left to do; returns whether the study is complete."""
        try:
            self.write_hparams()
            self.prepare()
            self.tune()
            self.train(STEPS)
            if self.study.equal_time:
                self.train(TIME)
        except OutOfTime:
            return False
        finally:
            self.collect()
        return True

    # ------------------------------------------------------------------------------------------------------- results

    def collect(self) -> None:
        """Write ``runs.csv`` and ``items.csv``, of all runs so far."""
        runs, items = [], []
        # equal time is known when all epochs of equal steps are
        known = all(
            outcome is not None and outcome.status in ("done", "failed")
            for outcome in (read_outcome(run.folder) for run in self.runs(STEPS))
        )
        comparisons = [STEPS] + [TIME] * (self.study.equal_time and known)
        for comparison in comparisons:
            for run in self.runs(comparison):
                outcome = read_outcome(run.folder)
                if outcome is None:
                    continue
                values = self.best_options(run.system)
                runs.append(
                    {
                        **run.key, "status": outcome.status, "reason": outcome.reason,
                        "parameters": self.parameters.get(run.system, ""), "epochs": run.epochs,
                        "seconds_per_epoch": round(outcome.seconds_per_epoch or math.nan, 2), "clock": outcome.clock,
                        "score_name": outcome.score_name, "score": outcome.score,
                        "settings": " ".join(f"{key}={value}" for key, value in values.items()),
                    }
                )  # fmt: skip
                if outcome.status == "done":
                    items += [{**run.key, **item} for item in READERS[self.study.items](run.folder)]
        columns = list(dict.fromkeys(name for item in items for name in item))
        if runs:
            write_csv(self.out / "runs.csv", runs, RUN_COLUMNS)
        if items:
            write_csv(self.out / "items.csv", items, columns)


def parse_options(options: Sequence[str]) -> tuple[str, Any, dict[str, Any], bool]:
    """Take the options for the recipes apart as they do themselves."""
    from speechbrain_mamba.training.run import parse_arguments

    return parse_arguments(["study.yaml", *options])

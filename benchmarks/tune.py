#!/usr/bin/env python3
"""Tune systems that are to be compared: the same trials of learning rate, warm-up and dropout for each of them.

    python benchmarks/tune.py hparams/tts/mini_vallm.yaml hparams/tts/mini_valle.yaml --trials 8 --epochs 2 \
        --out results/tuning/tts -- --token_folder results/tokens

A trial is a training by the system's recipe, judged by its best epoch on validation data; it ends before the test. The
first trial has the values of the file, the others values that fill --space evenly, the same for all systems: of the
first two, one is in the upper half of each range and one in the lower. A key that only some of the files have, such as
dropout, varies for these alone. Options after -- go to the recipes.

OUT/trials.csv gets a row for each trial and seed. The same command again goes on where it was: finished trials are not
run again, and one that was interrupted resumes. At the same time in a second terminal it shares the work. A trial that
fails, such as one whose loss is not finite any more, has a sentence in the table instead of a score.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from torch.quasirandom import SobolEngine

from sharing import OutOfTime, work_through
from speechbrain_mamba.utils.files import write_csv, write_json
from speechbrain_mamba.utils.hparams import read_hparams

ROOT = Path(__file__).parents[1]
SPACE = ["lr=3e-4:6e-3:log", "n_warmup_steps=50:800:log", "dropout=0,0.1,0.2"]
SCORES = {"valid_si_snr": 1, "greedy_WER": -1, "TER": -1, "valid_EER": -1, "EER": -1, "valid_mel": -1, "valid_loss": -1}
"""Columns of ``training.csv`` to go by, the first that is there, and whether more is better."""
TABLE, ROW = "trials.csv", "trial.json"
"""The table in the folder of all trials, and its row in the folder of one."""
POLL = 0.5
"""Seconds between two looks at a training."""


@dataclass(frozen=True)
class Range:
    """The values that a key may have: some, or all between two, evenly or evenly in their logarithms."""

    key: str
    values: tuple[float, ...]
    law: str = "choice"
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read ``KEY=A,B,C`` or ``KEY=LOW:HIGH`` or ``KEY=LOW:HIGH:log``."""
        key, _, values = text.strip().partition("=")
        law = "choice"
        try:
            if not key:
                raise ValueError
            if ":" in values:
                low, high, *rest = values.split(":")
                numbers, law = [float(low), float(high)], rest[0] if rest else "even"
                if len(rest) > 1 or law not in ("even", "log") or numbers[0] >= numbers[1]:
                    raise ValueError
                if law == "log" and numbers[0] <= 0:
                    raise ValueError
                written = [low, high]
            else:
                written = values.split(",")
                numbers = [float(value) for value in written]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"'{text}' is no range: give KEY=LOW:HIGH, KEY=LOW:HIGH:log with positive numbers, or KEY=A,B,C."
            ) from None
        return cls(key, tuple(numbers), law, all(value.strip().lstrip("-").isdigit() for value in written))

    def at(self, place: float) -> float | int:
        """The value at a place from 0, the lowest or first one, to 1.

        Example
        -------
        >>> Range.parse("lr=0.001:0.1:log").at(0.5), Range.parse("dropout=0,0.1").at(0.75)
        (0.01, 0.1)
        """
        if self.law == "choice":
            value = self.values[min(int(place * len(self.values)), len(self.values) - 1)]
        elif self.law == "log":
            low, high = map(math.log, self.values)
            value = math.exp(low + place * (high - low))
        else:
            value = self.values[0] + place * (self.values[1] - self.values[0])
        return round(value) if self.whole else float(f"{value:.3g}")


def trial_values(space: Sequence[Range], trial: int) -> dict[str, float | int]:
    """The values of a trial, the same for all systems; none for the first one, which has those of the file.

    They are points of a Sobol sequence, which fill the space evenly however many there are. Two or three random points
    would not: they may nearly be one, or all lie below the file's. The sequence begins behind its middle, where the
    file's values are likely to be. Its keys but the first are reversed, so that the first two trials are a high rate
    with a long warm-up, and a low one with a short one.
    """
    if not trial:
        return {}
    places = SobolEngine(len(space)).fast_forward(trial + 1).draw(1)[0].tolist()
    return {part.key: part.at(1 - place if index else place) for index, (part, place) in enumerate(zip(space, places))}


def own_values(hparams: Path, space: Sequence[Range]) -> dict[str, Any]:
    """What the file says of the keys that it has."""
    settings = YAML().load(read_hparams(hparams))
    return {part.key: settings[part.key] for part in space if part.key in settings}


def check_keys(own: Mapping[Path, Mapping[str, Any]], space: Sequence[Range]) -> None:
    """Raise a SystemExit for a key that no file has."""
    missing = [part.key for part in space if not any(part.key in values for values in own.values())]
    if missing:
        files = " and ".join(map(str, own))
        raise SystemExit(f"error: there is no key {', '.join(missing)} in {files}: leave it out of --space.")


def read_best(folder: Path) -> tuple[str, float, int, int] | None:
    """The column that decides, its best value, the epoch of that and the last epoch in a training's table.

    Of epochs with the same value, the one with the least ``valid_loss`` is the best.
    """
    rows = read_rows(folder / "training.csv")
    if not rows:
        return None
    column = next((name for name in SCORES if name in rows[0]), None)
    if column is None:
        return None
    found = [(float(row[column] or "nan"), -read_loss(row), int(row["epoch"])) for row in rows]
    found = [each for each in found if math.isfinite(each[0])]
    if not found:
        return column, math.nan, 0, int(rows[-1]["epoch"])
    value, _, epoch = max(found, key=lambda each: (SCORES[column] * each[0], each[1]))
    return column, value, epoch, int(rows[-1]["epoch"])


def read_loss(row: Mapping[str, Any]) -> float:
    """The ``valid_loss`` of an epoch or a trial; infinity if there is none."""
    loss = float(row.get("valid_loss") or "inf")
    return math.inf if math.isnan(loss) else loss


def run_trial(command: Sequence[str], folder: Path, epochs: int, limit: float) -> dict[str, Any]:
    """Run a training until its last epoch has been validated; returns the columns of its row that say how it went."""
    start, why = time.monotonic(), ""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "trial.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            while process.poll() is None:
                time.sleep(POLL)
                if time.monotonic() - start > limit:
                    why = f"It took longer than {limit / 60:g} minutes."
                    break
                best = read_best(folder)
                if best is not None and best[3] >= epochs:
                    break  # the test is not for tuning
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    best = read_best(folder)
    if not why and (best is None or best[3] < epochs):
        why = last_sentence(folder / "trial.txt", process.returncode)
    elif not why and best is not None and math.isnan(best[1]):
        why = "No score was finite."
    column, score, epoch, _ = best or ("", math.nan, 0, 0)
    failed = bool(why)
    row = next((row for row in read_rows(folder / "training.csv") if row["epoch"] == str(epoch)), {})
    return {
        "status": "failed" if failed else "done", "score_name": column, "score": "" if failed else score,
        "valid_loss": "" if failed else row.get("valid_loss", ""),
        "best_epoch": "" if failed else epoch, "seconds": round(time.monotonic() - start, 1), "reason": why,
    }  # fmt: skip


def last_sentence(log: Path, code: int) -> str:
    """What a training said at last: its error if there is one."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    said = (errors or lines or ["it said nothing"])[-1]
    return f"It ended with exit code {code}: {said[:300]}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def best_trial(rows: Sequence[Mapping[str, Any]], system: str, seeds: int) -> tuple[float, Mapping[str, Any]] | None:
    """The best mean score of a system over the seeds, and the first row of that trial; None if no trial is whole.

    Trials with a failed seed do not count. Of trials with the same score, such as recognizers that do not say a word
    yet, the one with the least ``valid_loss`` is the best.
    """
    trials: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["system"] == system:
            trials.setdefault(str(row["trial"]), []).append(row)
    whole = [part for part in trials.values() if len(part) >= seeds and all(row["status"] == "done" for row in part)]
    if not whole:
        return None

    def goodness(part: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        score = statistics.mean(float(row["score"]) for row in part)
        return SCORES[part[0]["score_name"]] * score, -statistics.mean(map(read_loss, part))

    best = max(whole, key=goodness)
    return statistics.mean(float(row["score"]) for row in best), best[0]


def print_best(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], seeds: int) -> None:
    """Print the best trial of each system."""
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]
        trials, failed = len({str(row["trial"]) for row in own}), sum(row["status"] == "failed" for row in own)
        counts = f"{trials} trials, {failed} failed runs"
        found = best_trial(rows, system, seeds)
        if found is None:
            print(f"{system}: no trial is whole, {counts}")
            continue
        score, best = found
        options = " ".join(f"--{key} {best[key]}" for key in keys if best[key] != "")
        print(f"{system}: {best['score_name']} {score:.4g} with {options} (trial {best['trial']}; {counts})")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hparams", nargs="+", type=Path, help="files of the systems, in folders named by their task")
    parser.add_argument("--trials", type=int, required=True, help="trials of each system, the first of its own values")
    parser.add_argument("--epochs", type=int, required=True, help="epochs of a trial")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1234], help="seeds that each trial is run with")
    parser.add_argument("--space", type=Range.parse, nargs="+", default=[Range.parse(text) for text in SPACE])
    parser.add_argument("--minutes", type=float, default=math.inf, help="no trial is started after these")
    parser.add_argument("--trial_minutes", type=float, default=math.inf, help="a trial that takes longer has failed")
    parser.add_argument("--out", type=Path, required=True, help="folder of trials.csv and of the trainings")
    parsed = parser.parse_args(given[:cut])
    parsed.options = given[cut + 1 :]
    if parsed.trials < 1 or parsed.epochs < 1:
        parser.error(f"--trials is {parsed.trials} and --epochs {parsed.epochs}, but both must be at least 1.")
    for file in parsed.hparams:
        if not file.is_file() or not (ROOT / "recipes" / file.resolve().parent.name / "train.py").is_file():
            parser.error(f"{file} is no hyper-parameter file in a folder named by a task, such as hparams/asr.")
    return parsed


class Trial(NamedTuple):
    """A training of a system with some values."""

    number: int
    seed: int
    file: Path

    @property
    def key(self) -> tuple[str, int, int]:
        """What names its row in the table."""
        return self.file.stem, self.number, self.seed


class Trials:
    """The trials of a command line.

    Arguments
    ---------
    parsed : argparse.Namespace
        What :func:`parse_arguments` gives.
    set_up : callable
        Called with the output folder of each training before it starts.
    """

    def __init__(self, parsed: argparse.Namespace, set_up: Callable[[Path], None] = lambda folder: None) -> None:
        self.parsed, self.set_up = parsed, set_up
        self.own = {file: own_values(file, parsed.space) for file in parsed.hparams}
        check_keys(self.own, parsed.space)
        self.end = time.monotonic() + 60 * parsed.minutes
        numbers = range(parsed.trials)
        # trial by trial, so that all systems have as many when the time is over
        self.all = [Trial(n, seed, file) for n in numbers for seed in parsed.seeds for file in parsed.hparams]

    def run(self) -> None:
        """Run those that are missing, together with other processes that do so.

        Raises
        ------
        OutOfTime
            When the minutes are over before all are there.
        """
        work_through(self.missing, self.run_one, self.claim_of, self.check_time)

    def check_time(self) -> None:
        """End what is not begun yet."""
        if time.monotonic() > self.end:
            raise OutOfTime

    def folder(self, trial: Trial) -> Path:
        """Where a trial's training is."""
        return self.parsed.out / trial.file.stem / f"trial_{trial.number}" / str(trial.seed)

    def claim_of(self, trial: Trial) -> Path:
        """What a process claims that runs a trial."""
        return self.parsed.out / "claims" / "_".join(map(str, trial.key))

    def values(self, trial: Trial) -> dict[str, Any]:
        """The values of the keys that a trial's system has."""
        drawn = trial_values(self.parsed.space, trial.number)
        return {key: drawn.get(key, value) for key, value in self.own[trial.file].items()}

    def known(self) -> dict[tuple[str, int, int], dict[str, Any]]:
        """The rows of what is done: those of the table, and of trials that have ended since it was written."""
        table = read_rows(self.parsed.out / TABLE)
        found: dict[tuple[str, int, int], dict[str, Any]] = {
            (row["system"], int(row["trial"]), int(row["seed"])): dict(row) for row in table
        }
        for trial in self.all:
            path = self.folder(trial) / ROW
            if trial.key not in found and path.is_file():
                found[trial.key] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def missing(self) -> list[Trial]:
        """What is not done, in order."""
        known, keys = self.known(), [part.key for part in self.parsed.space]
        for trial in self.all:
            row, values = known.get(trial.key), self.values(trial)
            if row is None:
                continue
            same = all(str(row.get(key, "")) == str(values.get(key, "")) for key in keys)
            if not same or str(row["epochs"]) != str(self.parsed.epochs):
                table = self.parsed.out / TABLE
                raise SystemExit(f"error: {table} has other values for trial {trial.number}: give another --out.")
        return [trial for trial in self.all if trial.key not in known]

    def run_one(self, trial: Trial) -> None:
        """Run a trial, and write its row."""
        folder, values, task = self.folder(trial), self.values(trial), trial.file.resolve().parent.name
        command = [sys.executable, str(ROOT / "recipes" / task / "train.py"), str(trial.file.resolve())]
        changed = values if trial.number else {}
        command += [part for key, value in changed.items() for part in (f"--{key}", str(value))]
        command += ["--seed", str(trial.seed), "--number_of_epochs", str(self.parsed.epochs)]
        command += ["--output_folder", str(folder.resolve()), *self.parsed.options]
        self.set_up(folder)
        result = run_trial(command, folder, self.parsed.epochs, 60 * self.parsed.trial_minutes)
        row = {"system": trial.file.stem, "trial": trial.number, "seed": trial.seed, "epochs": self.parsed.epochs}
        row |= {part.key: values.get(part.key, "") for part in self.parsed.space} | result
        write_json(folder / ROW, row)  # first, for other processes that write the table
        known = self.known()
        places = {each.key: place for place, each in enumerate(self.all)}
        ordered = [known[key] for key in sorted(known, key=lambda key: places.get(key, len(places)))]
        write_csv(self.parsed.out / TABLE, ordered, list(row))
        print(
            f"{trial.file.stem}, trial {trial.number}, seed {trial.seed}: {row['reason'] or row['score']}", flush=True
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials that are missing, and print the best ones."""
    parsed = parse_arguments(arguments)
    try:
        Trials(parsed).run()
    except OutOfTime:
        print(f"The {parsed.minutes:g} minutes are over; the same command goes on.")
    print_best(read_rows(parsed.out / TABLE), [part.key for part in parsed.space], len(parsed.seeds))


if __name__ == "__main__":
    main()

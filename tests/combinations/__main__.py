"""Try all combinations of system, mixer, layout, form and reading in tiny sizes: train each on one batch, compare it in
pieces and in a padded batch with the whole and alone, export it and load it.

    OMP_NUM_THREADS=1 python -m tests.combinations --steps 50 --out docs/mixer_combinations.csv

Those that an earlier run noted without a fault are not tried again. The exit code is 1 if any has a fault.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

from speechbrain_mamba.utils.files import write_csv
from tests.combinations.choices import every, name_of
from tests.combinations.decoders import ALL_DECODERS, try_decoder
from tests.combinations.recognizers import RECOGNIZERS, try_recognizer
from tests.combinations.separators import SEPARATORS, try_separator
from tests.combinations.synthesizers import ALL_SYNTHESIZERS, try_synthesizer

KINDS = [
    (SEPARATORS, try_separator),
    (RECOGNIZERS, try_recognizer),
    (ALL_DECODERS, try_decoder),
    (ALL_SYNTHESIZERS, try_synthesizer),
]
CHOICES = ("mixer", "attention_layers", "attention_window", "bidirectional", "cross", "cross_config", "prompt_order")
COLUMNS = (
    "system", *CHOICES, "steps", "parameters", "loss_first", "loss_last", "padding", "pieces", "loaded", "faults",
    "seconds",
)  # fmt: skip
"""Columns of the results; see :class:`tests.combinations.outcome.Outcome`."""


def everything():
    """All combinations: a system and its changes."""
    return [(name, changes) for systems, _ in KINDS for name in systems for changes in every(**systems[name])]


def attempt(system, changes, folder, steps):
    """Try a combination; returns its outcome."""
    (tries,) = (tries for systems, tries in KINDS if system in systems)
    return tries(system, changes, folder, steps)


def choices_of(system, changes):
    """The columns that say which combination it is, as the file has them."""
    config = " ".join(f"{key}={value}" for key, value in changes.get("cross_config", {}).items())
    values = {"system": system, **{key: changes.get(key) for key in CHOICES}, "cross_config": config}
    return {key: "" if value is None else str(value) for key, value in values.items()}


def row_of(system, changes, steps):
    """Try a combination; returns its row. What goes wrong is a fault of it, and stops nothing."""
    torch.manual_seed(0)
    row, start = {**choices_of(system, changes), "steps": str(steps)}, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = attempt(system, changes, Path(folder), steps)
        except Exception as error:
            found = {"faults": " ".join(f"{type(error).__name__}: {error}".split())}
        else:
            found = {
                "parameters": outcome.parameters,
                "loss_first": f"{outcome.losses[0]:.4g}",
                "loss_last": f"{outcome.losses[-1]:.4g}",
                **{name: _difference(getattr(outcome, name)) for name in ("padding", "pieces", "loaded")},
                "faults": "; ".join(outcome.faults()),
            }
    found["seconds"] = f"{time.process_time() - start:.1f}"
    return {column: str({**row, **found}.get(column, "")) for column in COLUMNS}


def _difference(value):
    return "" if value is None else f"{value:.1e}"


def read_rows(path):
    """Rows of earlier runs."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [*COLUMNS]:
            raise SystemExit(f"'{path}' has the columns of another version: give another file to --out.")
        return list(reader)


def print_table(rows):
    """Print a line for each system."""
    print("| system | combinations | without a fault | last loss, share of the first | padding | pieces | loaded |")
    print("|---|---|---|---|---|---|---|")
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]
        good = [row for row in own if not row["faults"]]
        shares = [float(row["loss_last"]) / float(row["loss_first"]) for row in good]
        worst = {name: [float(row[name]) for row in good if row[name]] for name in ("padding", "pieces", "loaded")}
        cells = [
            system, len(own), len(good), f"{min(shares):.2f} to {max(shares):.2f}" if shares else "",
            *(f"{max(values):.0e}" if values else "" for values in worst.values()),
        ]  # fmt: skip
        print("|", " | ".join(map(str, cells)), "|")


def main(arguments=None):
    """Try what is chosen and not known to be good; write the rows, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.combinations", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="steps of each training")
    parser.add_argument("--out", type=Path, required=True, help="CSV file, a row for each combination")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only those whose names match")
    options = parser.parse_args(arguments)
    chosen = [key for key in everything() if fnmatch.fnmatch(name_of(*key), options.only)]
    known = {tuple(row[key] for key in ("system", *CHOICES)): row for row in read_rows(options.out)}
    rows = []
    for system, changes in tqdm(chosen, unit="combination", disable=None):
        key = tuple(choices_of(system, changes).values())
        row = known.pop(key, None)
        if row is None or row["faults"] or row["steps"] != str(options.steps):
            row = row_of(system, changes, options.steps)
            if row["faults"]:
                tqdm.write(f"{name_of(system, changes)}: {row['faults']}")
        rows.append(row)
        write_csv(options.out, [*rows, *known.values()], [*COLUMNS])
    print_table(rows)
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())

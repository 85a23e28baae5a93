#!/usr/bin/env python3
"""Run a study: train systems alike on the same data, and compare them with statistics, tables and figures.

    python benchmarks/study.py separation_real_voices --out results/studies/separation \
        --folder fsdd=/path/to/free-spoken-digit-dataset speech_to_intent=/path/to/speech-to-intent-benchmark

Each system gets the same number of tuning trials, the best of which counts on validation data, and the same seeds. Then
all are trained for the same number of steps, and again for the same computing time. OUT/items.csv has a row for each
comparison, system, seed and test item, OUT/runs.csv one for each training, OUT/tuning/trials.csv one for each trial.

From them come summary.csv (mean and spread over the seeds), differences.csv (from the baseline, with intervals),
by_length.csv and figure.png; they are printed too.

The same command again goes on where it was stopped, by --budget or otherwise. At the same time in a second terminal it
shares the work: each process trains what the other has not begun. Options after -- go to the trainings,
such as --device cuda. benchmarks/studies/README.md lists the studies, and says how to write one.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from quality.figures import draw_figure
from quality.publishing import publish
from quality.runner import Runner
from quality.study_file import Study, find_study, read_study
from quality.tables import differences_markdown, length_markdown, make_tables, name_markdown, summary_markdown

HOUR = 3600.0


def parse_folder(text: str) -> tuple[str, str]:
    """Read ``NAME=FOLDER``."""
    name, sign, folder = text.partition("=")
    if not sign or not name or not folder:
        raise argparse.ArgumentTypeError(f"'{text}' is not a data folder: give NAME=FOLDER.")
    return name, folder


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a file, or the name of one in benchmarks/studies")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--budget", type=float, default=HOUR, help="seconds that it may take now (%(default)g)")
    parser.add_argument("--folder", type=parse_folder, nargs="+", default=[], help="NAME=FOLDER of data")
    parser.add_argument("--publish", type=Path, help="also copy tables and figure to a folder here, as docs/results")
    parser.add_argument("--tables_only", action="store_true", help="train nothing; make tables and figure again")
    parsed = parser.parse_args(given[:cut])
    parsed.options = given[cut + 1 :]
    return parsed


def show_tables(study: Study, out: Path) -> None:
    """Make the tables and the figure of what was run so far, and print them."""
    if not make_tables(study, out):
        print("No training is done yet.")
        return
    figure = draw_figure(study, out)
    tables = [make(study, out) for make in (summary_markdown, name_markdown, differences_markdown, length_markdown)]
    print("\n\n".join(["", *filter(None, tables), f"Tables and figure: {figure.parent if figure else out}"]))


def end_tidily(number: int, frame: object) -> None:
    """End as Ctrl-C does, so that a training is stopped too."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing of a study, and write its tables."""
    parsed = parse_arguments(arguments)
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end_tidily) if in_main_thread else None
    try:
        study = read_study(find_study(parsed.study), parsed.out, dict(parsed.folder))
        complete = parsed.tables_only or Runner(study, parsed.out, parsed.budget, parsed.options).work()
        show_tables(study, parsed.out)
        if parsed.publish:
            publish(study, parsed.out, parsed.publish)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 130
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)
    if not complete:
        print(f"The {parsed.budget:g} seconds are over; the same command goes on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

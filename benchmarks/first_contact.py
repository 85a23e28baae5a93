"""The first ten minutes on a GPU, in one command: is everything right, and how fast is it.

    python benchmarks/first_contact.py

Writes ``results/first_contact/results.json`` and a page ``results/first_contact/page.md``. Each step passes, fails or
is skipped with a reason; a step that crashes or takes too long does not end the others, as they run in another process.
The same command again resumes: steps that have passed or were skipped on the same machine and source are not repeated,
unless ``--again`` is given. ``--device cpu`` shows that it works on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from contact import correct, machine, running, speed, suite
from contact.context import STEPS, Context
from contact.runner import run_steps, work

ORDER = [name for part in (machine, correct, running, speed, suite) for name in STEPS
         if STEPS[name].run.__module__ == part.__name__]  # fmt: skip
"""The steps as they are run."""


def main(given: list[str] | None = None) -> int:
    """Run the steps; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/first_contact"), help="folder of the results")
    parser.add_argument("--steps", nargs="+", choices=ORDER, metavar="STEP", help=f"of {', '.join(ORDER)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", help="the backend to try; triton on a GPU, cpu on a CPU")
    parser.add_argument("--minutes", type=float, default=10, help="when to stop")
    parser.add_argument("--again", action="store_true", help="repeat steps that were done")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    device = torch.device(arguments.device)
    backend = arguments.backend or ("triton" if device.type == "cuda" else "cpu")
    context = Context(device, backend, arguments.output)
    names = arguments.steps or ORDER
    if arguments.work:
        work(context, names)
        return 0
    worker = [sys.executable, __file__, "--work", "--device", str(device), "--backend", backend]
    worker += ["--output", str(arguments.output)]
    return run_steps(context, names, worker, 60 * arguments.minutes, arguments.again)


if __name__ == "__main__":
    sys.exit(main())

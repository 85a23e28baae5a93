"""How fast and how large whole separation models run, inference and training.

    python benchmarks/model.py --out results/model.csv

Compares Mamba-TasNet M on a mixture of 4 s with its own matrix products alone and with SepFormer from SpeechBrain, each
in a process of its own, so that peak memory is each one's. A training step is forward, loss and backward.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.hparams import load_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory
from timing import summarize, time_in_turn, write_table

HPARAMS = Path(__file__).parent.parent / "hparams" / "separation"
MODELS = ("mambatasnet_M", "matrix products of it", "sepformer")


def load_model(name):
    """Encoder, mask network and decoder of a file in hparams/separation."""
    return torch.nn.ModuleDict(load_hparams(HPARAMS / f"{name}.yaml", {"data_folder": ""})["modules"])


def make_separator(name, mix):
    """A function from nothing to the estimates of a model."""
    modules = load_model(name)
    return modules, lambda: separate(modules["encoder"], modules["masknet"], modules["decoder"], mix)


def make_products(mix):
    """A function that computes all matrix products of Mamba-TasNet M's mask network and nothing else."""
    modules = load_model("mambatasnet_M")
    weights = [
        p for name, p in modules["masknet"].named_parameters() if p.dim() > 1 and ("proj" in name or "conv1x1" in name)
    ]
    frames = modules["encoder"](mix).shape[-1]
    inputs = {width: torch.randn(1, frames, width) for width in {p.flatten(1).shape[1] for p in weights}}

    def products():
        return sum(F.linear(inputs[p.flatten(1).shape[1]], p.flatten(1)).flatten()[0] for p in weights)

    return modules, products


def peak_memory():
    """Peak resident memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def infer(run):
    """Run without gradients."""
    with torch.no_grad():
        run()


def train(modules, run):
    """Run with the gradients of all parameters."""
    modules.zero_grad()
    run().square().mean().backward()


def measure(name, seconds, rounds):
    """Time one model and its training step in this process."""
    mix = torch.randn(1, round(seconds * 8000))
    before = peak_memory()
    modules, run = make_products(mix) if name.startswith("matrix") else make_separator(name, mix)
    infer_times = summarize(time_in_turn({"": partial(infer, run)}, rounds)[""])
    after_inference = peak_memory()
    train_times = summarize(time_in_turn({"": partial(train, modules, run)}, rounds)[""])
    rows = [("inference", infer_times, after_inference), ("training step", train_times, peak_memory())]
    return [
        {"pass": which, "model": name, **times, "peak_gb": peak, "peak_gb_above_start": peak - before}
        for which, times, peak in rows
    ]


def main():
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the mixture")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--out", "--csv", type=Path, help="a CSV file for the figures")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.measure:
        torch.set_num_threads(arguments.threads[0])
        keep_freed_memory()
        print(json.dumps(measure(arguments.measure, arguments.seconds, arguments.rounds)))
        return
    rows = []
    for threads in arguments.threads:
        found = []
        for name in arguments.models:
            command = [sys.executable, __file__, *sys.argv[1:], "--threads", str(threads), "--measure", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found += [{"threads": threads} | row for row in json.loads(output.splitlines()[-1])]
        found.sort(key=lambda row: row["pass"])
        ours = {row["pass"]: row["median_ms"] for row in found if row["model"] == MODELS[0]}
        rows += [row | {"times_mambatasnet_M": row["median_ms"] / ours.get(row["pass"], math.nan)} for row in found]
    write_table(rows, arguments.out)


if __name__ == "__main__":
    main()

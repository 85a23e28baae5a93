"""Loading a model whose weights are floats, or 8-bit integers, in its folder.

    python benchmarks/loading.py --out results/loading.csv

Mamba-TasNet M with random weights, from its folder to the model that is ready; the files are in the system's cache.
``int8`` quantizes the floats, ``int8, exported`` takes the integers that ``speechbrain-mamba export --precision int8``
wrote. The first row only where the processor has no instructions for int8.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from speechbrain_mamba.inference.models import SeparationModel
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.inference.sharing import export_model
from speechbrain_mamba.ops.int8 import int8_unavailable
from speechbrain_mamba.utils.memory import settle_memory
from system_calls import HPARAMS, UNUSED
from timing import summarize, time_in_turn, write_table


def time_loading(system: str, threads: int, rounds: int) -> list[dict]:
    """Rows of a separator's hyper-parameter file that is loaded in each way."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        floats, integers = Path(folder, "floats"), Path(folder, "integers")
        SeparationModel.from_settings(HPARAMS / f"{system}.yaml", UNUSED["separation"]).save_pretrained(floats)
        ways = {"fp32": (floats, "fp32")}
        if int8_unavailable() is None:
            export_model(floats, integers, precision="int8")
            ways |= {"int8": (floats, "int8"), "int8, exported": (integers, "int8")}
        else:
            print(f"int8 is left out: {int8_unavailable()}", file=sys.stderr)

        def load(name: str) -> Callable[[], object]:
            source, precision = ways[name]
            return lambda: SpeechSeparator.from_hparams(source, run_opts={"precision": precision})

        times = time_in_turn({name: load(name) for name in ways}, rounds)
        sizes = {name: sum(path.stat().st_size for path in source.glob("*.safetensors"))
                 for name, (source, _) in ways.items()}  # fmt: skip
    found = {name: summarize(seconds) for name, seconds in times.items()}
    return [
        {
            "system": system, "way": name, "threads": threads, "weights_mb": sizes[name] / 1e6, **found[name],
            "times_fp32": found[name]["median_ms"] / found["fp32"]["median_ms"],
        }
        for name in ways
    ]  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="separation/mambatasnet_M", help="a hyper-parameter file of separation")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="a CSV file for the figures")
    arguments = parser.parse_args()
    settle_memory()
    rows = [row for threads in arguments.threads for row in time_loading(arguments.system, threads, arguments.rounds)]
    write_table(rows, arguments.out)


if __name__ == "__main__":
    main()

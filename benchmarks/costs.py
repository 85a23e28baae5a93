"""What the systems of a study cost: time and memory of inference and of a training step, at some lengths.

    python benchmarks/costs.py benchmarks/studies/hybrid_ratio.yaml --csv results/hybrid_ratio/costs.csv

One thread, float32, batch 1, random weights; processor time in seconds and memory beyond the weights in MB, as in
``efficiency.py``. The file has a ``task``, ``systems``, each with ``hparams``, ``options`` and a
``label``, and ``options`` of all systems.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from crossings.catalog import PASSES, System
from crossings.cell import DONE, Cell, Limits, measure_apart
from crossings.networks import Network
from speechbrain_mamba.utils.yaml_text import parse_yaml
from timing import write_table

PARTS: dict[str, tuple[str, ...]] = {"separation": (), "asr": ("CNN", "Encoder", "ctc_lin"), "tts": ("ar",)}
"""The networks that are measured: of a recognizer without its decoder, of a synthesizer the first one."""


def systems_of_study(path: Path) -> Iterator[System]:
    """The systems of a study's file.

    Raises
    ------
    ValueError
        When the file has no systems of a task that is measured here.
    """
    tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(tree, dict) or tree.get("task") not in PARTS or not tree.get("systems"):
        raise ValueError(f"{path} is not a study: it must have systems and a task, which is one of {', '.join(PARTS)}.")
    task, common = tree["task"], tree.get("options") or {}
    for name, part in tree["systems"].items():
        overrides = {**common, **(part.get("options") or {})}
        yield System(
            f"{task}/{part['hparams']}", overrides, PARTS[task], token_ms=1000 / 75, name=part.get("label", name)
        )


def costs(systems: Sequence[System], lengths: Sequence[float], limits: Limits) -> Iterator[dict[str, Any]]:
    """A row for each system, pass and length."""
    for system in systems:
        network = Network(system)
        for which in PASSES:
            for length in lengths:
                cell = Cell(system, which, length)
                for _, said in measure_apart(network, [cell], torch.device("cpu"), torch.float32, limits):
                    yield {
                        "system": system.label, "pass": which, "length": length, "status": said["status"],
                        **{key: said[key] for key in ("seconds", "peak_mb", "saved_mb")},
                        "parameters": network.parameters, "reason": said["reason"],
                    }  # fmt: skip
                    print(".", end="", flush=True)
                if said["status"] != DONE:
                    break  # longer ones would fail, too
    print()


def main(given: Sequence[str] | None = None) -> None:
    """Measure the systems of a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="file of the study")
    parser.add_argument("--lengths", type=float, nargs="+", default=[2, 10, 40], help="seconds of speech")
    parser.add_argument("--limit", type=float, default=30, help="seconds of processor time that a call may take")
    parser.add_argument("--memory", type=float, default=4, help="GB that a pass may take beyond the weights")
    parser.add_argument("--csv", type=Path, help="where to write the table")
    arguments = parser.parse_args(given)
    try:
        limits = Limits(call=arguments.limit, memory=1e9 * arguments.memory)
        rows = list(costs(list(systems_of_study(arguments.study)), sorted(arguments.lengths), limits))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    write_table(rows, arguments.csv)


if __name__ == "__main__":
    main()

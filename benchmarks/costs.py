"""What the systems of a study cost: time, tokens per second and memory of inference and of a training step.

    python benchmarks/costs.py hybrid_ratio --out docs/results/hybrid_ratio/costs.csv

One thread, float32, batch 1, random weights; processor time in seconds and memory beyond the weights in MB, as in
``efficiency.py``. RESULTS.md shows them beside what the systems reach (``benchmarks/results.py``).
"""

from __future__ import annotations

import argparse
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from crossings.catalog import PASSES, System
from crossings.cell import DONE, Cell, Limits, measure_apart
from crossings.networks import Network
from crossings.results import machine_name
from quality.study_file import Study, find_study, read_study
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.yaml_text import parse_yaml
from timing import write_table

PARTS: dict[str, tuple[str, ...]] = {"separation": (), "asr": ("CNN", "Encoder", "ctc_lin"), "tts": ("ar",)}
"""The networks that are measured: of a recognizer without its decoder, of a synthesizer the first one."""


def token_ms(task: str, hparams: Mapping[str, Any]) -> float:
    """Milliseconds of a token: of separation half a kernel, of recognition a frame of the encoder; 0 for others, whose
    hyper-parameters do not say.

    Example
    -------
    >>> token_ms("separation", {"kernel_size": 16, "sample_rate": 8000})
    1.0
    >>> token_ms("asr", {"hop_length": 10, "CNN": {"strides": [2, 2]}})
    40.0
    """
    if task == "separation":
        return 1000.0 * hparams["kernel_size"] / 2 / hparams["sample_rate"]
    if task == "asr":
        return float(hparams["hop_length"] * math.prod(hparams["CNN"]["strides"]))
    return 0.0


def systems_of_study(study: Study) -> Iterator[tuple[str, System]]:
    """The systems of a study with their names.

    Raises
    ------
    ValueError
        When it is of a task that is not measured here, or does not say how long the tokens of a system are.
    """
    task = study.task
    if task not in PARTS:
        raise ValueError(f"{study.name} is a study of {task}, but only {', '.join(PARTS)} are measured.")
    for system in study.systems:
        hparams = parse_yaml(read_hparams(system.hparams, system.options), str(system.hparams))
        length = system.token_ms or token_ms(task, hparams)
        if not length:
            raise ValueError(f"{study.name} does not say how long a token of {system.name} is: give its token_ms.")
        source = f"{task}/{system.hparams.stem}"
        yield system.name, System(source, system.options, PARTS[task], token_ms=length, name=system.label)


def costs(systems: Sequence[tuple[str, System]], lengths: Sequence[float], limits: Limits) -> Iterator[dict[str, Any]]:
    """A row for each system, pass and length."""
    made = {
        "machine": machine_name(torch.device("cpu")), "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    for name, system in systems:
        network = Network(system)
        for which in PASSES:
            for length in lengths:
                cell, tokens = Cell(system, which, length), 1000 * length / system.token_ms
                said = measure_apart(network, cell, torch.float32, limits)
                done = said["status"] == DONE
                yield {
                    "system": name, "label": system.label, "pass": which, "length": length,
                    "token_ms": system.token_ms, "tokens": round(tokens), "status": said["status"],
                    **{key: said[key] for key in ("seconds", "peak_mb", "saved_mb")},
                    "tokens_per_second": tokens / said["seconds"] if done else "",
                    "parameters": network.parameters, "reason": said["reason"], **made,
                }  # fmt: skip
                print(".", end="", flush=True)
                if said["status"] != DONE:
                    break  # longer ones would fail, too
    print()


def main(given: Sequence[str] | None = None) -> None:
    """Measure the systems of a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a file, or the name of one in benchmarks/studies")
    parser.add_argument("--lengths", type=float, nargs="+", default=[2, 10, 40], help="seconds of speech")
    parser.add_argument("--limit", type=float, default=30, help="seconds of processor time that a call may take")
    parser.add_argument("--memory", type=float, default=4, help="GB that a pass may take beyond the weights")
    parser.add_argument("--out", "--csv", dest="out", type=Path, help="where to write the table")
    arguments = parser.parse_args(given)
    try:
        limits = Limits(call=arguments.limit, memory=1e9 * arguments.memory)
        study = read_study(find_study(arguments.study), Path("OUT"))
        rows = list(costs(list(systems_of_study(study)), sorted(arguments.lengths), limits))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    write_table([{key: _short(value) for key, value in row.items()} for row in rows], arguments.out)


def _short(value: Any) -> Any:
    """A number with six digits, as in the tables of efficiency."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

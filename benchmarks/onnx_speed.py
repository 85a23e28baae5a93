"""Programs of the bundled models in onnxruntime beside the same modules in torch: times, and how well they agree.

python benchmarks/onnx_speed.py --out docs/performance/onnx_speed.csv
python benchmarks/onnx_speed.py --source separator --seconds 2.5 --threads 1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechbrain_mamba.inference.deployment import make_programs
from speechbrain_mamba.inference.programs.program import Program
from timing import summarize, time_in_turn, write_table

SOURCES = {"separator": ["separator"], "recognizer-digits": ["recognizer"], "synthesizer-digits": ["step"]}
"""Bundled models, and their programs that are measured."""


def inputs_of(program: Program, seconds: float, rate: int) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and states for one example: a recording of some seconds, or what the program was traced with."""
    samples = round(seconds * rate)
    made = {"mixture": 0.1 * torch.randn(1, samples), "waveform": 0.1 * torch.randn(1, samples)}
    made["lengths"] = torch.tensor([samples])
    inputs = [made.get(name, value[:1]) for name, value in program.inputs.items()]
    return inputs, [value[:1].contiguous() for value in program.states.values()] if program.takes_states else []


def measure(
    source: str, names: list[str], seconds: list[float], threads: list[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Rows of a model."""
    import onnxruntime

    from speechbrain_mamba.ops.onnx_functions import onnx_program

    deployed = make_programs(source)
    for program in (one for one in deployed.programs if not names or one.name in names):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "program.onnx"
            given = {"input_names": program.input_names, "output_names": program.output_names}
            onnx_program(program.module, program.arguments, program.dynamic_shapes, **given).save(path)
            for count in threads:
                torch.set_num_threads(count)
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = count
                session = onnxruntime.InferenceSession(path, options)
                whole = bool({"mixture", "waveform"} & set(program.inputs))
                for length in seconds if whole else [None]:
                    yield from _rows(source, program, session, length, deployed.facts, count, rounds)


def _rows(
    source: str,
    program: Program,
    session: Any,
    seconds: float | None,
    facts: dict[str, Any],
    threads: int,
    rounds: int,
) -> Iterator[dict[str, Any]]:
    inputs, states = inputs_of(program, seconds or 1.0, facts["sample_rate"])
    feed = {name: value.numpy() for name, value in zip(program.input_names, [*inputs, *states])}
    ours, theirs = program.run(*inputs, states=states)[0], torch.from_numpy(session.run(None, feed)[0])
    finite = ours.isfinite()
    difference = float((ours - theirs)[finite].abs().max())
    times = time_in_turn(
        {"torch": lambda: program.run(*inputs, states=states), "onnxruntime": lambda: session.run(None, feed)}, rounds
    )
    found = {engine: summarize(runs) for engine, runs in times.items()}
    # one step of a synthesizer makes one frame of its codec
    audio = facts["samples_per_frame"] / facts["sample_rate"] if seconds is None else seconds
    for engine, summary in found.items():
        yield {
            "model": source, "program": program.name, "engine": engine,
            "seconds_of_audio": "one frame" if seconds is None else seconds, "threads": threads, **summary,
            "times_torch": summary["fastest_ms"] / found["torch"]["fastest_ms"],
            "real_time_factor": summary["median_ms"] / 1000 / audio,
            "largest_difference": difference if engine == "onnxruntime" else "",
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="a folder, a Hub id or the name of a bundled model; by default three of these")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.5, 8.0], help="lengths of the recordings")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a CSV file to write")
    arguments = parser.parse_args()
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        print("onnxruntime is not installed, so that nothing is measured.", file=sys.stderr)
        return
    sources = SOURCES if arguments.source is None else {arguments.source: SOURCES.get(arguments.source, [])}
    rows = [
        row
        for source, names in sources.items()
        for row in measure(source, names, arguments.seconds, arguments.threads, arguments.rounds)
    ]
    write_table(rows, arguments.out)


if __name__ == "__main__":
    main()

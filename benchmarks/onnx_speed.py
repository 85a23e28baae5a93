"""A deployed model in onnxruntime beside the same model in torch, on one core: agreement, and seconds of CPU time.

python benchmarks/onnx_speed.py separator --seconds 2 8
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import torch

from speechbrain_mamba.inference.deployment import make_program, write_onnx


def fastest(run: Callable[[], object], repeats: int = 3) -> float:
    """The least seconds of CPU time of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder, a Hub id or the name of a bundled model")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 8.0], help="lengths of the recordings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    program = make_program(arguments.source)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        print(write_onnx(arguments.source, Path(folder) / "deployed"))
        print(f"export {time.process_time() - start:.0f} s of CPU time")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(Path(folder) / "deployed" / f"{program.name}.onnx", options)
    print("seconds  torch s  onnxruntime s  largest difference")
    for seconds in arguments.seconds:
        samples = round(seconds * program.facts["sample_rate"])
        values = [0.1 * torch.randn(1, samples), torch.tensor([samples])]
        inputs = dict(zip(program.inputs, values))
        given = {name: value.numpy() for name, value in inputs.items()}
        with torch.no_grad():
            ours = program.module(*inputs.values())
            first = ours[0] if isinstance(ours, tuple) else ours
            difference = (first - torch.from_numpy(session.run(None, given)[0])).abs().max()
            times = fastest(partial(program.module, *inputs.values())), fastest(partial(session.run, None, given))
        print(f"{seconds:7.1f}  {times[0]:7.3f}  {times[1]:13.3f}  {difference:.1e}")


if __name__ == "__main__":
    main()

"""Whole systems and their Transformer baselines on a GPU: inference, training step, and generation of speech tokens.

    python benchmarks/gpu_systems.py --csv results/gpu_systems.csv

Weights and inputs are random. The columns are those of ``gpu.py``; generation is per frame, after 10 s of speech.
``--small --device cpu`` shows that the script works.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gpu_facts import gpu_facts
from gpu_timing import all_times
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction
from system_calls import hear, load_modules, separate_noise, spoken, task_of
from timing import write_table

SYSTEMS = ["separation/mambatasnet_M", "separation/dpmamba_M", "separation/sepformer", "asr/conmamba_ctc",
           "asr/conformer_ctc", "tts/vallm", "tts/valle"]  # fmt: skip
SMALL = ["separation/mini_mambatasnet", "separation/mini_sepformer", "asr/mini_conmamba_ctc",
         "asr/mini_conformer_ctc", "tts/mini_vallm", "tts/mini_valle"]  # fmt: skip
MISSING = {name: float("nan") for name in ("ms", "host_ms", "kernels_ms", "launches", "graph_ms", "peak_MB")}


def forward(
    name: str, modules: nn.ModuleDict, n_features: int, seconds: float, batch: int, device: torch.device
) -> Callable[[], Tensor]:
    """A forward pass of a system over some seconds of audio."""
    task = task_of(name)
    if task == "separation":
        return separate_noise(modules, seconds, batch, device)
    if task == "asr":
        return hear(modules, n_features, seconds, batch, device)
    prompt, speech = (spoken(batch, round(s * 75), modules["ar"], device) for s in (0.3 * seconds, seconds))
    return lambda: modules["ar"](prompt, speech)[1]


def generation(modules: nn.ModuleDict, seconds: float, batch: int, device: torch.device, graphs: bool):
    """One step of generation after some seconds of speech, which resumes from its own state."""
    model = modules["ar"]
    prompt = spoken(batch, round(seconds * 75), model, device)
    state = list(model.start(prompt, prompt.phonemes))
    step = GraphedFunction(model.step, clones=False) if graphs else model.step

    def run() -> None:
        tokens = state[0][:, : model.codebook_size].argmax(-1)
        state[:] = step(tokens, state[1])

    return run


def measure(name: str, arguments: argparse.Namespace) -> list[dict]:
    """Rows of one system."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    rows: list[dict] = []
    modules, n_features = load_modules(name, device)

    def add(which: str, make: Callable[[], Callable[[], object]], graphs: bool = False) -> None:
        row = {"system": name, "pass": which, "batch": arguments.batch, "seconds": arguments.seconds,
               "dtype": arguments.dtype} | MISSING  # fmt: skip
        failure = ""
        try:
            run = make()

            def under_autocast() -> None:
                with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                    run()

            row |= all_times(under_autocast, device, arguments.rounds, graphs)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        rows.append(row | gpu_facts(device) | {"failure": failure})

    def prepare() -> Callable[[], Tensor]:
        return forward(name, modules, n_features, arguments.seconds, arguments.batch, device)

    def train(run: Callable[[], Tensor]) -> None:
        modules.zero_grad(set_to_none=True)
        run().float().square().mean().backward()

    modules.eval()
    with torch.no_grad():
        add("inference", prepare, graphs=True)
        if name.startswith("tts"):
            at = (modules, arguments.seconds, arguments.batch, device)
            add("generation, a frame", lambda: generation(*at, graphs=False))
            add("generation, a frame, CUDA graph", lambda: generation(*at, graphs=True))
    modules.train()
    add("training step", lambda: partial(train, prepare()))
    return rows


def main(given: list[str] | None = None) -> list[dict]:
    """Measure all systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", help="hyper-parameter files such as separation/mambatasnet_M")
    parser.add_argument("--small", action="store_true", help="the mini systems on a second of audio")
    parser.add_argument("--seconds", type=float, help="audio of an example; 10 by default")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    arguments = parser.parse_args(given)
    arguments.seconds = arguments.seconds or (1.0 if arguments.small else 10.0)
    rows = []
    for name in arguments.systems or (SMALL if arguments.small else SYSTEMS):
        rows += measure(name, arguments)
        write_table(rows, arguments.csv)  # the table so far, so that nothing is lost if the run is stopped
    return rows


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Time cached generation of codec tokens: what a frame costs after so much speech, with Mamba states or a KV cache.

    python benchmarks/generation.py [--hparams hparams/tts/vallm.yaml hparams/tts/valle.yaml] [--csv FILE]

The autoregressive models have random weights. After phonemes and each number of frames they take in at once (prefill),
they are fed frame by frame; the table has the time of one frame and the memory of what is carried from frame to frame.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction
from speechbrain_mamba.utils.hparams import read_hparams, select_hparams
from timing import write_table

FOLDER = Path(__file__).parent.parent / "hparams/tts"
PHONEMES_PER_FRAME = 0.2
"""Some 15 phonemes per second against 75 frames."""


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = [FOLDER / f"{name}.yaml" for name in ("vallm", "vallm_hybrid", "valle")]
    parser.add_argument("--hparams", nargs="+", type=Path, default=files, help="hyper-parameter files")
    parser.add_argument("--frames", nargs="+", type=int, default=[250, 500, 1000, 2000, 4000], help="speech so far")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="frames to time after each number of frames")
    parser.add_argument("--cuda-graphs", action="store_true", help="replay the steps of Mamba as a CUDA graph")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--csv", type=Path, help="file to write the table to")
    return parser.parse_args()


def size(state) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(size(part) for part in parts)


def clock(device: str) -> float:
    """The time in seconds when all work so far is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def prefill(model, frames: int, arguments):
    """Take in phonemes and some frames; returns the logits and state after them, and the seconds that it took."""
    batch, device = arguments.batch_size, arguments.device
    n_phonemes = max(1, round(PHONEMES_PER_FRAME * frames))
    phonemes = torch.randint(model.n_phonemes, (batch, n_phonemes), device=device)
    codes = torch.randint(model.codebook_size, (batch, frames), device=device)
    phoneme_lengths, lengths = (torch.full((batch,), length, device=device) for length in (n_phonemes, frames))
    start = clock(device)
    text = Padded(phonemes, phoneme_lengths)
    nothing = Padded(phonemes[:, :0], torch.zeros_like(phoneme_lengths))
    logits, state = model.start(Utterances(nothing, Padded(codes, lengths)), text)
    return logits, state, clock(device) - start


@torch.no_grad()
def measure(model, arguments) -> list[dict]:
    """Prefill each number of frames, and time the next ones: in turn, so that what else the machine does hits all."""
    prefill(model, min(arguments.frames), arguments)  # warm-up
    logits, states, prefilled = {}, {}, {}
    for frames in arguments.frames:
        logits[frames], states[frames], prefilled[frames] = prefill(model, frames, arguments)
    seconds = {frames: [] for frames in arguments.frames}
    steps = {frames: GraphedFunction(model.step, clones=False) for frames in seconds}
    untimed = 2 if arguments.cuda_graphs else 1  # the first step makes room in KV caches, the second one is captured
    for step in range(arguments.steps + untimed):
        for frames in arguments.frames:
            tokens = logits[frames][:, : model.codebook_size].argmax(-1)
            start = clock(arguments.device)
            logits[frames], states[frames] = (steps[frames] if arguments.cuda_graphs else model.step)(
                tokens, states[frames]
            )
            if step >= untimed:
                seconds[frames].append(clock(arguments.device) - start)
    return [
        {
            "frames": frames,
            "prefill_ms": 1e3 * prefilled[frames],
            "median_ms_per_frame": 1e3 * statistics.median(seconds[frames]),
            "fastest_ms_per_frame": 1e3 * min(seconds[frames]),
            "state_mb": size(states[frames]) / 1e6,
        }
        for frames in arguments.frames
    ]


def main():
    """Measure all models, and print the table."""
    arguments, rows = parse_arguments(), []
    for path in arguments.hparams:
        torch.manual_seed(0)
        text = select_hparams(read_hparams(path, {"token_folder": "unused"}), ["ar"])
        model = load_hyperpyyaml(text)["ar"].to(arguments.device).eval()
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        facts = {"model": path.stem, "parameters_m": parameters, "batch_size": arguments.batch_size}
        rows += [facts | row | {"device": arguments.device} for row in measure(model, arguments)]
    write_table(rows, arguments.csv)


if __name__ == "__main__":
    main()

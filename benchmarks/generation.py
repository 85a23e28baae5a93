#!/usr/bin/env python3
"""Time the generation of codec tokens: what a frame costs after so much speech, and the chain from text to waveform.

    python benchmarks/generation.py [--hparams hparams/tts/vallm.yaml ...] [--precisions fp32 int8] [--threads 1 2]

The models have random weights. Rows ``step``: after phonemes and each number of frames, which the autoregressive model
takes in at once (prefill), it is fed frame by frame, and its linear layers alone are timed too, by PyTorch's products
of weights of the same type: ``times_products`` is the time of a step over theirs. A frame lasts 13.3 ms. The other rows
are a chain: some seconds of speech from phonemes and a prompt of 3 s, by the autoregressive and the non-autoregressive
model and an EnCodec of the published size, each with its share; a real-time factor below 1 is faster than the speech.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.codecs import EnCodec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.precision import ReducedPrecision
from speechbrain_mamba.lobes.models.synthesis import VallE
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear, reduce_linears
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction
from speechbrain_mamba.utils.hparams import read_hparams, select_hparams
from timing import summarize, write_table

FOLDER = Path(__file__).parent.parent / "hparams/tts"
PHONEMES_PER_FRAME = 0.2
"""Some 15 phonemes per second against 75 frames."""
PROMPT_SECONDS = 3


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = [FOLDER / f"{name}.yaml" for name in ("vallm", "valle")]
    parser.add_argument("--hparams", nargs="+", type=Path, default=files, help="hyper-parameter files")
    parser.add_argument("--frames", nargs="+", type=int, default=[225, 1000], help="speech so far")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"], choices=("fp32", "bf16", "int8"))
    parser.add_argument("--rounds", type=int, default=15, help="frames to time after each number of frames")
    parser.add_argument("--seconds", type=float, default=2.0, help="speech of the chain; 0 for none")
    parser.add_argument("--cuda-graphs", action="store_true", help="replay the steps of Mamba as a CUDA graph")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", "--csv", dest="out", type=Path, help="file to write the table to")
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


def text_and_codes(model, frames: int, batch: int, device: str) -> tuple[Padded, Padded]:
    """Random phonemes for some frames, and tokens of the first codebook."""
    n_phonemes = max(1, round(PHONEMES_PER_FRAME * frames))
    phonemes = torch.randint(model.n_phonemes, (batch, n_phonemes), device=device)
    codes = torch.randint(model.codebook_size, (batch, frames), device=device)
    lengths = (torch.full((batch,), length, device=device) for length in (n_phonemes, frames))
    return tuple(Padded(values, length) for values, length in zip((phonemes, codes), lengths))


def prefill(model, frames: int, batch: int, device: str):
    """Take in phonemes and some frames; returns the logits and state after them, and the seconds that it took."""
    text, codes = text_and_codes(model, frames, batch, device)
    nothing = Padded(text.values[:, :0], torch.zeros_like(text.lengths))
    start = clock(device)
    logits, state = model.start(Utterances(nothing, codes), text)
    return logits, state, clock(device) - start


def linear_products(model, batch: int, device: str):
    """A function that multiplies the weights of a model's linear layers with rows, by PyTorch."""
    layers = [layer for layer in model.backbone.modules() if isinstance(layer, (torch.nn.Linear, ReducedLinear))]
    if model.head is None:
        layers.append(partial(F.linear, weight=model.code_embedding.embedding.weight))
    else:
        layers.append(model.head)
    channels = [getattr(layer, "in_features", model.code_embedding.embedding.weight.shape[1]) for layer in layers]
    rows = [torch.randn(batch, count, device=device) for count in channels]
    return lambda: [layer(row) for layer, row in zip(layers, rows)]


@torch.no_grad()
def measure_steps(model, batch: int, arguments) -> list[dict]:
    """Prefill each number of frames, and time the next ones: in turn, so that what else the machine does hits all."""
    device = arguments.device
    prefill(model, min(arguments.frames), batch, device)  # warm-up
    logits, states, prefilled = {}, {}, {}
    for frames in arguments.frames:
        logits[frames], states[frames], prefilled[frames] = prefill(model, frames, batch, device)
    seconds, products = {frames: [] for frames in arguments.frames}, []
    steps = {frames: GraphedFunction(model.step, clones=False) for frames in seconds}
    untimed = 2 if arguments.cuda_graphs else 1  # the first step makes room in KV caches, the second one is captured
    multiply = linear_products(model, batch, device)
    for step in range(arguments.rounds + untimed):
        for frames in arguments.frames:
            tokens = logits[frames][:, : model.codebook_size].argmax(-1)
            start = clock(device)
            logits[frames], states[frames] = (steps[frames] if arguments.cuda_graphs else model.step)(
                tokens, states[frames]
            )
            if step >= untimed:
                seconds[frames].append(clock(device) - start)
        start = clock(device)
        multiply()
        if step >= untimed:
            products.append(clock(device) - start)
    alone = summarize(products)["median_ms"]
    rows = []
    for frames in arguments.frames:
        times = summarize(seconds[frames])
        row = {"what": "step", "batch": batch, "frames": frames} | times
        row |= {"times_products": times["median_ms"] / alone, "prefill_ms": 1e3 * prefilled[frames]}
        rows.append(row | {"state_mb": size(states[frames]) / 1e6})
    return rows


def make_codec(model):
    """An EnCodec of the published size with random weights, in evaluation mode."""
    return EnCodec(n_codebooks=model.n_codebooks, codebook_size=model.ar.codebook_size).eval()


@torch.no_grad()
def measure_chain(model, batch: int, arguments) -> list[dict]:
    """Speak some seconds once for warm-up, shorter, and once timed; a row for each part, and one for all."""
    device, ar, codec = arguments.device, model.ar, make_codec(model).to(arguments.device)
    frames, prompt_frames = (round(s * codec.frame_rate) for s in (arguments.seconds, PROMPT_SECONDS))
    text, first = text_and_codes(ar, frames, batch, device)
    said, _ = text_and_codes(ar, prompt_frames, batch, device)
    shape = (batch, prompt_frames, model.n_codebooks)
    codes = torch.randint(ar.codebook_size, shape, device=device)
    prompt = Utterances(said, Padded(codes, torch.full((batch,), prompt_frames, device=device)))

    alone, beginning = VallE(ar), prompt._replace(codes=prompt.codes._replace(values=codes[..., :1]))

    def no_end(logits, history):
        return logits[:, : ar.codebook_size].argmax(-1)

    marks = dict.fromkeys(("ar", "nar", "codec", "all"), 0.0)
    for length in (3, frames):
        begin = clock(device)
        generated = alone.generate(beginning, text, length, no_end)
        first, lengths = generated.codes[..., 0], generated.lengths
        marks["ar"] = clock(device) - begin
        spoken, _ = model.nar.complete(prompt, Utterances(text, Padded(first, lengths)))
        marks["nar"] = clock(device) - begin - marks["ar"]
        codec.decode(spoken, lengths)
        marks["all"] = clock(device) - begin
    marks["codec"] = marks["all"] - marks["ar"] - marks["nar"]
    spoken_seconds = batch * frames / codec.frame_rate
    return [
        {"what": part, "seconds": arguments.seconds, "batch": batch, "frames": frames, "median_ms": 1e3 * marks[part]}
        | {"real_time_factor": marks[part] / spoken_seconds}
        for part in marks
    ]


def measure(path: Path, precision: str, arguments) -> list[dict]:
    """The rows of one model, its weights reduced as inference reduces them."""
    torch.manual_seed(0)
    text = select_hparams(read_hparams(path, {"token_folder": "unused"}), ["ar", "nar"])
    parts = load_hyperpyyaml(text)
    model = VallE(parts["ar"], parts["nar"]).to(arguments.device).eval()
    parameters = sum(p.numel() for p in model.ar.parameters()) / 1e6
    facts, rows = {"model": path.stem, "parameters_m": parameters, "precision": precision}, []
    if precision != "fp32":
        reduce_linears(model, precision)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for batch in arguments.batch_sizes:
            with ReducedPrecision() if precision != "fp32" else nullcontext():
                measured = measure_steps(model.ar, batch, arguments)
                measured += measure_chain(model, batch, arguments) if arguments.seconds else []
            rows += [facts | {"threads": threads} | row for row in measured]
    return rows


def main():
    """Measure all models, and print the table."""
    arguments = parse_arguments()
    rows = [
        row for path in arguments.hparams for name in arguments.precisions for row in measure(path, name, arguments)
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_table([{name: row.get(name) for name in columns} for row in rows], arguments.out)


if __name__ == "__main__":
    main()

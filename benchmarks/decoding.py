#!/usr/bin/env python3
"""Time beam search with a Mamba decoder: states updated token by token against the whole prefix for each token.

    python benchmarks/decoding.py [--hparams hparams/asr/conmambamamba_small.yaml] [--seconds 30] [--out FILE]

The model has random weights and is kept from ending, so that the number of tokens is what is asked for; the hypotheses
of both searches are compared. Consuming the audio, once per utterance, is part of the time.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.decoders import S2STransformerBeamSearcher

from speechbrain_mamba.decoders import S2SMambaBeamSearcher
from speechbrain_mamba.utils.hparams import read_hparams, select_hparams
from timing import summarize, time_in_turn, write_table

HPARAMS = Path(__file__).parent.parent / "hparams/asr/conmambamamba_small.yaml"
FRAMES_PER_SECOND = 25
SEARCHERS = {"cached states": S2SMambaBeamSearcher, "whole prefixes": S2STransformerBeamSearcher}


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hparams", default=HPARAMS, help="hyper-parameter file of a model with a Mamba decoder")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the audio")
    parser.add_argument("--beam-size", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=80, help="tokens to decode; 80 are usual for 30 s of speech")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="a CSV file for the figures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def make_searches(arguments, hparams):
    """A function per search, which runs it once and keeps its hypotheses in the dictionary that is returned too."""
    model, seq_lin = (hparams["modules"][key].to(arguments.device).eval() for key in ("Transformer", "seq_lin"))
    frames = round(arguments.seconds * FRAMES_PER_SECOND)
    with torch.no_grad():
        seq_lin.w.bias[hparams["eos_index"]] = -1e4
    memory = torch.randn(1, frames, seq_lin.w.in_features, device=arguments.device)
    wav_len, hypotheses = torch.ones(1, device=arguments.device), {}

    def run(name, search):
        hypotheses[name] = [list(hypothesis) for hypothesis in search(memory, wav_len)[0]]  # on the CPU: all is done

    searches = {}
    for name, cls in SEARCHERS.items():
        search = cls(
            modules=[model, seq_lin], bos_index=hparams["bos_index"], eos_index=hparams["eos_index"],
            min_decode_ratio=0.0, max_decode_ratio=(arguments.tokens + 0.5) / frames, beam_size=arguments.beam_size,
            using_eos_threshold=False,
        )  # fmt: skip
        searches[name] = partial(run, name, search)
    return searches, hypotheses


def main():
    """Run the comparison and print it."""
    arguments = parse_arguments()
    torch.manual_seed(0)
    hparams = load_hyperpyyaml(select_hparams(read_hparams(arguments.hparams), ["modules", "bos_index", "eos_index"]))
    searches, hypotheses = make_searches(arguments, hparams)
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        found = time_in_turn(searches, arguments.rounds)
        per_token = {name: summarize([run / arguments.tokens for run in runs]) for name, runs in found.items()}
        same = hypotheses["cached states"] == hypotheses["whole prefixes"]
        rows += [
            {
                "search": name, "threads": threads, "seconds_of_audio": arguments.seconds, "beam": arguments.beam_size,
                "tokens": arguments.tokens, **{f"{key}_per_token": ms for key, ms in times.items()},
                "times_cached": times["median_ms"] / per_token["cached states"]["median_ms"],
                "hypotheses": "same" if same else "others",
            }
            for name, times in per_token.items()
        ]  # fmt: skip
    write_table(rows, arguments.out)


if __name__ == "__main__":
    main()

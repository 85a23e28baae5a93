#!/usr/bin/env python3
"""Time beam search with a Mamba decoder: states updated token by token against the whole prefix for each token.

    python benchmarks/decoding.py [--hparams hparams/asr/conmambamamba_small.yaml] [--seconds 30] [--beam-size 10]

The model has random weights and is kept from ending, so that the number of tokens is what is asked for; the hypotheses
of both searches are compared.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.decoders import S2STransformerBeamSearcher

from speechbrain_mamba.dataio.hparams import read_hparams, select_hparams
from speechbrain_mamba.decoders import S2SMambaBeamSearcher

HPARAMS = Path(__file__).parent.parent / "hparams/asr/conmambamamba_small.yaml"
FRAMES_PER_SECOND = 25


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hparams", default=HPARAMS, help="hyper-parameter file of a model with a Mamba decoder")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the audio")
    parser.add_argument("--beam-size", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=80, help="tokens to decode; 80 are usual for 30 s of speech")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def timed(search, memory, device):
    """Run a search once, and return its result and the seconds that it took."""
    wav_len = torch.ones(1, device=device)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.no_grad():
        result = search(memory, wav_len)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def main():
    """Run the comparison and print it."""
    arguments = parse_arguments()
    torch.manual_seed(0)
    hparams = load_hyperpyyaml(select_hparams(read_hparams(arguments.hparams), ["modules", "bos_index", "eos_index"]))
    model, seq_lin = (hparams["modules"][key].to(arguments.device).eval() for key in ("Transformer", "seq_lin"))
    with torch.no_grad():
        seq_lin.w.bias[hparams["eos_index"]] = -1e4
    frames = round(arguments.seconds * FRAMES_PER_SECOND)
    memory = torch.randn(1, frames, seq_lin.w.in_features, device=arguments.device)
    seconds, hypotheses = {}, {}
    for name, cls in (("cached states", S2SMambaBeamSearcher), ("whole prefixes", S2STransformerBeamSearcher)):
        search = cls(
            modules=[model, seq_lin], bos_index=hparams["bos_index"], eos_index=hparams["eos_index"],
            min_decode_ratio=0.0, max_decode_ratio=(arguments.tokens + 0.5) / frames, beam_size=arguments.beam_size,
            using_eos_threshold=False,
        )  # fmt: skip
        timed(search, memory[:, : frames // 10], arguments.device)  # warm-up, on fewer frames and so fewer tokens
        result, seconds[name] = timed(search, memory, arguments.device)
        hypotheses[name] = [list(h) for h in result[0]]
        print(f"{name}: {1e3 * seconds[name] / arguments.tokens:.1f} ms per token, {seconds[name]:.2f} s in all")
    same = hypotheses["cached states"] == hypotheses["whole prefixes"]
    ratio = seconds["whole prefixes"] / seconds["cached states"]
    print(
        f"{arguments.seconds:g} s of audio, beam {arguments.beam_size}, {arguments.tokens} tokens, {arguments.device}: "
        f"{ratio:.0f} times faster per token, hypotheses {'equal' if same else 'DIFFER'}"
    )


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Time streams on a CPU: what a piece of 320 ms takes, and how many streams run in real time at once.

    python benchmarks/streams.py [--threads 1 2] [--hparams asr/conmamba_ctc_streaming ...] [--out FILE]

The models have random weights. A recognizer gets each piece of a batch of streams and gives log-probabilities; a
separator, causal, gives estimates; both carry their state on, and their outputs are compared with those of the whole
streams at once. The largest batch in real time is the one whose piece takes at most as long as it lasts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from speechbrain_mamba.inference.log_prob_stream import LogProbStream
from speechbrain_mamba.inference.separation_stream import StreamingSeparator
from speechbrain_mamba.inference.streaming import StreamingRecognizer
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.hparams import load_hparams
from timing import summarize, write_table

FOLDER = Path(__file__).parent.parent / "hparams"
HPARAMS = ("asr/conmamba_ctc_streaming", "asr/mini_conmamba_ctc_streaming", "separation/mambatasnet_S",
           "separation/mini_mambatasnet_streaming")  # fmt: skip
LARGEST_BATCH = 512


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hparams", nargs="+", default=HPARAMS, help="files below hparams/, without .yaml")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8], help="batches that get a row each")
    parser.add_argument("--piece-ms", type=float, default=320.0, help="length of a piece")
    parser.add_argument("--rounds", type=int, default=7, help="pieces that are timed")
    parser.add_argument("--out", "--csv", dest="out", type=Path, help="file to write the table to")
    return parser.parse_args()


class RecognitionStreams:
    """Streams through a recognizer with random weights."""

    def __init__(self, path: Path) -> None:
        hparams = load_hparams(path, {"data_folder": "", "output_folder": "unused", "token_type": "char"})
        statistics = torch.randn(1, 100, hparams["n_mels"])
        hparams["normalize"].train()(statistics, torch.ones(1), epoch=1)
        for module in hparams["modules"].values():
            module.eval()
        self.rate = hparams["sample_rate"]
        self.recognizer = StreamingRecognizer.from_parts(hparams, None)

    def begin(self):
        """A new stream: functions of a piece (batch, samples), and of the end."""
        stream = LogProbStream(self.recognizer.mods, self.recognizer.hparams.chunk_config)
        return stream.push, stream.finish

    def at_once(self, wavs):
        """Log-probabilities of whole streams."""
        return self.recognizer.mods.encoder.encode(wavs, torch.ones(len(wavs)))[0]


class SeparationStreams:
    """Streams through a causal separator with random weights."""

    def __init__(self, path: Path) -> None:
        hparams = load_hparams(path, {"data_folder": "", "output_folder": "unused", "bidirectional": False})
        parts = {name: hparams["modules"][name].eval() for name in ("encoder", "masknet", "decoder")}
        self.rate, self.parts = hparams["sample_rate"], parts
        self.stream = StreamingSeparator(**parts, sample_rate=self.rate)

    def begin(self):
        """As of :class:`RecognitionStreams`."""
        self.stream.reset()
        return self.stream.add, self.stream.finish

    def at_once(self, wavs):
        """Estimates of whole streams."""
        return separate(self.parts["encoder"], self.parts["masknet"], self.parts["decoder"], wavs, None)


@torch.no_grad()
def disagreement(streams, samples: int) -> float:
    """Largest difference of two streams in pieces from the same at once, relative to the largest output."""
    wavs = 0.1 * torch.randn(2, 5 * samples + 123)
    push, finish = streams.begin()
    pieces = [push(piece) for piece in wavs.split(samples, 1)]
    parts, whole = torch.cat([*pieces, finish()], 1), streams.at_once(wavs)
    if parts.shape != whole.shape:
        raise RuntimeError(f"The streams gave {tuple(parts.shape)}, but at once there are {tuple(whole.shape)}.")
    return float((parts - whole).abs().max() / whole.abs().max())


@torch.no_grad()
def time_pieces(streams, samples: int, batch: int, rounds: int) -> list[float]:
    """Seconds of each piece of some streams, the first two left out."""
    push, _ = streams.begin()
    seconds = []
    for number in range(rounds + 2):
        piece = 0.1 * torch.randn(batch, samples)
        start = time.perf_counter()
        push(piece)
        if number > 1:
            seconds.append(time.perf_counter() - start)
    return seconds


def largest_in_real_time(streams, samples: int, piece_ms: float, rounds: int) -> int:
    """The largest batch of streams whose piece takes at most as long as it lasts, 0 if none does."""

    def fits(batch: int) -> bool:
        return summarize(time_pieces(streams, samples, batch, rounds))["median_ms"] <= piece_ms

    low, high = 0, 1
    while high <= LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 16) and low < LARGEST_BATCH:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def measure(name: str, arguments) -> list[dict]:
    """The rows of one model."""
    torch.manual_seed(0)
    kind = RecognitionStreams if name.startswith("asr/") else SeparationStreams
    streams = kind(FOLDER / f"{name}.yaml")
    samples, rows = round(arguments.piece_ms * streams.rate / 1000), []
    error = disagreement(streams, samples)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        facts = {"model": Path(name).name, "what": "piece"}
        for batch in arguments.batch_sizes:
            times = summarize(time_pieces(streams, samples, batch, arguments.rounds))
            share = times["median_ms"] / arguments.piece_ms / batch
            row = facts | {"batch": batch, "threads": threads} | times | {"real_time_factor": share}
            rows.append(row | {"streams_in_real_time": None, "relative_difference": error})
        most = largest_in_real_time(streams, samples, arguments.piece_ms, max(3, arguments.rounds // 2))
        blank = dict.fromkeys(rows[-1])
        facts = {"model": Path(name).name, "what": "batch", "threads": threads}
        rows.append(blank | facts | {"streams_in_real_time": most})
    return rows


def main():
    """Measure all models, and print the table."""
    arguments = parse_arguments()
    rows = [row for name in arguments.hparams for row in measure(name, arguments)]
    write_table(rows, arguments.out)


if __name__ == "__main__":
    main()

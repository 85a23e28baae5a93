#!/usr/bin/env python3
"""Probe how well a decoder reads a text: copying strings of phonemes to runs of tokens, by ways of reading (cross).

    OMP_NUM_THREADS=1 python benchmarks/probe.py [--variants attention concat ...] [--seeds 5] [--out results.csv]

Each phoneme lasts a drawn number of frames, as tokens of a codec do, so the decoder has to keep its place in the text.
A run of 500 steps takes about half a minute on one core. All variants get the same batches, steps, learning rate and
schedule, and as many parameters (within 3 %, by the width of the feed-forward network); with --seconds the same
processor time in place of the same steps. With several --lrs, each variant is tried with each of them on strings of
its own, and the best one counts. Finished runs in --out are not run again.

The error is the edit distance of the phonemes that were spoken to those of the text, in percent, with greedy decoding,
for short and long strings as in training, and for longer ones than any of training.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copying_task import CopyingTask
from speechbrain_mamba.lobes.models.recognition.mamba_decoder import MambaDecoder
from speechbrain_mamba.lobes.models.synthesis.embeddings import TokenEmbedding
from speechbrain_mamba.ops import valid_frames

HIDDEN = {"d_state": 64, "headdim": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "attention": {"cross": "attention", "cross_config": {"nhead": 4}},
    "attention, places": {"cross": "attention", "cross_config": {"nhead": 4, "positions": True}},
    # heads and keys as wide as those of hidden_attention: what tells places apart is the same
    "attention, places, wide keys": {
        "cross": "attention",
        "cross_config": {"headdim": HIDDEN["headdim"], "positions": True, "d_key": HIDDEN["d_state"]},
    },
    "concat": {"cross": "concat"},
    "concat, 32 states": {"cross": "concat", "cross_config": {"d_state": 32}},
    "concat, mimetic, 32 states": {"cross": "concat", "cross_config": {"d_state": 32, "init": "mimetic"}},
    # two scans of half the width
    "prefix_bidirectional": {"cross": "prefix_bidirectional", "cross_config": {"expand": 1}},
    "hidden_attention, no places": {"cross": "hidden_attention", "cross_config": {**HIDDEN, "positions": False}},
    "hidden_attention, no places, mimetic": {
        "cross": "hidden_attention",
        "cross_config": {**HIDDEN, "positions": False, "init": "mimetic"},
    },
    "hidden_attention": {"cross": "hidden_attention", "cross_config": HIDDEN},
    "hidden_attention, mimetic": {"cross": "hidden_attention", "cross_config": {**HIDDEN, "init": "mimetic"}},
    "interleaved by given durations": {"cross": "interleaved"},
}
"""Options of the decoder by name; ``headdim`` of attention is put as a number of heads."""
SETTINGS = ("steps", "seconds", "batch", "d_model", "layers", "phonemes", "longest")
"""Arguments that must be the same for a finished run to count."""
COLUMNS = (
    "variant", "seed", "parameters", "lr", "loss", "valid_error", "short_error", "long_error", "longer_error",
    "short_strings_wrong", "long_strings_wrong", "longer_strings_wrong", "steps_done", "cpu_seconds", *SETTINGS,
)  # fmt: skip
"""Columns of the results."""
MARGIN = 0.03
"""The largest difference in parameters."""


class Copier(nn.Module):
    """A Mamba decoder that speaks phonemes."""

    def __init__(self, task: CopyingTask, d_model: int, layers: int, d_ffn: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.text = TokenEmbedding(task.n_phonemes, d_model)
        self.tokens = TokenEmbedding(task.end + 2, d_model)
        self.decoder = MambaDecoder(layers, d_model, d_ffn, activation=nn.GELU, **options)
        self.head = nn.Linear(d_model, task.end + 1)
        self.begin = task.end + 1

    def read(self, text: Any, places: Tensor) -> Any:
        """The state before the first token."""
        interleaved = places if self.decoder.layers[0].cross == "interleaved" else None
        return self.decoder.consume(self.text(text.values), text.lengths, interleaved)

    def forward(self, text: Any, tokens: Any, places: Tensor) -> Tensor:
        """Logits of all tokens, each from those before it."""
        inputs = F.pad(tokens.values[:, :-1], (1, 0), value=self.begin)
        x = self.tokens(inputs)
        for layer, state in zip(self.decoder.layers, self.read(text, places)):
            x = layer(x, state)
        return self.head(self.decoder.norm(x))

    @torch.no_grad()
    def speak(self, text: Any, places: Tensor, frames: int) -> Tensor:
        """The likeliest tokens, (batch, frames)."""
        state, token, spoken = self.read(text, places), torch.full_like(text.lengths, self.begin), []
        for step in range(frames):
            x, state = self.decoder.step(self.tokens(token[:, None], step)[:, 0], state)
            token = self.head(x).argmax(-1)
            spoken.append(token)
        return torch.stack(spoken, 1)


def options_of(variant: str, d_model: int) -> dict[str, Any]:
    """Options of the decoder, of a width, for a variant."""
    options = VARIANTS[variant]
    config = dict(options.get("cross_config", {}))
    if options["cross"] == "attention" and "headdim" in config:
        config["nhead"] = d_model // config.pop("headdim")
    return {**options, "cross_config": config}


def make_copier(task: CopyingTask, arguments: argparse.Namespace, variant: str, wanted: int | None) -> Copier:
    """Make a model whose feed-forward network is as wide as the wanted parameters need."""

    def make(d_ffn: int) -> Copier:
        return Copier(task, arguments.d_model, arguments.layers, d_ffn, options_of(variant, arguments.d_model))

    def size(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    d_ffn = 4 * arguments.d_model
    if wanted is None:
        return make(d_ffn)
    least, more = size(make(1)), size(make(2))
    d_ffn = 1 + round((wanted - least) / (more - least))
    if d_ffn < 1 or abs(size(model := make(d_ffn)) - wanted) > MARGIN * wanted:
        raise SystemExit(f"{variant} does not fit into {wanted} parameters: it has {least} with the narrowest network.")
    return model


def train(model: Copier, task: CopyingTask, arguments: argparse.Namespace, seed: int, lr: float) -> tuple[float, int]:
    """Train for the steps or the time given; returns the last losses' mean and the number of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    generator, start, losses, step = torch.Generator().manual_seed(seed), time.process_time(), [], 0
    done = 0.0
    while done < 1:
        for group in optimizer.param_groups:  # warm-up over a tenth, then linearly down
            group["lr"] = lr * min(10 * done + 1e-2, (1 - done) / 0.9)
        text, tokens, places = task.draw(arguments.batch, (2, arguments.longest), generator)
        logits = model(text, tokens, places)
        inside = valid_frames(tokens.lengths, tokens.values.shape[1])
        loss = F.cross_entropy(logits[inside], tokens.values[inside])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        elapsed = time.process_time() - start
        done = step / arguments.steps if arguments.seconds is None else elapsed / arguments.seconds
    return statistics.mean(losses[-50:]), step


def score(model: Copier, task: CopyingTask, count: int, phonemes: tuple[int, int], seed: int) -> tuple[float, float]:
    """Phoneme errors and wrong strings, in percent, for strings of a number of phonemes in a range."""
    text, tokens, places = task.draw(count, phonemes, torch.Generator().manual_seed(seed))
    spoken = model.eval().speak(text, places, tokens.values.shape[1] + 4)
    errors, wrong = 0, 0
    for said, length, found in zip(text.values.tolist(), text.lengths.tolist(), spoken.tolist()):
        expected, heard = said[:length], task.heard(found)
        wrong += expected != heard
        errors += _edit_distance(expected, heard)
    model.train()
    return 100 * errors / int(text.lengths.sum()), 100 * wrong / count


def _edit_distance(expected: list[int], heard: list[int]) -> int:
    row = list(range(len(heard) + 1))
    for i, said in enumerate(expected, 1):
        before, row = row, [i]
        for j, found in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (said != found)))
    return row[-1]


def run(task: CopyingTask, arguments: argparse.Namespace, variant: str, seed: int, wanted: int) -> dict[str, Any]:
    """Train and score a variant; its row of the results."""
    tried = []
    for lr in arguments.lrs:
        torch.manual_seed(seed)
        model = make_copier(task, arguments, variant, wanted)
        start = time.process_time()
        loss, steps = train(model, task, arguments, seed + 1, lr)
        seconds = time.process_time() - start
        valid = score(model, task, arguments.strings, (2, arguments.longest), 10**6 + seed)[0]
        tried.append((valid, lr, model, loss, steps, seconds))
    valid, lr, model, loss, steps, seconds = min(tried, key=lambda trial: trial[:2])
    short = score(model, task, arguments.strings, (2, 4), 2 * 10**6 + seed)
    long = score(model, task, arguments.strings, (arguments.longest - 3, arguments.longest), 3 * 10**6 + seed)
    longer = score(model, task, arguments.strings, (arguments.longest + 1, 2 * arguments.longest), 4 * 10**6 + seed)
    return {
        "variant": variant, "seed": seed, "parameters": sum(p.numel() for p in model.parameters()), "lr": lr,
        "loss": round(loss, 4), "valid_error": round(valid, 2), "short_error": round(short[0], 2),
        "long_error": round(long[0], 2), "longer_error": round(longer[0], 2),
        "short_strings_wrong": round(short[1], 2), "long_strings_wrong": round(long[1], 2),
        "longer_strings_wrong": round(longer[1], 2), "steps_done": steps, "cpu_seconds": round(seconds, 1),
        **{name: getattr(arguments, name) for name in SETTINGS},
    }  # fmt: skip


def read_rows(path: Path | None) -> list[dict[str, str]]:
    """Rows of finished runs."""
    if path is None or not path.exists():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(COLUMNS):
            raise SystemExit(f"'{path}' has the columns of another version of this probe: give another file to --out.")
        return list(reader)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a run to the results."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print mean and standard deviation over the seeds for each variant."""

    def over_seeds(values: list[float], digits: int) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    columns = ("short_error", "long_error", "longer_error", "loss", "cpu_seconds")
    print("| variant | seeds | parameters | short, % | long, % | longer, % | loss | CPU seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        figures = [over_seeds([float(row[key]) for row in own], 2 if key == "loss" else 1) for key in columns]
        cells = [variant, len(own), own[0]["parameters"], *figures]
        print("|", " | ".join(map(str, cells)), "|")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seconds", type=float, help="processor time of a training, in place of --steps")
    parser.add_argument("--lrs", type=float, nargs="+", default=[3e-3], help="learning rates to try")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--d_model", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--phonemes", type=int, default=24, help="different phonemes")
    parser.add_argument("--longest", type=int, default=11, help="the most phonemes of a string")
    parser.add_argument("--strings", type=int, default=200, help="strings of each test")
    parser.add_argument("--out", type=Path, help="CSV file of the runs")
    return parser.parse_args()


def main() -> None:
    """Run what is not finished yet, and print the table."""
    arguments = parse_arguments()
    task = CopyingTask(arguments.phonemes)
    wanted = sum(p.numel() for p in make_copier(task, arguments, "attention", None).parameters())
    rows: list[Mapping[str, Any]] = [
        row for row in read_rows(arguments.out)
        if all(row[name] == str(getattr(arguments, name) or "") for name in SETTINGS)
    ]  # fmt: skip
    finished = {(row["variant"], int(row["seed"])) for row in rows}
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            if (variant, seed) in finished:
                continue
            row = run(task, arguments, variant, seed, wanted)
            print({key: row[key] for key in [*COLUMNS[:9], "cpu_seconds"]}, flush=True)
            rows.append(row)
            if arguments.out is not None:
                append_row(arguments.out, row)
    print_table(rows)


if __name__ == "__main__":
    main()

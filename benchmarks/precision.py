"""Speed of inference in fp32, bf16 and int8 on a CPU, and what the models of the package lose by it.

    python benchmarks/precision.py --threads 1 2 --out results/precision.csv

Times Mamba-TasNet M on a mixture of 4 s and ConMamba with CTC on 30 s, with random weights, and two products in each
precision. "autocast" is bf16 with weights that are cast in each call. Ratios are those of medians in one run.
FILE_quality.csv has the scores of the package's separator and recognizer of sentences, on mixtures and sentences of
synthetic voices that are built with espeak-ng (left out without it).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from speechbrain_mamba.corpora import folder
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.dataio.audio_files import SkippedFiles
from speechbrain_mamba.dataio.mixing import MixtureSampler
from speechbrain_mamba.evaluation.unseen_speakers import score_mixtures
from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words
from speechbrain_mamba.inference.precision import ReducedPrecision, check_precision
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.nnet.reduced_linear import ReducedLinear, reduce_linears
from speechbrain_mamba.utils.memory import keep_freed_memory
from system_calls import hear, load_modules, separate_noise
from timing import summarize, time_in_turn, write_table

CPU = torch.device("cpu")
SYSTEMS = {"separation/mambatasnet_M": 4.0, "asr/conmamba_ctc": 30.0}
"""Seconds of audio by system."""
PRODUCTS = ((4000, 256, 1024), (1, 1024, 4096))
"""Rows, inputs and outputs of single products: one of Mamba-TasNet M, and one of a step of VALL-M."""
CORPUS = {"speakers": (1, 1, 16), "sentences": 40, "digit_strings": 2}


def precisions() -> list[str]:
    """The precisions that make this machine faster."""
    return ["fp32", "autocast", *(name for name in ("bf16", "int8") if check_precision(name, CPU) == name)]


def context(name: str) -> contextlib.AbstractContextManager:
    """What a model of a precision computes in."""
    if name == "autocast":
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext() if name == "fp32" else ReducedPrecision()


def forward(system: str, modules: nn.ModuleDict, features: int, name: str) -> Callable[[], Tensor]:
    """A forward pass of a system in a precision, without gradients."""
    modules = copy.deepcopy(modules).eval().requires_grad_(False)
    if name in ("bf16", "int8"):
        reduce_linears(modules, name)
    torch.manual_seed(0)
    seconds = SYSTEMS[system]
    run = separate_noise(modules, seconds, 1, CPU) if features == 0 else hear(modules, features, seconds, 1, CPU)

    def compute() -> Tensor:
        with torch.no_grad(), context(name):
            return run()

    return compute


def product(rows: int, inputs: int, outputs: int, name: str) -> Callable[[], Tensor]:
    """A single product in a precision; in all but fp32 it gives bfloat16, where the processor has it."""
    torch.manual_seed(0)
    x, linear = torch.randn(rows, inputs), nn.Linear(inputs, outputs, bias=False).requires_grad_(False)
    layer: nn.Module = ReducedLinear(linear, name) if name in ("bf16", "int8") else linear

    def compute() -> Tensor:
        with torch.no_grad(), context(name):
            return layer(x)

    return compute


def time_all(threads: int, rounds: int) -> list[dict]:
    """Rows of the systems and products on a number of threads."""
    torch.set_num_threads(threads)
    rows, names = [], precisions()
    for system, seconds in SYSTEMS.items():
        modules, features = load_modules(system, CPU)
        candidates = {name: forward(system, modules, features, name) for name in names}
        rows += compare(system, candidates, rounds, threads, seconds)
    for shape in PRODUCTS:
        rows += compare("x".join(map(str, shape)), {name: product(*shape, name) for name in names}, rounds, threads)
    return rows


def compare(
    what: str, candidates: dict[str, Callable[[], Tensor]], rounds: int, threads: int, seconds: float | None = None
) -> list[dict]:
    """Rows of the same computation in several precisions."""
    exact = candidates["fp32"]().float()
    errors = {name: float((run().float() - exact).norm() / exact.norm()) for name, run in candidates.items()}
    times = {name: summarize(found) for name, found in time_in_turn(candidates, rounds).items()}
    return [
        {
            "what": what, "precision": name, "threads": threads, "seconds_of_audio": "" if seconds is None else seconds,
            **times[name], "times_fp32": times[name]["median_ms"] / times["fp32"]["median_ms"],
            "real_time_factor": "" if seconds is None else times[name]["median_ms"] / 1e3 / seconds,
            "relative_difference": errors[name],
        }
        for name in candidates
    ]  # fmt: skip


def score_all(corpora: Path) -> list[dict]:
    """Scores of the package's models in each precision."""
    voices = {rate: build_mini_corpus(corpora / str(rate), rate, **CORPUS) for rate in (8000, 16000)}
    speech = folder.find_speech(voices[8000], 8000, SkippedFiles())["test"]
    said = [line.split(" ", 1) for path in sorted((voices[16000] / "test").rglob("*.trans.txt"))
            for line in path.read_text(encoding="utf-8").splitlines()]  # fmt: skip
    recordings = {path.stem: path for path in (voices[16000] / "test").rglob("*.wav")}
    rows = []
    for name in (name for name in precisions() if name != "autocast"):
        separator = SpeechSeparator.from_hparams("separator", run_opts={"precision": name})
        mixtures = map(MixtureSampler(speech, 2, 8000, (2.0, 2.0), 1234).draw, range(100))
        gains = [row["si_snr_i"] for row in score_mixtures(separator.separate_batch, mixtures)]
        rows.append(quality("separator", name, "SI-SNRi of 100 mixtures", "db", sum(gains) / len(gains)))
        recognizer, errors = Recognizer.from_hparams("recognizer-sentences", run_opts={"precision": name}), WordErrors()
        for key, text in said:
            heard = recognizer.transcribe_file(str(recordings[key]))
            errors.add(key, normalize_words(heard), normalize_words(text))
        rows.append(quality("recognizer-sentences", name, f"WER of {len(said)} sentences", "percent", errors.rate()))
    exact = {row["model"]: row["score"] for row in rows if row["precision"] == "fp32"}
    return [{**row, "minus_fp32": row["score"] - exact[row["model"]]} for row in rows]


def quality(model: str, precision: str, what: str, unit: str, score: float) -> dict:
    """A row of scores."""
    return {"model": model, "precision": precision, "what": what, "unit": unit, "score": score}


def main():
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--corpora", type=Path, default=Path("results/precision_voices"), help="where voices are kept")
    parser.add_argument("--only", choices=["speed", "quality"], help="what is measured; by default both")
    parser.add_argument("--out", "--csv", dest="out", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.only != "quality":
        rows = [row for threads in arguments.threads for row in time_all(threads, arguments.rounds)]
        write_table(rows, arguments.out)
    if arguments.only == "speed":
        return
    torch.set_num_threads(max(arguments.threads))
    try:
        scores = score_all(arguments.corpora)
    except ImportError as error:
        print(f"The quality is left out: {error}", file=sys.stderr)
        return
    write_table(scores, arguments.out and arguments.out.with_name(f"{arguments.out.stem}_quality.csv"))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Put a trained model into the package: its weights in half precision, measured again, and its card.

    python recipes/bundled/bundle.py separator RUN_FOLDER --fsdd /path/to/free-spoken-digit-dataset
    python recipes/bundled/bundle.py recognizer-digits RUN_FOLDER --tests "an unseen speaker=test.csv"

RUN_FOLDER is what the training wrote, with its folder inference. All figures of the card are measured here, with the
files that the package then carries.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import platform
import re
import shutil
import string
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from speechbrain_mamba.dataio.manifests import TRANSCRIBED, read_manifest
from speechbrain_mamba.dataio.recordings import read_recording
from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.dataio.utterances import read_utterances
from speechbrain_mamba.evaluation.new_voices import say_in_voices
from speechbrain_mamba.evaluation.unseen_speakers import by_pair, digit_mixtures, score_mixtures, summarize
from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words
from speechbrain_mamba.inference.bundled import CARD, FOLDER, SCORES
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.files import atomic_path, write_csv
from speechbrain_mamba.utils.weights import CHECKPOINT, SAFETENSORS, read_weights, write_weights

CARDS = Path(__file__).parent / "cards"
LENGTHS = (2.0, 8.0)
"""Seconds of the mixtures of two tests: those of the training, and longer ones."""

PIECE = 0.1
"""Seconds of the pieces of the test of a stream."""

Facts = dict[str, Any]
Rows = list[dict[str, Any]]
Items = Mapping[str, Mapping[str, Any]]


def halve_weights(source: Path, target: Path) -> int:
    """Copy an exported model, with weights in half precision and without the files for SpeechBrain's own classes.

    Values that half precision cannot hold keep their type. Returns the number of parameters.
    """
    parameters, largest = 0, torch.finfo(torch.float16).max
    for path in sorted(source.iterdir()):
        if path.suffix == SAFETENSORS:
            state = read_weights(path)
            parameters += sum(value.numel() for value in state.values() if value.is_floating_point())
            halved = {
                name: value.half() if value.dtype == torch.float32 and bool(value.abs().max() < largest) else value
                for name, value in state.items()
            }
            write_weights(target / path.name, halved)
        elif not (path.suffix == CHECKPOINT and path.with_suffix(SAFETENSORS).exists()):
            shutil.copy(path, target)
    return parameters


def measure_separator(folder: Path, run: Path, options: argparse.Namespace) -> tuple[dict[str, float], Facts]:
    """The figures of a separator by name, and what else its card tells."""
    from speechbrain_mamba.inference.separation import SpeechSeparator

    if options.fsdd is None:
        raise ValueError("The separator is tested on FSDD: give --fsdd, the clone of free-spoken-digit-dataset.")
    halved, whole = (SpeechSeparator.from_hparams(source) for source in (folder, run / "inference"))
    with torch.no_grad():
        tests = {
            seconds: score_mixtures(halved.separate_batch, digit_mixtures(options.fsdd, count, seconds))
            for seconds, count in ((LENGTHS[0], options.count), (LENGTHS[1], options.count // 2))
        }
        before = score_mixtures(whole.separate_batch, digit_mixtures(options.fsdd, options.count, LENGTHS[0]))
    figures, table = {}, []
    for seconds, rows in tests.items():
        found = summarize(rows)
        table += [{"mixture": index, "seconds": seconds, **row} for index, row in enumerate(rows)]
        figures[f"SI-SNRi of {seconds:g} s, dB"] = round(found["si_snr_i"], 2)
        figures[f"SDRi of {seconds:g} s, dB"] = round(found["sdr_i"], 2)
        figures[f"made worse of {seconds:g} s, %"] = round(found["worse"], 1)
    write_csv(folder / SCORES, table, list(table[0]))
    main, rows = summarize(tests[LENGTHS[0]]), by_pair(tests[LENGTHS[0]])
    pairs = [["speakers", "mixtures", "SI-SNRi", "made worse"]]
    pairs += [
        [pair, str(own["mixtures"]), f"{own['si_snr_i']:.1f} dB", f"{own['worse']:.0f} %"] for pair, own in rows.items()
    ]
    speech = read_utterances(run / "save" / "train_utterances.csv", halved.hparams.sample_rate)
    minutes = {
        kind: sum(item.samples for item in speech if item.speaker.startswith(corpus)) / halved.hparams.sample_rate / 60
        for kind, corpus in (("real", "speech_to_intent-"), ("synthetic", "mini-"))
    }
    return figures, {
        "gain": f"{main['si_snr_i']:.1f}",
        "worse": f"{main['worse']:.0f}",
        "half": f"{main['si_snr_i'] - summarize(before)['si_snr_i']:+.3f}",
        "mixtures": options.count,
        "pairs": markdown_table(pairs),
        **{kind: f"{value:.0f}" for kind, value in minutes.items()},
    }


def named_tests(options: argparse.Namespace, run: Path) -> dict[str, Items]:
    """The recordings of each test by its name; those that the training tested if no others are given."""
    tests = {}
    for given in options.tests or [f"the test of the training={run / 'save/test.csv'}"]:
        name, equals, manifest = given.partition("=")
        if not equals or not name:
            raise ValueError(f"'{given}' is not a test: give NAME=MANIFEST, such as 'an unseen speaker=test.csv'.")
        tests[name] = read_manifest(manifest, columns=(*TRANSCRIBED, "spk_id"))
    return tests


def describe_tests(tests: Mapping[str, Rows]) -> str:
    """Lines of Markdown that say how large each test is."""
    lines = []
    for name, rows in tests.items():
        speakers = len({row["speaker"] for row in rows})
        lines.append(f"- {name}: {len(rows)} recordings of {speakers} speaker{'' if speakers == 1 else 's'}")
    return "\n".join(lines)


def error_rate(rows: Rows, heard: str = "heard") -> float:
    """Word errors of a column of texts, in percent."""
    errors = WordErrors()
    for row in rows:
        errors.add(row["id"], normalize_words(row[heard]), normalize_words(row["said"]))
    return errors.rate() or 0.0


def transcribe_tests(source: Path, tests: Mapping[str, Items]) -> dict[str, Rows]:
    """A row with what a recognizer hears in each recording, by the names of the tests."""
    from speechbrain_mamba.inference.recognition import Recognizer

    recognizer, found = Recognizer.from_hparams(source), {}
    for test, items in tests.items():
        texts, _ = recognizer.transcribe_batch(
            [read_recording(item["wav"], recognizer.sample_rate).signal[0] for item in items.values()]
        )
        found[test] = [
            {"test": test, "id": name, "speaker": item["spk_id"], "said": item["wrd"], "heard": text}
            for (name, item), text in zip(items.items(), texts)
        ]
    return found


def measure_recognizer(folder: Path, run: Path, options: argparse.Namespace) -> tuple[dict[str, float], Facts]:
    """The figures of a recognizer by name, and what else its card tells."""
    tests = named_tests(options, run)
    main = next(iter(tests))
    before, after = transcribe_tests(run / "inference", {main: tests[main]}), transcribe_tests(folder, tests)
    rows = [row for test in after.values() for row in test]
    write_csv(folder / SCORES, rows, list(rows[0]))
    figures = {f"WER of {test}, %": round(error_rate(after[test]), 2) for test in tests}
    return figures, {
        "wer": f"{error_rate(after[main]):.0f}",
        "half": f"{error_rate(after[main]) - error_rate(before[main]):+.2f}",
        "tests": describe_tests(after),
    }


def measure_streaming_recognizer(
    folder: Path, run: Path, options: argparse.Namespace
) -> tuple[dict[str, float], Facts]:
    """The same of one that streams, with what a stream costs, and in how many texts it differs from a whole file."""
    from speechbrain_mamba.inference.streaming import StreamingRecognizer

    figures, facts = measure_recognizer(folder, run, options)
    recognizer = StreamingRecognizer.from_hparams(folder)
    main, items = next(iter(named_tests(options, run).items()))
    with open(folder / SCORES, newline="", encoding="utf-8") as file:
        heard = {row["id"]: row["heard"] for row in csv.DictReader(file) if row["test"] == main}
    chosen = list(items)[: options.count]
    seconds = took = different = 0.0
    for name in chosen:
        signal = read_recording(items[name]["wav"], recognizer.sample_rate).signal[0]
        start = time.process_time()
        for piece in signal.split(round(PIECE * recognizer.sample_rate)):
            recognizer.add(piece)
        different += " ".join(recognizer.finish().split()) != heard[name]
        took += time.process_time() - start
        seconds += len(signal) / recognizer.sample_rate
    figures["latency of a stream, s"] = round(recognizer.latency, 2)
    return figures, facts | {
        "streams": len(chosen), "different": round(different), "piece": f"{1000 * PIECE:g}",
        "streaming": f"{took / seconds:.2f}",
    }  # fmt: skip


def speak_tests(source: Path, tests: Mapping[str, Items], options: argparse.Namespace) -> dict[str, Rows]:
    """A row for each text that a synthesizer says, by the names of the tests: what a recognizer hears in the speech and
    in the recording of the same text, their seconds, and those of processor time."""
    from speechbrain_mamba.inference.recognition import Recognizer
    from speechbrain_mamba.inference.synthesis import SpeechSynthesizer

    synthesizer, recognizer = SpeechSynthesizer.from_hparams(source), Recognizer.from_hparams(options.recognizer)
    found, rate = {}, recognizer.sample_rate
    for test, items in tests.items():
        longest = synthesizer.hparams.prompt_seconds
        said = list(say_in_voices(synthesizer.synthesize, items, options.count, longest))
        heard, _ = recognizer.transcribe_batch([resample(one.wav, one.sample_rate, rate) for one in said])
        recorded, _ = recognizer.transcribe_batch(
            [read_recording(one.recording["wav"], rate).signal[0] for one in said]
        )
        found[test] = [
            {
                "test": test, "id": one.name, "speaker": one.recording["spk_id"], "said": one.recording["wrd"],
                "heard": text, "heard_in_recording": other, "seconds": round(one.seconds, 3),
                "seconds_of_recording": round(one.recording["duration"], 3), "finished": one.finished,
                "computing": round(one.computing, 3),
            }
            for one, text, other in zip(said, heard, recorded)
        ]  # fmt: skip
    return found


def measure_synthesizer(folder: Path, run: Path, options: argparse.Namespace) -> tuple[dict[str, float], Facts]:
    """The figures of a synthesizer by name, and what else its card tells."""
    tests = named_tests(options, run)
    main = next(iter(tests))
    before = speak_tests(run / "inference", {main: tests[main]}, options)
    after = speak_tests(folder, tests, options)
    rows = [row for test in after.values() for row in test]
    write_csv(folder / SCORES, rows, list(rows[0]))
    figures = {}
    for test, own in after.items():
        errors = [abs(row["seconds"] / row["seconds_of_recording"] - 1) for row in own]
        figures[f"WER in the voice of {test}, %"] = round(error_rate(own), 2)
        figures[f"WER of recordings of {test}, %"] = round(error_rate(own, "heard_in_recording"), 2)
        figures[f"duration error in the voice of {test}, %"] = round(100 * sum(errors) / len(errors), 1)
    return figures, {
        "wer": f"{error_rate(after[main]):.0f}",
        "before": f"{error_rate(before[main]):.0f}",
        "unfinished": sum(not row["finished"] for row in rows),
        "texts": len(rows),
        "computing": f"{sum(row['computing'] for row in rows) / sum(row['seconds'] for row in rows):.2f}",
        "tests": describe_tests(after),
    }


MEASURES: dict[str, Callable[[Path, Path, argparse.Namespace], tuple[dict[str, float], Facts]]] = {
    "separator": measure_separator,
    "recognizer-digits": measure_streaming_recognizer,
    "recognizer-sentences": measure_recognizer,
    "synthesizer-digits": measure_synthesizer,
}
COMMANDS = {
    "separator": "python recipes/separation/train.py hparams/separation/bundled_separator.yaml",
    "recognizer-digits": "python recipes/asr/train.py hparams/asr/bundled_conmamba_ctc_digits.yaml",
    "recognizer-sentences": "python recipes/asr/train.py hparams/asr/bundled_conmamba_ctc_sentences.yaml",
    "synthesizer-digits": "python recipes/tts/train.py hparams/tts/bundled_vallm_digits.yaml",
}


def markdown_table(rows: list[list[str]]) -> str:
    """A table of Markdown; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe_run(run: Path) -> Facts:
    """How long a training took, and when it was finished."""
    with open(run / "training.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    finished = datetime.datetime.fromtimestamp((run / "training.csv").stat().st_mtime, datetime.timezone.utc)
    return {"minutes": round(sum(float(row["seconds"]) for row in rows) / 60), "date": finished.date().isoformat()}


def describe_machine() -> str:
    """The processor of this machine, and what torch may use of it."""
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    threads = torch.get_num_threads()
    return f"{threads} thread{'' if threads == 1 else 's'} of {found[1] if found else platform.processor()}"


def write_card(target: Path, template: Path, figures: Mapping[str, float], facts: Mapping[str, Any]) -> None:
    """Fill a template: ``$figures`` for the front matter, ``$table`` with the same figures, and the facts."""
    listing = "\n".join(f"  {json.dumps(name)}: {value}" for name, value in figures.items())
    table = markdown_table([["figure", "value"], *([name, str(value)] for name, value in figures.items())])
    text = string.Template(template.read_text(encoding="utf-8")).substitute(facts, figures=listing, table=table)
    target.write_text(text, encoding="utf-8")


def bundle(name: str, run: Path, options: argparse.Namespace) -> Path:
    """Write the folder of a model; it appears when all is measured."""
    target = options.out / name
    exported = run / "inference"
    if not exported.is_dir():
        raise FileNotFoundError(f"'{run}' has no folder inference: give the folder of a training that has ended.")
    with atomic_path(target) as temporary:
        temporary.mkdir(parents=True)
        parameters = halve_weights(exported, temporary)
        figures, facts = MEASURES[name](temporary, run, options)
        size = sum(path.stat().st_size for path in temporary.iterdir())
        facts |= {
            "parameters": f"{parameters / 1e6:.2f} M", "megabytes": f"{size / 1e6:.1f}", "command": COMMANDS[name],
            "machine": options.machine or describe_machine(), **describe_run(run),
            "bundle": f"python recipes/bundled/bundle.py {name}",
        }  # fmt: skip
        write_card(temporary / CARD, CARDS / f"{name}.md", figures, facts)
        if target.exists():
            shutil.rmtree(target)
    return target


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MEASURES, help="the model")
    parser.add_argument("run", type=Path, help="the output folder of its training")
    parser.add_argument("--fsdd", type=Path, help="the Free Spoken Digit Dataset, for the test of the separator")
    parser.add_argument("--count", type=int, default=200, help="mixtures, texts or streams of a test")
    parser.add_argument(
        "--tests", metavar="NAME=MANIFEST", nargs="+", help="the tests of a recognizer or synthesizer: a name for the "
        "card, and recordings; by default those that the training tested",
    )  # fmt: skip
    parser.add_argument(
        "--recognizer", default="recognizer-digits", help="what listens to a synthesizer: a name, a folder or a Hub id"
    )
    parser.add_argument("--machine", help="where it was trained; by default this machine and torch's threads")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder of all models")
    options = parser.parse_args(arguments)
    target = bundle(options.name, options.run, options)
    print(f"{target}: see {CARD} there.")


if __name__ == "__main__":
    run_script(main)

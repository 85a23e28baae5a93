#!/usr/bin/env python3
"""Measure the transcription of a long recording: time, peak memory, and agreement with what is heard at once.

    python benchmarks/long_transcripts.py --source results/asr/mini_conmamba_ctc/7775/inference \
        --speech data/mini_speech_16k/test
    python benchmarks/long_transcripts.py --minutes 1 10 60 [--streaming]

The recording is made of the WAV files below ``--speech`` in a random order, with pauses of 0.1 to 1.5 s, or of noise in
bursts. Without ``--source`` the recognizer has random weights: time and memory are those of a trained one. Each length
is measured in a process of its own, so that peak memory is each one's.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from speechbrain_mamba.dataio.recording_writer import RecordingWriter
from speechbrain_mamba.dataio.recordings import read_recording
from speechbrain_mamba.evaluation.word_errors import WordErrors
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.recognition_export import export_recognizer
from speechbrain_mamba.text.tokenizer import train_sentencepiece
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from timing import write_table

HPARAMS = Path(__file__).parent.parent / "hparams/asr/mini_conmamba_ctc.yaml"


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="an exported recognizer; by default --hparams with random weights")
    parser.add_argument("--hparams", default=str(HPARAMS), help="hyper-parameter file of a CTC recognizer")
    parser.add_argument("--streaming", action="store_true", help="the recognizer of --hparams is one of streams")
    parser.add_argument("--speech", type=Path, help="folder of WAV files; by default bursts of noise")
    parser.add_argument("--minutes", type=float, nargs="+", default=[60.0], help="lengths of the recording")
    parser.add_argument("--max-seconds", type=float, default=20.0, help="longest window")
    parser.add_argument("--batch-size", type=int, default=8, help="windows that are encoded at once")
    parser.add_argument("--compared-seconds", type=float, default=120.0, help="beginning that is also heard at once")
    parser.add_argument("--csv", type=Path, help="where the table goes too")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def load_recognizer(given, folder):
    """A trained recognizer, or one with random weights."""
    if given.source:
        return Recognizer.from_hparams(given.source)
    sizes = {"data_folder": "", "output_folder": str(folder), "output_neurons": 30, "streaming": given.streaming}
    hparams = load_hparams(given.hparams, sizes)
    statistics = torch.randn(1, 100, hparams["n_mels"])
    hparams["normalize"].train()(statistics, torch.ones(1), epoch=1)
    letters = [" ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")]
    tokenizer = train_sentencepiece(letters, 30, token_type="char")
    text = read_hparams(given.hparams, sizes)
    export_recognizer(folder / "model", text, hparams["modules"], tokenizer, given.streaming)
    return Recognizer.from_hparams(folder / "model")


def write_speech(path, minutes, rate, speech):
    """Write utterances, or bursts of noise, with pauses between them, piece by piece."""
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    files = sorted(speech.rglob("*.wav")) if speech else []
    left = round(60 * minutes * rate)
    with RecordingWriter(path, rate) as writer:
        while left > 0:
            if files:
                piece = read_recording(draw.choice(files), rate).signal
            else:
                piece = 0.1 * torch.randn(1, round(draw.uniform(1, 4) * rate), generator=generator)
            pause = torch.zeros(1, round(draw.uniform(0.1, 1.5) * rate))
            block = torch.cat([piece, pause], 1)[:, :left]
            writer.write(block)
            left -= block.shape[1]


def measure(given, minutes):
    """Transcribe a recording of some minutes; returns a row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recognizer, path = load_recognizer(given, folder), folder / "long.wav"
        write_speech(path, minutes, recognizer.sample_rate, given.speech)
        options = {"max_seconds": given.max_seconds, "batch_size": given.batch_size}
        started = time.perf_counter()
        transcript = recognizer.transcribe(path, **options)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        agreement = compare(given, recognizer, path, options) if given.source else None
    return {
        "minutes": minutes,
        "seconds": round(seconds, 1),
        "times_real_time": round(60 * minutes / seconds, 1),
        "peak_MB": round(peak),
        "words": len(transcript.words),
        "characters_that_differ_%": agreement,
    }


def compare(given, recognizer, path, options):
    """How many characters differ from those of the beginning heard at once, in percent; useless with random weights."""
    compared = round(given.compared_seconds * recognizer.sample_rate)
    beginning = read_recording(path, recognizer.sample_rate).signal[0, :compared]
    whole = recognizer.transcribe_batch(beginning)[0][0]
    errors = WordErrors(characters=True)
    errors.add("beginning", recognizer.transcribe(beginning, **options).text, whole or "-")
    return round(errors.rate(), 2)


def main():
    """Measure each length in a process of its own."""
    given = parse_arguments()
    if given.alone:
        print(json.dumps(measure(given, given.minutes[0])))
        return
    rows, others = [], sys.argv[1:]
    for minutes in given.minutes:
        command = [sys.executable, __file__, *others, "--alone", "--minutes", str(minutes)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
    write_table(rows, given.csv)


if __name__ == "__main__":
    main()

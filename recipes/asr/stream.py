#!/usr/bin/env python3
"""Recognize a file piece by piece, as if it were being spoken, and print the growing text.

    python recipes/asr/train.py hparams/asr/mini_conmamba_ctc_streaming.yaml
    python recipes/asr/stream.py results/asr/mini_conmamba_ctc_streaming/7775/inference \
        --wav data/mini_speech_16k/test/300/1/300-1-0000.wav

The CTC recognizer must see chunk by chunk (``streaming: True``) or frame by frame (``causal: True``). For a training
that is not finished give its hyper-parameter file, and repeat its options. At the end the text is compared with that of
the same model for the whole file at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import speechbrain as sb

from speechbrain_mamba.dataio.recordings import read_recording
from speechbrain_mamba.inference.streaming import StreamingRecognizer
from speechbrain_mamba.training.script import run_script


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, recognize, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of an exported recognizer, or the hyper-parameter file of a training")
    parser.add_argument("--wav", required=True, help="the file")
    parser.add_argument("--milliseconds", type=int, default=320, help="length of a piece")
    own, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if Path(own.source).suffix == ".yaml":
        hparams_file, _, overrides = sb.parse_arguments([own.source, *rest])
        recognizer = StreamingRecognizer.from_run(hparams_file, overrides)
    else:
        if rest:
            parser.error(f"{rest[0]}: options are for the hyper-parameter file of a training, not for a folder")
        recognizer = StreamingRecognizer.from_hparams(own.source)
    rate = recognizer.sample_rate
    wav = read_recording(own.wav, rate).signal
    pieces = wav.split(max(1, rate * own.milliseconds // 1000), 1)
    heard = 0
    for index, piece in enumerate(pieces, start=1):
        heard += piece.shape[1]
        text = recognizer.add(piece)
        if index == len(pieces):
            text = recognizer.finish()
        print(f"{heard / rate:6.2f} s  {text}")
    whole = recognizer.recognize(wav)
    print(f"{Path(own.wav).name}, all at once: {whole}\n{'equal' if whole == text else 'DIFFERENT'}")


if __name__ == "__main__":
    run_script(main)

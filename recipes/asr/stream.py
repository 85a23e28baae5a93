#!/usr/bin/env python3
"""Recognize a file piece by piece, as if it were being spoken, and print the growing text.

    python recipes/asr/train.py hparams/asr/mini_conmamba_ctc_streaming.yaml
    python recipes/asr/stream.py hparams/asr/mini_conmamba_ctc_streaming.yaml \
        --wav data/mini_speech_16k/test/300/1/300-1-0000.wav

The CTC recognizer must see chunk by chunk (``streaming: True``) or frame by frame (``causal: True``); repeat the
options of its training. At the end the text is compared with that of the same model for the whole file at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import speechbrain as sb

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.inference.streaming import StreamingRecognizer
from speechbrain_mamba.training.script import run_script


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, recognize, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wav", required=True, help="the file")
    parser.add_argument("--milliseconds", type=int, default=320, help="length of a piece")
    own, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    hparams_file, _, overrides = sb.parse_arguments(rest)
    recognizer = StreamingRecognizer.from_hparams(hparams_file, overrides)
    rate = recognizer.sample_rate
    wav = read_audio(own.wav, rate)[None]
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

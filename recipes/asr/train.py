#!/usr/bin/env python3
"""Train and test a speech recognizer: ConMamba or the baseline Conformer, with CTC or with a decoder.

    python recipes/asr/train.py hparams/asr/conmamba_ctc.yaml --data_folder /path/to/LibriSpeech
    python recipes/asr/train.py hparams/asr/conmambamamba_small.yaml --data_folder /path/to/LibriSpeech

A tokenizer is trained on the transcripts unless ``--tokenizer_folder`` names one. The search of a recognizer with a
decoder uses the language model that ``--lm_folder`` names, if any; both are folders or ids of the Hub. Every
hyper-parameter of the file can be replaced on the command line, and so can SpeechBrain's own options (``--device``,
``--precision``, ``--debug``, ...; ``--help`` lists both). Use ``torchrun --nproc_per_node=N`` instead of ``python`` to
train on N GPUs. The same command again resumes from the last checkpoint. Results: ``<output_folder>/test``; the
folder ``inference`` beside it loads as a ``Recognizer``, and in SpeechBrain's ``EncoderASR`` or ``EncoderDecoderASR``.
"""

from speechbrain_mamba.training.command_line import check_command_line

if __name__ == "__main__":
    check_command_line(__file__)  # before the imports that take seconds

import sys

from objectives import CTCBrain, S2SBrain
from recognition_brain import RecognitionBrain

from speechbrain_mamba.training.command_line import read_comments
from speechbrain_mamba.training.run import parse_arguments, run_recipe
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.hparams import read_hparams

BRAINS: dict[str, type[RecognitionBrain]] = {"ctc": CTCBrain, "ctc_attention": S2SBrain}
"""What is trained, by the key ``objective`` of the hyper-parameters."""


def choose_brain(arguments: list[str]) -> type[RecognitionBrain]:
    """Choose the Brain that the hyper-parameters of a command line ask for."""
    hparams_file, _, overrides, _ = parse_arguments(arguments)
    objective, _ = read_comments(read_hparams(hparams_file, overrides)).get("objective", (None, ""))
    if objective not in BRAINS:
        raise ValueError(f"objective is {objective!r} in '{hparams_file}', but must be one of {', '.join(BRAINS)}.")
    return BRAINS[objective]


def main(arguments: list[str] | None = None) -> None:
    """Prepare the data, train, test."""
    given = sys.argv[1:] if arguments is None else arguments
    run_recipe(choose_brain(given), given)


if __name__ == "__main__":
    run_script(main)

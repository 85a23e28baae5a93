#!/usr/bin/env python3
"""Train the tokenizer of a recognizer on its training transcripts, without training the recognizer.

    python recipes/asr/train_tokenizer.py hparams/asr/conmamba_small.yaml --data_folder /path/to/LibriSpeech

The tokenizer is ``<save_folder>/tokenizer.ckpt``. Training with the same file finds it there, and other recognizers by
``--tokenizer_folder``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import speechbrain as sb
from recognition_brain import get_tokenizer

from speechbrain_mamba.corpora.preparation import prepare_recognition, recognition_manifests
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.text.tokenizer import FILE_NAME
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.hparams import load_hparams
from speechbrain_mamba.utils.locks import FolderLock


def main(arguments: list[str] | None = None) -> None:
    """Prepare the data, train the tokenizer."""
    hparams_file, _, overrides = sb.parse_arguments(sys.argv[1:] if arguments is None else arguments)
    hparams = load_hparams(hparams_file, overrides)
    with FolderLock(hparams["output_folder"]):
        if not hparams["skip_prep"]:
            prepare_recognition(hparams)
        items = read_manifest(recognition_manifests(hparams)["train"], hparams["data_folder"])
        transcripts = [item["wrd"] for item in items.values()]
        tokenizer = get_tokenizer(hparams, transcripts)
    tokens = sum(len(ids) for ids in tokenizer.encode(transcripts))
    words = sum(len(text.split()) for text in transcripts)
    file = Path(hparams["save_folder"]) / FILE_NAME
    print(f"{file}: {tokenizer.vocab_size()} tokens, {tokens / words:.2f} per word")


if __name__ == "__main__":
    run_script(main)

#!/usr/bin/env python3
"""Train the tokenizer of a recogniser on its training transcripts, without training the recogniser.

    python recipes/asr/train_tokenizer.py hparams/asr/conmamba_small.yaml --data_folder /path/to/LibriSpeech

The tokenizer is ``<save_folder>/tokenizer.ckpt``. Training with the same file finds it there, and other recognisers by
``--tokenizer_folder``.
"""

import sys
from pathlib import Path

from recognition import get_tokenizer, prepare_manifests, start

from speechbrain_mamba.dataio.manifests import read_manifest


def main():
    """Prepare the data, train the tokenizer."""
    _, hparams, _ = start(sys.argv[1:])
    items = read_manifest(prepare_manifests(hparams)["train"], hparams["data_folder"])
    transcripts = [item["wrd"] for item in items.values()]
    tokenizer = get_tokenizer(hparams, transcripts)
    tokens = sum(len(ids) for ids in tokenizer.encode(transcripts))
    words = sum(len(text.split()) for text in transcripts)
    file = Path(hparams["save_folder"]) / "tokenizer.ckpt"
    print(f"{file}: {tokenizer.vocab_size()} tokens, {tokens / words:.2f} per word")


if __name__ == "__main__":
    main()

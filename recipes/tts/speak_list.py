#!/usr/bin/env python3
"""Say a list of texts, each in the voice of a prompt, as synthesizers are compared on LibriSpeech-PC or Seed-TTS-eval.

    python recipes/tts/speak_list.py results/tts/vallm/1234/inference librispeech_pc_test_clean_cross_sentence.lst OUT \
        --audio_folder LibriSpeech/test-clean
    python recipes/tts/evaluate.py OUT --recognizer ... --speaker_encoder ...

SOURCE is an exported folder, a Hub id or the name of a model of the package. The same command again says what is
missing. With --make the list is made first, of a manifest: texts of 4 to 10 s, each with another recording of its
speaker as the prompt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.evaluation.prompt_lists import (
    make_prompt_list,
    read_prompt_list,
    speak_prompt_list,
    write_prompt_list,
)
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.locks import alone_in_run


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="the synthesizer")
    parser.add_argument("list", type=Path, help="texts and prompts; with --make where the list goes")
    parser.add_argument("out", help="where the speech and its table go")
    parser.add_argument("--audio_folder", help="the folder of the recordings; that of the list by default")
    parser.add_argument("--make", metavar="MANIFEST", help="make the list of a manifest with spk_id")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=[4.0, 10.0], help="of recordings whose texts are said"
    )
    parser.add_argument("--prompt_seconds", type=float, nargs=2, default=[1.0, 3.0], help="of prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.make is not None and not options.list.exists():
        items = read_manifest(options.make, columns=("duration", "wav", "wrd", "spk_id"))
        pairs = make_prompt_list(items, tuple(options.seconds), tuple(options.prompt_seconds))
        write_prompt_list(options.list, items, pairs)
    prompted = read_prompt_list(options.list, options.audio_folder)
    with alone_in_run(options.out):
        from speechbrain_mamba.inference.synthesis import SpeechSynthesizer

        synthesizer = SpeechSynthesizer.from_hparams(options.source, run_opts={"device": options.device})
        rows = speak_prompt_list(synthesizer.synthesize, prompted, options.out, options.seed)
    print(f"{len(rows)} of {len(prompted)} texts: {options.out}")


if __name__ == "__main__":
    run_script(main)

#!/usr/bin/env python3
"""Judge the speech that train.py wrote to its folder ``test``.

    python recipes/tts/evaluate.py results/tts/mini_vallm/1234/test --recognizer ASR --speaker_encoder SPEAKER

With --naturalness a predictor of mean opinion scores rates the speech and the recordings: a Hub id or folder of the
package transformers, or a TorchScript program such as balacoon/utmos:utmos.jit, which needs --trust_judge.

ASR and SPEAKER are Hub ids or folders of SpeechBrain models: the folders ``inference`` of ``recipes/asr/train.py`` and
``recipes/speaker/train.py``, or published models such as speechbrain/spkrec-ecapa-voxceleb. ``results.csv``,
``summary.json`` and pictures are written beside the speech.
"""

import argparse

from speechbrain_mamba.evaluation.report import format_summary
from speechbrain_mamba.evaluation.synthesis_report import judge_speech
from speechbrain_mamba.evaluation.text_normalization import NORMALIZATIONS
from speechbrain_mamba.inference.judge_programs import SAMPLES
from speechbrain_mamba.inference.judges import load_judges
from speechbrain_mamba.training.script import run_script
from speechbrain_mamba.utils.locks import alone_in_run


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the folder of synthesis.csv")
    parser.add_argument("--recognizer", help="Hub id or folder; without one no word error rate is computed")
    parser.add_argument("--speaker_encoder", help="Hub id or folder; without one voices are not compared")
    parser.add_argument("--naturalness", help="Hub id or folder of a predictor of opinion scores")
    parser.add_argument("--naturalness_samples", choices=SAMPLES, help="what a program of --naturalness takes")
    parser.add_argument("--trust_judge", action="store_true", help="let judges that are TorchScript programs run")
    parser.add_argument("--normalization", choices=NORMALIZATIONS, default="words", help="of texts, for word errors")
    parser.add_argument("--device", default="cpu", help="where the judges compute")
    parser.add_argument("--sources", nargs="*", default=[], help="other models on the Hub that the judges may download")
    options = parser.parse_args(arguments)
    with alone_in_run(options.folder):
        judges = load_judges(
            options.recognizer, options.speaker_encoder, options.device, options.sources, options.naturalness,
            options.trust_judge, options.naturalness_samples,
        )  # fmt: skip
        print(format_summary(judge_speech(options.folder, **judges, normalization=options.normalization)))


if __name__ == "__main__":
    run_script(main)

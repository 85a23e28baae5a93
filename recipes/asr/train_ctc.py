#!/usr/bin/env python3
"""Train and test a recogniser with CTC: ConMamba, or its twin Conformer.

    python recipes/asr/train_ctc.py hparams/asr/conmamba_ctc.yaml --data_folder /path/to/LibriSpeech

Every hyper-parameter of the file can be replaced on the command line, SpeechBrain's own options (``--device``,
``--precision``, ``--debug``, ...) hold, and ``torchrun --nproc_per_node=N`` in place of ``python`` uses N GPUs. The
same command given again goes on from the last checkpoint. Results: ``<output_folder>/test``; ``inference`` beside it is
what SpeechBrain's ``EncoderASR.from_hparams`` loads.
"""

import sys
from pathlib import Path

import speechbrain as sb
from recognition import Recognition, train_and_test
from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode
from speechbrain.utils.distributed import run_on_main

from speechbrain_mamba.inference.recognition import export_recognizer
from speechbrain_mamba.utils.distributed import leave_processes


class CTCRecognition(Recognition):
    """Training on the CTC loss; greedy search in validation, beam search in the test."""

    def compute_forward(self, batch, stage):
        """Log-probabilities of the tokens, (batch, frames, tokens), their relative lengths, the labels and theirs."""
        batch = batch.to(self.device)
        src, lens, labels = self.encode(batch, stage, batch.tokens)
        chunks = self.hparams.dynchunktrain_config_sampler(stage) if self.hparams.streaming else None
        encoder_out = self.modules.Encoder(src, lens, dynchunktrain_config=chunks)
        return self.modules.ctc_lin(encoder_out).float().log_softmax(-1), lens, *labels

    def compute_objectives(self, predictions, batch, stage):
        """The CTC loss; out of training errors are counted too."""
        log_probs, lens, tokens, token_lens = predictions
        if stage == sb.Stage.VALID:
            self.report_words(batch, ctc_greedy_decode(log_probs, lens, self.hparams.blank_index))
        elif stage == sb.Stage.TEST:
            self.report_words(batch, [hypotheses[0].text for hypotheses in self.search(log_probs, lens)])
        return self.hparams.ctc_cost(log_probs, tokens, lens, token_lens)

    def make_searches(self, hparams):
        """Beam search for the test."""
        vocabulary = [self.tokenizer.id_to_piece(token) for token in range(self.tokenizer.vocab_size())]
        self.search = CTCBeamSearcher(**hparams["test_search"], vocab_list=vocabulary)

    def export(self, hparams, text):
        """Write ``inference/``, which SpeechBrain's ``EncoderASR`` loads."""
        folder = Path(hparams["output_folder"]) / "inference"
        arguments = [folder, text, hparams["modules"], hparams["save_folder"], hparams["streaming"]]
        run_on_main(export_recognizer, args=arguments)


def main():
    """Prepare the data, train, test."""
    train_and_test(CTCRecognition, sys.argv[1:])


if __name__ == "__main__":
    main()
    leave_processes()

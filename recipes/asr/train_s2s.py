#!/usr/bin/env python3
"""Train and test a recogniser with an encoder and a decoder: ConMamba or Conformer, Mamba or Transformer decoder.

    python recipes/asr/train_s2s.py hparams/asr/conmambamamba_small.yaml --data_folder /path/to/LibriSpeech

A tokenizer is trained on the transcripts unless ``--tokenizer_folder`` names one, and the search does without a
language model unless ``--lm_folder`` names one: folders, or ids of the Hub. Every hyper-parameter of the file can be
replaced on the command line, SpeechBrain's own options (``--device``, ``--precision``, ``--debug``, ...) hold, and
``torchrun --nproc_per_node=N`` in place of ``python`` uses N GPUs. The same command given again goes on from the last
checkpoint. Results: ``<output_folder>/test``.
"""

import sys

import speechbrain as sb
import torch
from recognition import Recognition, train_and_test
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder, TransformerLMScorer
from speechbrain.utils.Accuracy import AccuracyStats
from speechbrain.utils.distributed import run_on_main

from speechbrain_mamba.utils.distributed import leave_processes
from speechbrain_mamba.utils.pretrained import fetch_pretrained


class S2SRecognition(Recognition):
    """Training on the decoder's and the CTC loss, search with both."""

    best_by = "TER"

    def compute_forward(self, batch, stage):
        """Log-probabilities of CTC and decoder, the encoder's output and its relative lengths, and the labels."""
        batch = batch.to(self.device)
        labels = (*batch.tokens, *batch.tokens_eos, batch.tokens_bos.data)
        src, lens, (*labels, tokens_bos) = self.encode(batch, stage, labels)
        encoder_out, decoder_out = self.modules.Transformer(src, tokens_bos, lens, self.hparams.pad_index)
        p_ctc = self.modules.ctc_lin(encoder_out).float().log_softmax(-1)
        p_seq = self.modules.seq_lin(decoder_out).float().log_softmax(-1)
        return p_ctc, p_seq, encoder_out, lens, labels

    def compute_objectives(self, predictions, batch, stage):
        """Both losses, weighted; out of training the decoder's errors, and the search's errors where there is one."""
        p_ctc, p_seq, encoder_out, lens, (tokens, token_lens, tokens_eos, eos_lens) = predictions
        if stage != sb.Stage.TRAIN:
            self.accuracy.append(p_seq, tokens_eos, eos_lens)
            if self.searches(stage):
                search = self.valid_search if stage == sb.Stage.VALID else self.test_search
                self.report_words(batch, search(encoder_out.float(), lens)[0])
        ctc = self.hparams.ctc_cost(p_ctc, tokens, lens, token_lens)
        seq = self.hparams.seq_cost(p_seq, tokens_eos, length=eos_lens)
        return self.hparams.ctc_weight * ctc + (1 - self.hparams.ctc_weight) * seq

    def searches(self, stage):
        """Whether a stage has a search: the validation of every few epochs, and the test."""
        epoch = self.hparams.epoch_counter.current
        return stage == sb.Stage.TEST or epoch % self.hparams.valid_search_interval == 0

    def on_stage_start(self, stage, epoch=None):
        """Get the counters of a stage ready."""
        super().on_stage_start(stage, epoch)
        self.accuracy = AccuracyStats()

    def stage_scores(self):
        """The tokens that the decoder gets wrong after the right ones, in percent, and the search's error rates, which
        are no numbers where there was no search."""
        rates = super().stage_scores() if self.report.rows else {"WER": float("nan"), "CER": float("nan")}
        return {"TER": 100 * (1 - self.accuracy.summarize()), **rates}

    def make_searches(self, hparams):
        """Beam searches for validation, and for the test with the language model if there is one."""
        language_model = load_language_model(hparams, self.device)
        self.valid_search = make_search(hparams, hparams["valid_beam_size"])
        self.test_search = make_search(hparams, hparams["test_beam_size"], hparams["test_temperature"], language_model)


def load_language_model(hparams, device):
    """The language model of ``lm_folder``, or None."""
    if hparams["lm_folder"] is None:
        return None
    arguments = [hparams["lm_folder"], "lm.ckpt", hparams["save_folder"]]
    run_on_main(fetch_pretrained, args=arguments)
    weights = torch.load(fetch_pretrained(*arguments), map_location="cpu", weights_only=True)
    model = hparams["lm_model"]()
    for key, value in model.state_dict().items():
        found = tuple(weights[key].shape) if key in weights else None
        if found != tuple(value.shape):
            raise ValueError(
                f"The language model in '{hparams['lm_folder']}' has {key} of shape {found}, but lm_model wants "
                f"{tuple(value.shape)}: it is of another vocabulary than the {hparams['output_neurons']} tokens of "
                "output_neurons, or of another architecture."
            )
    model.load_state_dict(weights)
    return model.to(device).eval()


def make_search(hparams, beam_size, temperature=1.0, language_model=None):
    """A beam search with the CTC scorer, and that of a language model if there is one."""
    scorers = [CTCScorer(ctc_fc=hparams["ctc_lin"], blank_index=hparams["blank_index"], eos_index=hparams["eos_index"])]
    weights = {"ctc": hparams["ctc_weight_decode"]}
    if language_model is not None:
        scorers.insert(0, TransformerLMScorer(language_model, temperature=hparams["lm_temperature"]))
        weights["transformerlm"] = hparams["lm_weight"]
    scorer = ScorerBuilder(full_scorers=scorers, weights=weights)
    return hparams["searcher"](beam_size=beam_size, temperature=temperature, scorer=scorer)


def main():
    """Prepare the data, train, test."""
    train_and_test(S2SRecognition, sys.argv[1:])


if __name__ == "__main__":
    main()
    leave_processes()

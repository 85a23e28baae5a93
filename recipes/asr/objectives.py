"""The objectives of recognizers, and how each is searched: CTC, and CTC with a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import speechbrain as sb
import torch
from recognition_brain import RecognitionBrain
from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder, TransformerLMScorer
from speechbrain.utils.Accuracy import AccuracyStats
from torch import Tensor, nn

from speechbrain_mamba.decoders.language_model import load_language_model
from speechbrain_mamba.decoders.search_options import check_decoding_steps, check_search_options
from speechbrain_mamba.inference.recognition_export import export_recognizer, export_seq2seq_recognizer
from speechbrain_mamba.text.tokenizer import is_special

SEARCH_OPTIONS = (
    "valid_search_interval", "valid_beam_size", "test_beam_size", "test_temperature", "max_decode_ratio", "ctc_weight",
    "ctc_weight_decode", "lm_weight", "lm_temperature",
)  # fmt: skip
"""Hyper-parameters of the searches of a recognizer with a decoder."""


class CTCBrain(RecognitionBrain):
    """Training on the CTC loss; greedy search in validation, greedy and beam search in the test."""

    best_by = "greedy_WER"

    def searches(self, stage: sb.Stage) -> tuple[str, ...]:
        """The greedy search, which the exported recognizer has too, and in the test that of beams."""
        return ("greedy", "beam") if stage == sb.Stage.TEST else ("greedy",)

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Tensor, ...]:
        """Log-probabilities of the tokens, (batch, frames, tokens), their relative lengths, the labels and theirs."""
        batch = batch.to(self.device)
        src, lens, labels = self.encode(batch, stage, batch.tokens)
        chunks = self.hparams.dynchunktrain_config_sampler(stage) if self.hparams.streaming else None
        encoder_out = self.modules.Encoder(src, lens, dynchunktrain_config=chunks)
        return self.modules.ctc_lin(encoder_out).float().log_softmax(-1), lens, *labels

    def compute_objectives(self, predictions: tuple[Tensor, ...], batch: Any, stage: sb.Stage) -> Tensor:
        """The CTC loss; outside of training errors are counted too."""
        log_probs, lens, tokens, token_lens = predictions
        if stage != sb.Stage.TRAIN:
            found = {"greedy": ctc_greedy_decode(log_probs, lens, self.hparams.blank_index)}
            if stage == sb.Stage.TEST:
                likely = log_probs.index_fill(2, self.unspoken, float("-inf"))
                found["beam"] = [hypotheses[0].text for hypotheses in self.search(likely, lens)]
            self.report_words(batch, **found)
        return self.hparams.ctc_cost(log_probs, tokens, lens, token_lens)

    def set_up(self) -> None:
        """Check the settings and the options of the search."""
        super().set_up()
        check_search_options(**self.hparams.test_search)

    @cached_property
    def search(self) -> CTCBeamSearcher:
        """Beam search for the test."""
        vocabulary = [self.tokenizer.id_to_piece(token) for token in range(self.tokenizer.vocab_size())]
        return CTCBeamSearcher(**self.hparams.test_search, vocab_list=vocabulary)

    @cached_property
    def unspoken(self) -> Tensor:
        """Tokens without a text, such as ``<s>``, which the beam search would spell; the blank is not among them."""
        special = [token for token in range(self.tokenizer.vocab_size()) if is_special(self.tokenizer, token)]
        special.remove(self.hparams.blank_index)
        return torch.tensor(special, dtype=torch.long, device=self.device)

    def export(self) -> None:
        """Write ``inference/``, which SpeechBrain's ``EncoderASR`` loads, and its ``StreamingASR`` with a streaming or
        causal ConMamba."""
        hparams, folder = self.hparams, self.output_folder / "inference"
        export_recognizer(folder, self.text, hparams.modules, self.tokenizer, hparams.streaming, hparams.causal)

    def results(self) -> str:
        """The error rates, and where the recognizer is."""
        return f"{super().results()}\nrecognizer with greedy search: {self.output_folder / 'inference'}"


class S2SBrain(RecognitionBrain):
    """Training on the losses of decoder and CTC, search with both."""

    best_by = "TER"
    evaluation_totals = ("report", "accuracy.correct", "accuracy.total")
    special_tokens = ("blank_index", "pad_index", "bos_index", "eos_index")

    def searches(self, stage: sb.Stage) -> tuple[str, ...]:
        """The search of beams."""
        return ("beam",)

    def set_up(self) -> None:
        """Make the beam searches: for validation, and for the test with the language model if there is one."""
        super().set_up()
        hparams = self.hparams
        self.language_model: nn.Module | None = None
        check_search_options(**{name: getattr(hparams, name) for name in SEARCH_OPTIONS})
        if hparams.lm_folder is not None:
            self.language_model = load_language_model(hparams.lm_folder, hparams.lm_model(), hparams.save_folder)
            self.language_model.to(self.device)
        self.valid_search = self.make_search(hparams.valid_beam_size)
        self.test_search = self.make_search(hparams.test_beam_size, hparams.test_temperature, self.language_model)

    def make_search(self, beam_size: int, temperature: float = 1.0, language_model: nn.Module | None = None) -> Any:
        """Make a beam search with the CTC scorer, and that of a language model if there is one."""
        hparams = self.hparams
        scorers = [CTCScorer(ctc_fc=hparams.ctc_lin, blank_index=hparams.blank_index, eos_index=hparams.eos_index)]
        weights = {"ctc": hparams.ctc_weight_decode}
        if language_model is not None:
            scorers.insert(0, TransformerLMScorer(language_model, temperature=hparams.lm_temperature))
            weights["transformerlm"] = hparams.lm_weight
        scorer = ScorerBuilder(full_scorers=scorers, weights=weights)
        return hparams.searcher(beam_size=beam_size, temperature=temperature, scorer=scorer)

    def check_lengths(self, name: str, frames: Mapping[str, int]) -> None:
        """Make sure that each utterance has a step of the searches."""
        search = self.test_search
        check_decoding_steps(frames, search.min_decode_ratio, search.max_decode_ratio, f"utterances of {name}")

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Any, ...]:
        """Log-probabilities of CTC and decoder, the encoder's output and its relative lengths, and the labels."""
        batch = batch.to(self.device)
        given = (*batch.tokens, *batch.tokens_eos, batch.tokens_bos.data)
        src, lens, (*labels, tokens_bos) = self.encode(batch, stage, given)
        encoder_out, decoder_out = self.modules.Transformer(src, tokens_bos, lens, self.hparams.pad_index)
        p_ctc = self.modules.ctc_lin(encoder_out).float().log_softmax(-1)
        p_seq = self.modules.seq_lin(decoder_out).float().log_softmax(-1)
        return p_ctc, p_seq, encoder_out, lens, labels

    def compute_objectives(self, predictions: tuple[Any, ...], batch: Any, stage: sb.Stage) -> Tensor:
        """Both losses, weighted; outside of training the errors of the decoder, and of the search if there is one."""
        p_ctc, p_seq, encoder_out, lens, (tokens, token_lens, tokens_eos, eos_lens) = predictions
        if stage != sb.Stage.TRAIN:
            self.accuracy.append(p_seq, tokens_eos, eos_lens)
            if self.is_searched(stage):
                search = self.valid_search if stage == sb.Stage.VALID else self.test_search
                self.report_words(batch, beam=search(encoder_out.float(), lens)[0])
        ctc = self.hparams.ctc_cost(p_ctc, tokens, lens, token_lens)
        seq = self.hparams.seq_cost(p_seq, tokens_eos, length=eos_lens)
        return self.hparams.ctc_weight * ctc + (1 - self.hparams.ctc_weight) * seq

    def is_searched(self, stage: sb.Stage) -> bool:
        """Whether a stage has a search: the validation of every few epochs, and the test."""
        epoch = self.hparams.epoch_counter.current
        return stage == sb.Stage.TEST or epoch % self.hparams.valid_search_interval == 0

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Reset the counters of a stage."""
        super().on_stage_start(stage, epoch)
        self.accuracy = AccuracyStats()

    def stage_scores(self, stage: sb.Stage, loss: float) -> dict[str, float]:
        """The token error rate of the decoder given the right history, in percent, and the error rates of the search,
        NaN without a search."""
        if stage == sb.Stage.TRAIN:
            return {"loss": loss}
        ter = 100 * (1 - self.accuracy.summarize())
        return {"loss": loss, "TER": ter, **self.error_rates(stage)}

    def export(self) -> None:
        """Write ``inference/``, which SpeechBrain's ``EncoderDecoderASR`` loads, with the search of the test."""
        folder = self.output_folder / "inference"
        export_seq2seq_recognizer(folder, self.text, self.hparams.modules, self.tokenizer, self.language_model)

    def results(self) -> str:
        """The error rates, and where the recognizer is."""
        return f"{super().results()}\nrecognizer with beam search: {self.output_folder / 'inference'}"

"""The objectives of recognizers, and how each is searched: CTC, and CTC with a decoder."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import speechbrain as sb
from recognition_brain import RecognitionBrain
from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder, TransformerLMScorer
from speechbrain.utils.Accuracy import AccuracyStats
from torch import Tensor, nn

from speechbrain_mamba.decoders.language_model import load_language_model
from speechbrain_mamba.inference.recognition import export_recognizer


class CTCBrain(RecognitionBrain):
    """Training on the CTC loss; greedy search in validation, beam search in the test."""

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
        if stage == sb.Stage.VALID:
            self.report_words(batch, ctc_greedy_decode(log_probs, lens, self.hparams.blank_index))
        elif stage == sb.Stage.TEST:
            self.report_words(batch, [hypotheses[0].text for hypotheses in self.search(log_probs, lens)])
        return self.hparams.ctc_cost(log_probs, tokens, lens, token_lens)

    @cached_property
    def search(self) -> CTCBeamSearcher:
        """Beam search for the test."""
        vocabulary = [self.tokenizer.id_to_piece(token) for token in range(self.tokenizer.vocab_size())]
        return CTCBeamSearcher(**self.hparams.test_search, vocab_list=vocabulary)

    def export(self) -> None:
        """Write ``inference/``, which SpeechBrain's ``EncoderASR`` loads."""
        hparams, folder = self.hparams, self.output_folder / "inference"
        export_recognizer(folder, self.text, hparams.modules, self.tokenizer, hparams.streaming)


class S2SBrain(RecognitionBrain):
    """Training on the losses of decoder and CTC, search with both."""

    best_by = "TER"
    evaluation_totals = ("report", "accuracy.correct", "accuracy.total")

    def set_up(self) -> None:
        """Make the beam searches: for validation, and for the test with the language model if there is one."""
        hparams, language_model = self.hparams, None
        if hparams.lm_folder is not None:
            language_model = load_language_model(hparams.lm_folder, hparams.lm_model(), hparams.save_folder)
            language_model.to(self.device)
        self.valid_search = self.make_search(hparams.valid_beam_size)
        self.test_search = self.make_search(hparams.test_beam_size, hparams.test_temperature, language_model)

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
                self.report_words(batch, search(encoder_out.float(), lens)[0])
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
        unknown = {"WER": float("nan"), "CER": float("nan")}
        rates = super().stage_scores(stage, loss) if self.report.rows else unknown
        return {"loss": loss, "TER": 100 * (1 - self.accuracy.summarize())} | rates

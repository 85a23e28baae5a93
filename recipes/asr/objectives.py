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
from torch.nn.utils.rnn import pad_sequence

from speechbrain_mamba.dataio.kept_encodings import KeptEncodings, fingerprint
from speechbrain_mamba.decoders.language_model import load_language_model
from speechbrain_mamba.decoders.search_options import check_decoding_steps, check_search_options
from speechbrain_mamba.inference.recognition_export import export_recognizer, export_seq2seq_recognizer
from speechbrain_mamba.lobes.models.recognition.speech_features import encoder_input
from speechbrain_mamba.ops import absolute_lengths
from speechbrain_mamba.text.tokenizer import is_special
from speechbrain_mamba.utils._compat import normalizer_statistics

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
    """Training on the losses of decoder and CTC, search with both.

    With ``encoder_cache`` the output of a frozen encoder is computed once for each recording, and only the decoder is
    run in each step.
    """

    best_by = "TER"
    evaluation_totals = ("report", "accuracy.correct", "accuracy.total")
    special_tokens = ("blank_index", "pad_index", "bos_index", "eos_index")

    def searches(self, stage: sb.Stage) -> tuple[str, ...]:
        """The search of beams; in the test also with other weights of CTC, as ``beam_ctc_0``."""
        more = self.hparams.more_ctc_weights_decode if stage == sb.Stage.TEST else ()
        return ("beam", *(f"beam_ctc_{weight:g}" for weight in more))

    def set_up(self) -> None:
        """Make the beam searches: for validation, and for the test with the language model if there is one."""
        super().set_up()
        hparams = self.hparams
        self.language_model: nn.Module | None = None
        check_search_options(**{name: getattr(hparams, name) for name in SEARCH_OPTIONS})
        check_weights(hparams.more_ctc_weights_decode)
        if hparams.encoder_cache is not None:
            check_unchanged(vars(hparams))
        if hparams.lm_folder is not None:
            self.language_model = load_language_model(hparams.lm_folder, hparams.lm_model(), hparams.save_folder)
            self.language_model.to(self.device)
        self.valid_search = self.make_search(hparams.valid_beam_size)
        ctc_weights = (hparams.ctc_weight_decode, *hparams.more_ctc_weights_decode)
        options = (hparams.test_beam_size, hparams.test_temperature, self.language_model)
        self.test_searches = [self.make_search(*options, ctc_weight=weight) for weight in ctc_weights]

    def make_search(
        self,
        beam_size: int,
        temperature: float = 1.0,
        language_model: nn.Module | None = None,
        ctc_weight: float | None = None,
    ) -> Any:
        """Make a beam search with the CTC scorer, and that of a language model if there is one. The weight of CTC is
        ``ctc_weight_decode`` by default; with 0 it has no part."""
        hparams, scorers, weights = self.hparams, list[Any](), dict[str, float]()
        if language_model is not None:
            scorers.append(TransformerLMScorer(language_model, temperature=hparams.lm_temperature))
            weights["transformerlm"] = hparams.lm_weight
        ctc_weight = hparams.ctc_weight_decode if ctc_weight is None else ctc_weight
        if ctc_weight:
            indices = {name: getattr(hparams, name) for name in ("blank_index", "eos_index")}
            scorers.append(CTCScorer(ctc_fc=hparams.ctc_lin, **indices))
            weights["ctc"] = ctc_weight
        scorer = ScorerBuilder(full_scorers=scorers, weights=weights) if scorers else None
        return hparams.searcher(beam_size=beam_size, temperature=temperature, scorer=scorer)

    def check_lengths(self, name: str, frames: Mapping[str, int]) -> None:
        """Make sure that each utterance has a step of the searches."""
        search = self.test_searches[0]
        check_decoding_steps(frames, search.min_decode_ratio, search.max_decode_ratio, f"utterances of {name}")

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Any, ...]:
        """Log-probabilities of CTC and decoder, the encoder's output and its relative lengths, and the labels."""
        batch = batch.to(self.device)
        given = (*batch.tokens, *batch.tokens_eos, batch.tokens_bos.data)
        if self.hparams.encoder_cache is None:
            src, lens, (*labels, tokens_bos) = self.encode(batch, stage, given)
            encoder_out, decoder_out = self.modules.Transformer(src, tokens_bos, lens, self.hparams.pad_index)
        else:
            (memory, lens), (*labels, tokens_bos) = self.kept_memory(batch), given
            encoder_out, decoder_out = self.modules.Transformer(
                None, tokens_bos, lens, self.hparams.pad_index, encoder_out=memory
            )
        p_ctc = self.modules.ctc_lin(encoder_out).float().log_softmax(-1)
        p_seq = self.modules.seq_lin(decoder_out).float().log_softmax(-1)
        return p_ctc, p_seq, encoder_out, lens, labels

    def kept_memory(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The encoder's output for a batch (batch, frames, channels), from the cache or for it, and its relative
        lengths."""
        wavs, wav_lens = batch.sig
        lengths = absolute_lengths(wav_lens, wavs.shape[1]).tolist()
        found = self.kept.get([wav[:length] for wav, length in zip(wavs, lengths)], self.encode_alone)
        frames = torch.tensor([len(memory) for memory in found], dtype=torch.double, device=self.device)
        return pad_sequence(found, batch_first=True), frames / frames.max()

    @torch.no_grad()
    def encode_alone(self, wavs: list[Tensor]) -> list[Tensor]:
        """The encoder's output (frames, channels) of waveforms (samples,)."""
        hparams, longest = self.hparams, max(map(len, wavs))
        wav_lens = torch.tensor([len(wav) / longest for wav in wavs], dtype=torch.double, device=self.device)
        padded = pad_sequence(wavs, batch_first=True)
        src, lens = encoder_input(hparams.compute_features, hparams.normalize, hparams.CNN, padded, wav_lens)
        encoded = hparams.Transformer.encode(src, lens, hparams.pad_index)
        lengths = absolute_lengths(lens, encoded.shape[1]).tolist()
        return [each[:length] for each, length in zip(encoded, lengths)]

    @cached_property
    def kept(self) -> KeptEncodings:
        """The cache. A ValueError is raised if what is before the decoder changes in the training."""
        hparams = vars(self.hparams)
        net, parts = hparams["Transformer"], (hparams["CNN"], hparams["Transformer"].custom_src_module)
        before = nn.ModuleList([*parts, *([net.encoder] if hasattr(net, "encoder") else [])])
        if any(one.requires_grad for one in before.parameters()) or not self.keeps(hparams["normalize"]):
            raise ValueError(
                "encoder_cache is given, but the encoder is trained: freeze it by --freeze "
                "'CNN,normalize,Transformer.custom_src_module,Transformer.encoder'."
            )
        settings = {name: hparams[name] for name in ENCODER_SETTINGS}
        weights = {**before.state_dict(), **normalizer_weights(hparams["normalize"])}
        return KeptEncodings(hparams["encoder_cache"], f"{settings} {fingerprint(weights)}")

    def keeps(self, normalizer: nn.Module) -> bool:
        """Whether the statistics of the features stay as they are."""
        return not self.modules.training or any(normalizer in module.modules() for module in self.frozen)

    def compute_objectives(self, predictions: tuple[Any, ...], batch: Any, stage: sb.Stage) -> Tensor:
        """Both losses, weighted; outside of training the errors of the decoder, and of the search if there is one."""
        p_ctc, p_seq, encoder_out, lens, (tokens, token_lens, tokens_eos, eos_lens) = predictions
        if stage != sb.Stage.TRAIN:
            self.accuracy.append(p_seq, tokens_eos, eos_lens)
            if self.is_searched(stage):
                searches = [self.valid_search] if stage == sb.Stage.VALID else self.test_searches
                found = [search(encoder_out.float(), lens)[0] for search in searches]
                self.report_words(batch, **dict(zip(self.searches(stage), found)))
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


ENCODER_SETTINGS = (
    "sample_rate", "n_fft", "n_mels", "win_length", "encoder_module", "causal", "nhead", "mamba_config", "mixer",
    "attention_layers", "attention_window", "bidirectional", "mixer_config", "precision",
)  # fmt: skip
"""What an encoder's output depends on beside its weights."""


def check_weights(weights: Any) -> None:
    """Make sure that the further weights of CTC are some numbers in [0, 1], all different."""
    fine = isinstance(weights, (list, tuple)) and all(
        isinstance(weight, (int, float)) and 0 <= weight <= 1 for weight in weights
    )
    if not fine or len(set(weights)) < len(weights):
        raise ValueError(f"more_ctc_weights_decode is {weights!r}, but must be a list of different numbers in [0, 1].")


def check_unchanged(hparams: Mapping[str, Any]) -> None:
    """Make sure that a recording is always the same one, so that the encoder's output can be kept."""
    for name in ("speed_perturb", "wav_augment", "fea_augment"):
        if hparams.get(name) is not None:
            raise ValueError(
                f"encoder_cache is given, but {name} changes recordings in the training: set {name} to null, or "
                "encoder_cache."
            )


def normalizer_weights(normalizer: Any) -> dict[str, Tensor]:
    """The statistics of SpeechBrain's ``InputNormalization`` by name."""
    found = normalizer_statistics(normalizer) or {}
    return {f"normalize.{name}": torch.as_tensor(value) for name, value in found.items() if value is not None}

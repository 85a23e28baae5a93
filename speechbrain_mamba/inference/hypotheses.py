"""What a trained recognizer hears in waveforms: the tokens of the best hypothesis, and when they are said."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from speechbrain.decoders.ctc import CTCBeamSearcher
from speechbrain.decoders.scorer import ScorerBuilder, TransformerLMScorer
from torch import Tensor, nn

from speechbrain_mamba.decoders.alignment import GreedySpans, TokenSpan, align_tokens, frames_needed, spread_tokens
from speechbrain_mamba.decoders.language_model import load_language_model
from speechbrain_mamba.decoders.search_options import check_search_options
from speechbrain_mamba.lobes.models.recognition.conmamba_encoder import ConmambaEncoder
from speechbrain_mamba.ops import absolute_lengths
from speechbrain_mamba.text.tokenizer import is_special
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction, pad_time

SEARCHES = ("greedy", "beam")
_NGRAMS = (".arpa", ".bin", ".binary")
_GRAPHS = 32  # shapes of batches whose graphs are kept


class Hypotheses(ABC):
    """The best hypotheses of a recognizer, by a search with options.

    Arguments
    ---------
    modules : mapping of str to torch.nn.Module
        The modules of an exported recognizer.
    hparams : SimpleNamespace
        Its hyper-parameters.
    """

    def __init__(self, modules: Mapping[str, nn.Module], hparams: Any) -> None:
        encoder: Any = modules["encoder"]
        self.encoder: Any = encoder
        self.hparams, self.tokenizer, self.blank = hparams, hparams.tokenizer, hparams.blank_index
        transformer = encoder.transformer if hasattr(encoder, "transformer") else encoder.encoder.transformer
        self.is_padding_safe = isinstance(transformer.encoder, ConmambaEncoder)
        """Whether an example of a padded batch is encoded as it is alone. SpeechBrain's Conformer sees the padding."""
        self._graphed: GraphedFunction | None = None

    def use_cuda_graphs(self, use: bool = True) -> None:
        """Set whether the encoder of batches is replayed as a CUDA graph, where it runs on a GPU."""
        self._graphed = GraphedFunction(self.encoder.encode, limit=_GRAPHS) if use else None

    def encode(self, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """The output of the encoder for a batch as in :meth:`__call__`, and its relative lengths, floats (batch,)."""
        if self._graphed is None:
            return self.encoder.encode(wavs, wav_lens)
        if self.is_padding_safe:  # few shapes occur, each of which is captured
            wavs, wav_lens = pad_time(wavs, wav_lens, int(self.hparams.sample_rate) // 2)
        return self._graphed(wavs, wav_lens)

    @abstractmethod
    def __call__(self, wavs: Tensor, wav_lens: Tensor) -> list[list[TokenSpan]]:
        """Find the tokens of a batch.

        Arguments
        ---------
        wavs, wav_lens : Tensor
            Waveforms (batch, samples), and their lengths relative to the longest, floats (batch,).

        Returns
        -------
        list of list of TokenSpan
            The tokens of each waveform that have a text, and their frames.
        """

    def spoken(self, tokens: Sequence[int]) -> list[int]:
        """Drop the tokens that have no text."""
        return [token for token in tokens if not is_special(self.tokenizer, token)]

    def align(self, log_probs: Tensor, tokens: Sequence[int]) -> list[TokenSpan]:
        """Find the frames of tokens by the log-probabilities of CTC, (frames, tokens)."""
        if frames_needed(tokens) > len(log_probs):
            return spread_tokens(tokens, len(log_probs))
        return align_tokens(log_probs, tokens, self.blank)


class CTCHypotheses(Hypotheses):
    """The hypotheses of a recognizer with CTC.

    Arguments
    ---------
    modules, hparams
        As in :class:`Hypotheses`.
    search : str, optional
        ``greedy``, the default, or ``beam``.
    beam_size : int, optional
        Beams, by default those of the recipe's test.
    lm : str or Path, optional
        An n-gram language model of KenLM for the beam search, an ``.arpa`` or ``.bin`` file.
    lm_weight : float, optional
        Its weight.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        hparams: Any,
        search: str | None = None,
        beam_size: int | None = None,
        lm: str | os.PathLike | None = None,
        lm_weight: float | None = None,
    ) -> None:
        super().__init__(modules, hparams)
        search = search or ("greedy" if beam_size is None and lm is None else "beam")
        if search not in SEARCHES:
            raise ValueError(f"search is {search!r}, but must be greedy or beam.")
        if search == "greedy" and (beam_size is not None or lm is not None):
            raise ValueError("beam_size and lm are for the search beam, but search is greedy.")
        if lm is None and lm_weight is not None:
            raise ValueError("lm_weight is given, but there is no language model: give lm too.")
        self.beams: CTCBeamSearcher | None = None
        if search == "beam":
            options = {**hparams.test_search, **({} if beam_size is None else {"beam_size": beam_size})}
            if lm is not None:
                options |= _ngram_options(lm, lm_weight)
            check_search_options(**options)
            vocabulary = [self.tokenizer.id_to_piece(token) for token in range(self.tokenizer.vocab_size())]
            self.beams = CTCBeamSearcher(**options, vocab_list=vocabulary)
            silent = [token for token in range(len(vocabulary)) if is_special(self.tokenizer, token)]
            self.unspoken = torch.tensor([token for token in silent if token != self.blank], dtype=torch.long)

    def __call__(self, wavs: Tensor, wav_lens: Tensor) -> list[list[TokenSpan]]:
        log_probs, lens = self.encode(wavs, wav_lens)
        frames = absolute_lengths(lens, log_probs.shape[1]).tolist()
        return [self.spans(example[:count]) for example, count in zip(log_probs.float().cpu(), frames)]

    def spans(self, log_probs: Tensor) -> list[TokenSpan]:
        """Search in log-probabilities (frames, tokens) on the CPU."""
        if self.beams is None:
            path = GreedySpans(self.blank)
            path.push(log_probs)
            return [span for span in path.spans if not is_special(self.tokenizer, span.token)]
        likely = log_probs.index_fill(1, self.unspoken, float("-inf"))
        text = self.beams(likely[None], torch.ones(1))[0][0].text
        return self.align(log_probs, self.spoken(self.tokenizer.encode(text)))


class Seq2SeqHypotheses(Hypotheses):
    """The hypotheses of a recognizer with a decoder, by its beam search; the frames are those of its CTC layer.

    Arguments
    ---------
    modules, hparams
        As in :class:`Hypotheses`.
    search : str, optional
        ``beam`` is the only one.
    beam_size : int, optional
        Beams, by default those of the recipe's test.
    lm : str or Path, optional
        A folder or the Hub id of a language model with an ``lm.ckpt`` for the ``lm_model`` of the hyper-parameters. By
        default the one in the recognizer's folder, if any.
    lm_weight : float, optional
        Its weight, by default that of the recipe's test.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        hparams: Any,
        search: str | None = None,
        beam_size: int | None = None,
        lm: str | os.PathLike | None = None,
        lm_weight: float | None = None,
    ) -> None:
        super().__init__(modules, hparams)
        if search not in (None, "beam"):
            raise ValueError(f"search is {search!r}, but a recognizer with a decoder has the search beam only.")
        decoder: Any = modules["decoder"]
        self.ctc_lin = modules["ctc_lin"]
        if beam_size is not None:
            check_search_options(beam_size=beam_size)
            decoder.beam_size = beam_size
        self.decoder = decoder
        if lm is not None:
            self._add_language_model(lm)
        if lm_weight is not None:
            check_search_options(lm_weight=lm_weight)
            scorer: Any = self.decoder.scorer
            if "transformerlm" not in scorer.full_scorers:
                raise ValueError("lm_weight is given, but the recognizer has no language model: give lm too.")
            scorer.weights["transformerlm"] = lm_weight

    def _add_language_model(self, source: str | os.PathLike) -> None:
        hparams = self.hparams
        savedir: Any = getattr(hparams, "savedir", None)  # None leaves files from the Hub in its cache
        model = load_language_model(source, hparams.lm_model(), savedir)
        model.to(next(self.ctc_lin.parameters()).device).requires_grad_(False)
        scorers = [TransformerLMScorer(model, temperature=hparams.lm_temperature), hparams.ctc_scorer]
        weights = {"transformerlm": hparams.lm_weight, "ctc": hparams.ctc_weight_decode}
        self.decoder.scorer = ScorerBuilder(full_scorers=scorers, weights=weights)

    def __call__(self, wavs: Tensor, wav_lens: Tensor) -> list[list[TokenSpan]]:
        memory, lens = self.encode(wavs, wav_lens)
        log_probs = self.ctc_lin(memory).float().log_softmax(-1).cpu()
        found = []
        for example, count in enumerate(absolute_lengths(lens, memory.shape[1]).tolist()):
            # one by one: the number of steps of a search follows from the longest utterance of a batch
            tokens = self._search(memory[example : example + 1, :count].float())
            found.append(self.align(log_probs[example, :count], self.spoken(tokens)))
        return found

    def _search(self, memory: Tensor) -> list[int]:
        if int(memory.shape[1] * self.decoder.max_decode_ratio) < 1:
            return []
        tokens, *_ = self.decoder(memory, memory.new_ones(1))
        return list(tokens[0])


def make_hypotheses(modules: Mapping[str, nn.Module], hparams: Any, **options: Any) -> Hypotheses:
    """Make what suits a recognizer: :class:`Seq2SeqHypotheses` if it has a decoder, else :class:`CTCHypotheses`."""
    return (Seq2SeqHypotheses if "decoder" in modules else CTCHypotheses)(modules, hparams, **options)


def _ngram_options(lm: str | os.PathLike, weight: float | None) -> dict[str, Any]:
    """Options of SpeechBrain's search for an n-gram model."""
    path = Path(lm)
    if path.suffix not in _NGRAMS or not path.is_file():
        raise ValueError(
            f"lm is '{lm}', but a recognizer with CTC takes an n-gram model of KenLM: an existing file that ends with "
            f"{', '.join(_NGRAMS[:-1])} or {_NGRAMS[-1]}."
        )
    options: dict[str, Any] = {"kenlm_model_path": str(path)}
    if weight is not None:
        check_search_options(lm_weight=weight)
        options["alpha"] = weight
    return options

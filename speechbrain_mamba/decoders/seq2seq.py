"""SpeechBrain's beam and greedy search for Mamba decoders, which run token by token from a state.

An attention decoder reads the whole prefix and memory for each token. A Mamba decoder keeps both in a state of constant
size: it consumes the memory once per utterance, and each token costs one step, however long the audio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from speechbrain.decoders.seq2seq import S2STransformerBeamSearcher, S2STransformerGreedySearcher
from torch import Tensor, nn

from speechbrain_mamba.decoders.search_options import check_search_options


def map_state(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Apply a function to every tensor of a state, in dicts and tuples nested to any depth.

    Example
    -------
    >>> map_state(lambda x: x + 1, {"a": (torch.tensor(1), torch.tensor(2))})
    {'a': (tensor(2), tensor(3))}
    """
    if isinstance(state, dict):
        return {key: map_state(function, value) for key, value in state.items()}
    if isinstance(state, tuple):
        return tuple(map_state(function, value) for value in state)
    return function(state)


class _MambaSearch:
    """Shared by both searches: the check of the model, its limit of positions, and the state before the first token."""

    model: Any
    beam_size = 1
    min_decode_ratio: float
    max_decode_ratio: float

    def __init__(self, modules: Sequence[nn.Module], *args: Any, **kwargs: Any) -> None:
        if not getattr(modules[0], "has_mamba_decoder", False):
            raise TypeError(
                f"The model, a {type(modules[0]).__name__}, has no Mamba decoder: set its decoder_module to mamba, or "
                "use SpeechBrain's S2STransformerBeamSearcher or S2STransformerGreedySearcher."
            )
        super().__init__(modules, *args, **kwargs)  # type: ignore[call-arg]  # of SpeechBrain's searchers
        check_search_options(
            beam_size=self.beam_size, min_decode_ratio=self.min_decode_ratio, max_decode_ratio=self.max_decode_ratio
        )

    def change_max_decoding_length(self, min_decode_steps: int, max_decode_steps: int) -> tuple[int, int]:
        """Limit the number of steps to the decoder's positions; a ValueError is raised when none is left."""
        limit = self.model.max_target_length
        steps = max_decode_steps if limit is None else min(max_decode_steps, limit)
        if steps < 1 or steps < min_decode_steps:
            raise ValueError(
                f"max_decode_ratio is {self.max_decode_ratio}, which leaves {steps} steps to decode the utterances, "
                f"but {max(1, min_decode_steps)} are needed: set it higher, or min_decode_ratio lower."
            )
        return min_decode_steps, steps

    def _decode_step(
        self, tokens: Tensor, state: dict[str, Any] | None, enc_states: Tensor, enc_lens: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """Feed the decoder one token per beam; the first time, consume each utterance's memory once for all beams."""
        if state is None:
            first = self.model.init_decoder_state(enc_states[:: self.beam_size], enc_lens[:: self.beam_size])
            state = map_state(lambda x: x.repeat_interleave(self.beam_size, 0), first)
        return self.model.decode_step(tokens, state)


class S2SMambaBeamSearcher(_MambaSearch, S2STransformerBeamSearcher):
    """Beam search for Mamba decoders: a drop-in for SpeechBrain's ``S2STransformerBeamSearcher``, with the same
    hypotheses and scores. It consumes the memory once per utterance, feeds the decoder one token at a time, and
    reorders its states with the beams.

    Arguments
    ---------
    modules : list of torch.nn.Module
        A :class:`~speechbrain_mamba.lobes.models.transformer_asr.TransformerASR` with a Mamba decoder, and the linear
        layer to the tokens.
    temperature : float
        Divides the logits.
    **kwargs
        As in ``speechbrain.decoders.seq2seq.S2SBeamSearcher``, scorers included, except those that need attention
        weights: ``using_max_attn_shift`` and the coverage scorer.

    Raises
    ------
    TypeError
        When the model has no Mamba decoder.
    ValueError
        When an option is out of range or needs attention weights; in a search when no step is left to decode.

    Example
    -------
    >>> from speechbrain.nnet.linear import Linear
    >>> from speechbrain_mamba.lobes.models.recognition.transformer_asr import TransformerASR
    >>> sizes = dict(tgt_vocab=9, input_size=24, d_model=8, nhead=1)
    >>> net = TransformerASR(**sizes, normalize_before=True, decoder_module="mamba")
    >>> options = dict(bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=1.0)
    >>> options["modules"] = [net.eval(), Linear(input_size=8, n_neurons=9)]
    >>> memory, wav_len = torch.randn(2, 10, 8), torch.tensor([1.0, 0.5])
    >>> hyps, lengths, scores, log_probs = S2SMambaBeamSearcher(**options, beam_size=4)(memory, wav_len)
    >>> greedy_hyps, *_ = S2SMambaGreedySearcher(**options)(memory, wav_len)
    >>> len(hyps), scores.shape, len(greedy_hyps)
    (2, torch.Size([2]), 2)
    """

    def __init__(self, modules: Sequence[nn.Module], temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(modules, temperature, **kwargs)
        check_search_options(temperature=temperature, topk=self.topk)
        if self.using_max_attn_shift:
            raise ValueError("using_max_attn_shift is True, but a Mamba decoder has no attention: leave it out.")
        if self.scorer is not None and self.scorer.weights["coverage"] > 0:
            raise ValueError("The scorer has a coverage scorer, but a Mamba decoder has no attention: leave it out.")

    def permute_mem(self, memory: dict[str, Any], index: Tensor) -> dict[str, Any]:
        """Reorder the states with the beams; ``index`` integers (batch * beam,)."""
        return map_state(lambda x: x.index_select(0, index), memory)

    @torch.no_grad()
    def forward_step(
        self, inp_tokens: Tensor, memory: dict[str, Any] | None, enc_states: Tensor, enc_lens: Tensor
    ) -> tuple[Tensor, dict[str, Any], None]:
        """Feed the decoder one token per beam, (batch * beam,)."""
        pred, state = self._decode_step(inp_tokens, memory, enc_states, enc_lens)
        return self.softmax(self.fc(pred) / self.temperature), state, None


class S2SMambaGreedySearcher(_MambaSearch, S2STransformerGreedySearcher):
    """Greedy search for Mamba decoders: a drop-in for SpeechBrain's ``S2STransformerGreedySearcher``, as
    :class:`S2SMambaBeamSearcher`, which has an example, is for its beam search.

    Arguments
    ---------
    modules : list of torch.nn.Module
        As in :class:`S2SMambaBeamSearcher`, with the same error.
    **kwargs
        As in ``S2STransformerGreedySearcher``: the ``temperature`` of sampling is 0 by default, which takes the most
        probable token.
    """

    @torch.no_grad()
    def forward_step(
        self,
        inp_tokens: Tensor,
        memory: dict[str, Any] | None,
        enc_states: Tensor,
        enc_lens: Tensor,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any], None]:
        """Feed the decoder one token per utterance, (batch,)."""
        pred, state = self._decode_step(inp_tokens, memory, enc_states, enc_lens)
        return self.fc(pred), state, None

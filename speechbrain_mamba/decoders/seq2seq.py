"""SpeechBrain's beam and greedy search for Mamba decoders, which run token by token from a state.

An attention decoder looks at the whole prefix and memory for each token. A Mamba decoder has them in a state of
constant size: it consumes the memory once per utterance, and each token costs one step, however long the audio.
"""

from __future__ import annotations

import torch
from speechbrain.decoders.seq2seq import S2STransformerBeamSearcher, S2STransformerGreedySearcher


def map_state(function, state):
    """Apply a function to every tensor of a state.

    Arguments
    ---------
    function : callable
        Takes and returns a tensor.
    state : dict, tuple or Tensor
        Tensors in dicts and tuples, nested at will.

    Returns
    -------
    dict, tuple or Tensor
        The same structure with the results.

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
    """What both searches share: the model has a Mamba decoder, and can be fed so many tokens only."""

    def __init__(self, modules, **kwargs):
        if not getattr(modules[0], "has_mamba_decoder", False):
            raise TypeError(
                f"The model, a {type(modules[0]).__name__}, has no Mamba decoder: set its decoder_module to mamba, or "
                "use SpeechBrain's S2STransformerBeamSearcher or S2STransformerGreedySearcher."
            )
        super().__init__(modules, **kwargs)

    def change_max_decoding_length(self, min_decode_steps, max_decode_steps):
        """Keep the number of steps to what the decoder has positions for."""
        limit = self.model.max_target_length
        return min_decode_steps, max_decode_steps if limit is None else min(max_decode_steps, limit)


class S2SMambaBeamSearcher(_MambaSearch, S2STransformerBeamSearcher):
    """Beam search for Mamba decoders: a drop-in for SpeechBrain's ``S2STransformerBeamSearcher``, with the same
    hypotheses and scores, that consumes the memory once per utterance, feeds the decoder one token at a time, and
    reorders its states with the beams.

    Arguments
    ---------
    modules : list of torch.nn.Module
        A :class:`~speechbrain_mamba.lobes.models.transformer_asr.TransformerASR` with a Mamba decoder, and the linear
        layer to the tokens.
    temperature : float
        Divides the logits.
    **kwargs
        As ``speechbrain.decoders.seq2seq.S2SBeamSearcher``, scorers included. What needs attention weights,
        ``using_max_attn_shift`` and the coverage scorer, cannot be served.

    Raises
    ------
    TypeError
        When the model has no Mamba decoder.
    ValueError
        When something asked for needs attention weights.

    Example
    -------
    >>> from speechbrain.nnet.linear import Linear
    >>> from speechbrain_mamba.lobes.models.recognition.transformer_asr import TransformerASR
    >>> net = TransformerASR(
    ...     tgt_vocab=20, input_size=24, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=1, d_ffn=32,
    ...     normalize_before=True, causal=False, encoder_module="conmamba", decoder_module="mamba",
    ... ).eval()
    >>> searcher = S2SMambaBeamSearcher(
    ...     modules=[net, Linear(input_size=16, n_neurons=20)], bos_index=1, eos_index=2,
    ...     min_decode_ratio=0.0, max_decode_ratio=1.0, beam_size=4, using_eos_threshold=False,
    ... )
    >>> wav_len = torch.tensor([1.0, 0.5])
    >>> hyps, lengths, scores, log_probs = searcher(net.encode(torch.randn(2, 10, 24), wav_len), wav_len)
    >>> len(hyps), scores.shape
    (2, torch.Size([2]))
    """

    def __init__(self, modules, temperature=1.0, **kwargs):
        super().__init__(modules, temperature=temperature, **kwargs)
        if self.using_max_attn_shift:
            raise ValueError("using_max_attn_shift is True, but a Mamba decoder has no attention: leave it out.")
        if self.scorer is not None and self.scorer.weights["coverage"] > 0:
            raise ValueError("The scorer has a coverage scorer, but a Mamba decoder has no attention: leave it out.")

    @torch.no_grad()
    def _update_reset_memory(self, enc_states, enc_lens):
        """Consume the memory before SpeechBrain repeats it for the beams, and repeat the state instead."""
        memory, scorer_memory = super()._update_reset_memory(enc_states, enc_lens)
        if self.attn_weight > 0:
            state = self.model.init_decoder_state(enc_states, enc_lens)
            memory = map_state(lambda x: x.repeat_interleave(self.beam_size, 0), state)
        return memory, scorer_memory

    def permute_mem(self, memory, index):
        """Reorder the states with the beams; ``index`` integers (batch * beam,)."""
        return map_state(lambda x: x.index_select(0, index), memory)

    @torch.no_grad()
    def forward_step(self, inp_tokens, memory, enc_states, enc_lens):
        """Feed the decoder one token per beam, (batch * beam,)."""
        pred, memory = self.model.decode_step(inp_tokens, memory)
        return self.softmax(self.fc(pred) / self.temperature), memory, None


class S2SMambaGreedySearcher(_MambaSearch, S2STransformerGreedySearcher):
    """Greedy search for Mamba decoders: a drop-in for SpeechBrain's ``S2STransformerGreedySearcher``, with the same
    hypotheses and scores, that feeds the decoder one token at a time.

    Arguments
    ---------
    modules : list of torch.nn.Module
        As in :class:`S2SMambaBeamSearcher`.
    temperature : float
        Of sampling; 0 takes the most probable token.
    **kwargs
        As ``speechbrain.decoders.seq2seq.S2SGreedySearcher``.

    Raises
    ------
    TypeError
        When the model has no Mamba decoder.

    Example
    -------
    >>> from speechbrain.nnet.linear import Linear
    >>> from speechbrain_mamba.lobes.models.recognition.transformer_asr import TransformerASR
    >>> sizes = dict(tgt_vocab=9, input_size=24, d_model=8, nhead=1)
    >>> net = TransformerASR(**sizes, normalize_before=True, decoder_module="mamba")
    >>> ends = dict(bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=1.0)
    >>> searcher = S2SMambaGreedySearcher(modules=[net.eval(), Linear(input_size=8, n_neurons=9)], **ends)
    >>> hyps, lengths, scores, log_probs = searcher(torch.randn(2, 10, 8), torch.ones(2))
    >>> len(hyps)
    2
    """

    def __init__(self, modules, temperature=0.0, **kwargs):
        super().__init__(modules, temperature=temperature, **kwargs)

    @torch.no_grad()
    def forward_step(self, inp_tokens, memory, enc_states, enc_lens, attention_mask=None):
        """Feed the decoder one token per utterance, (batch,)."""
        if memory is None:
            memory = self.model.init_decoder_state(enc_states, enc_lens)
        pred, memory = self.model.decode_step(inp_tokens, memory)
        return self.fc(pred), memory, None

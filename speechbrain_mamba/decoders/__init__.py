"""Searches that keep the state of a Mamba decoder."""

from speechbrain_mamba.decoders.seq2seq import S2SMambaBeamSearcher, S2SMambaGreedySearcher

__all__ = ["S2SMambaBeamSearcher", "S2SMambaGreedySearcher"]

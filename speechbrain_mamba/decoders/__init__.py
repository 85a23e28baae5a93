"""Searches that cache the state of a Mamba decoder.

``speechbrain_mamba.decoders.S2SMambaBeamSearcher`` is a public path: users' YAML names it.
"""

from speechbrain_mamba.decoders.seq2seq import S2SMambaBeamSearcher, S2SMambaGreedySearcher

__all__ = ["S2SMambaBeamSearcher", "S2SMambaGreedySearcher"]

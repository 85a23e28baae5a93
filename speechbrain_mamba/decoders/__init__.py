"""Searches that cache the state of a Mamba decoder.

``speechbrain_mamba.decoders.S2SMambaBeamSearcher`` is a public path: users' YAML names it.
"""

from speechbrain_mamba.utils.torch_pair import check_torchaudio

check_torchaudio()  # before SpeechBrain is imported

from speechbrain_mamba.decoders.seq2seq import S2SMambaBeamSearcher, S2SMambaGreedySearcher  # noqa: E402

__all__ = ["S2SMambaBeamSearcher", "S2SMambaGreedySearcher"]

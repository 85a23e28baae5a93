"""Searches that keep the state of a Mamba decoder."""

from speechbrain_mamba.utils.torch_pair import check_torchaudio

check_torchaudio()  # before SpeechBrain is imported

from speechbrain_mamba.decoders.seq2seq import S2SMambaBeamSearcher, S2SMambaGreedySearcher  # noqa: E402

__all__ = ["S2SMambaBeamSearcher", "S2SMambaGreedySearcher"]

"""Models."""

from speechbrain_mamba.utils.torch_pair import check_torchaudio

check_torchaudio()  # before SpeechBrain is imported

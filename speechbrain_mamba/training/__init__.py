"""The frame that the Brains of all recipes share."""

from speechbrain_mamba.utils.torch_pair import check_torchaudio

check_torchaudio()  # before SpeechBrain is imported

"""Scores and reports of a test, by task."""

from speechbrain_mamba.utils.torch_pair import check_torchaudio

check_torchaudio()  # before SpeechBrain is imported

"""How good a model is: scores, tables, examples to look at and listen to."""

from speechbrain_mamba.utils.torch_pair import check_torchaudio

check_torchaudio()  # before SpeechBrain is imported

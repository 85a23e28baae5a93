"""Trained models to load and use, and how they are exported."""

from speechbrain_mamba.utils._compat import spare_scipy_stats
from speechbrain_mamba.utils.torch_pair import check_torchaudio

# before SpeechBrain is imported
check_torchaudio()
spare_scipy_stats()

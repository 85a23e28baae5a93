"""Codec language models for speech synthesis: VALL-E, and VALL-M with Mamba in the place of attention."""

from speechbrain_mamba.lobes.models.synthesis.autoregressive import AutoregressiveCodecLM
from speechbrain_mamba.lobes.models.synthesis.non_autoregressive import NonAutoregressiveCodecLM
from speechbrain_mamba.lobes.models.synthesis.system import GeneratedCodes, VallE

__all__ = ["AutoregressiveCodecLM", "GeneratedCodes", "NonAutoregressiveCodecLM", "VallE"]

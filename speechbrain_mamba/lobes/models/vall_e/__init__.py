"""Codec language models for speech synthesis: VALL-E, and VALL-M with Mamba in the place of attention."""

from speechbrain_mamba.lobes.models.vall_e.autoregressive import AutoregressiveCodecLM
from speechbrain_mamba.lobes.models.vall_e.non_autoregressive import NonAutoregressiveCodecLM
from speechbrain_mamba.lobes.models.vall_e.system import GeneratedCodes, VallE

__all__ = ["AutoregressiveCodecLM", "GeneratedCodes", "NonAutoregressiveCodecLM", "VallE"]

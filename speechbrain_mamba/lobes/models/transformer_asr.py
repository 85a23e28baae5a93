"""A public path: exported folders and users' YAML name
``speechbrain_mamba.lobes.models.transformer_asr.TransformerASR``.
"""

from speechbrain_mamba.lobes.models.recognition.transformer_asr import TransformerASR

__all__ = ["TransformerASR"]

"""A public path: exported folders and users' YAML name ``speechbrain_mamba.lobes.models.mamba_tasnet.MaskNet``."""

from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet

__all__ = ["MaskNet"]

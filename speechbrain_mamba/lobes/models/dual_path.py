"""A public path: exported folders and users' YAML name ``speechbrain_mamba.lobes.models.dual_path.DualPathModel``."""

from speechbrain_mamba.lobes.models.separation.dual_path import DualPathModel

__all__ = ["DualPathModel"]

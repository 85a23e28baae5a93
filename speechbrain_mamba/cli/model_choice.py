"""Which model a command uses, and where it computes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Model = TypeVar("Model")

SEPARATOR, RECOGNIZER, SYNTHESIZER = "separator", "recognizer-digits", "synthesizer-digits"
"""The bundled models that are used if a command does not say which."""


@dataclass(frozen=True)
class ModelChoice:
    """What the options of a command say about its model.

    Arguments
    ---------
    source : str
        The name of a bundled model, a folder, or the id of a model on the Hub.
    device : str
        Where it computes, as torch calls it; ``auto`` is a GPU if there is one that torch can use, else the CPU.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    trust_yaml : bool
        Whether the model's YAML may name anything, not only what models need.
    """

    source: str
    device: str = "auto"
    precision: str = "fp32"
    trust_yaml: bool = False

    def is_there(self) -> bool:
        """Whether it can be loaded as far as one can tell: False for a default that is not in this version."""
        from speechbrain_mamba.inference.bundled import bundled_models

        return self.source not in (SEPARATOR, RECOGNIZER, SYNTHESIZER) or self.source in bundled_models()

    def load(self, kind: type[Model], **options: Any) -> Model:
        """Load the model as a class of ``speechbrain_mamba.inference``, with options of its ``from_hparams``."""
        import torch

        from speechbrain_mamba.inference.bundled import bundled_models

        if bundled := bundled_models().get(self.source):
            logger.warning("%s: %s", self.source, bundled.limits)
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        run_opts = {"device": device, "precision": self.precision}
        return kind.from_hparams(  # type: ignore[attr-defined]
            source=self.source, run_opts=run_opts, trust_yaml=self.trust_yaml, **options
        )

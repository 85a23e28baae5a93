"""Which model a command uses, and where it computes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from speechbrain_mamba.utils.memory import settle_memory

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
    precision : str, optional
        ``fp32``, ``bf16``, ``int8`` or ``fp16``; by default what the model was exported for.
    trust_yaml : bool
        Whether the model's YAML may name anything, not only what models need.
    """

    source: str
    device: str = "auto"
    precision: str | None = None
    trust_yaml: bool = False
    _announced: list[bool] = field(init=False, default_factory=list, repr=False, compare=False)

    def is_there(self) -> bool:
        """Whether it can be loaded as far as one can tell: False for a default that is not in this version."""
        from speechbrain_mamba.inference.bundled import bundled_models

        return self.source not in (SEPARATOR, RECOGNIZER, SYNTHESIZER) or self.source in bundled_models()

    def load(self, kind: type[Model], **options: Any) -> Model:
        """Load the model as a class of ``speechbrain_mamba.inference``, with options of its ``from_hparams``."""
        run_opts = {"device": choose_device(self.device)}
        if self.precision is not None:
            run_opts["precision"] = self.precision
        self._announce()
        settle_memory()
        return kind.from_hparams(  # type: ignore[attr-defined]
            source=self.source, run_opts=run_opts, trust_yaml=self.trust_yaml, **options
        )

    def load_any(self, kinds: Mapping[str, type]) -> Any:
        """Load the model as the class of its kind.

        Arguments
        ---------
        kinds : dict of str to type
            The classes, by kinds of :data:`speechbrain_mamba.inference.pretrained.KINDS`.

        Raises
        ------
        ValueError
            When the model is of none of these kinds.
        """
        from speechbrain_mamba.inference.pretrained import open_model

        kind = open_model(self.source, trust_yaml=self.trust_yaml).kind
        if kind is None or kind not in kinds:
            raise ValueError(
                f"'{self.source}' is {f'a {kind}' if kind else 'another kind of model'}, but a {' or a '.join(kinds)} "
                "is needed: give another --source."
            )
        return self.load(kinds[kind])

    @property
    def caution(self) -> str:
        """What a bundled model is good for; empty for others."""
        from speechbrain_mamba.inference.bundled import bundled_models

        bundled = bundled_models().get(self.source)
        return f"'{self.source}' is a small model for trying out. {bundled.limits}" if bundled else ""

    def _announce(self) -> None:
        """Say what a bundled model is good for, once."""
        if self.caution and not self._announced:
            logger.warning(self.caution)
            self._announced.append(True)


def choose_device(name: str) -> str:
    """The device of a name; ``auto`` is a GPU if there is one, else the CPU.

    Raises
    ------
    ValueError
        When there is no such device.

    Example
    -------
    >>> choose_device("gpu")
    Traceback (most recent call last):
    ValueError: There is no device 'gpu': give auto, cpu, cuda, or cuda:1 and on for the other GPUs.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if gpus else "cpu"
    told = f"There is no device '{name}': give auto, cpu, cuda, or cuda:1 and on for the other GPUs."
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(told) from error
    if device.type == "meta":  # torch has it, but nothing can be computed there
        raise ValueError(told)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ValueError(
            f"There is no device '{name}': torch can use {gpus or 'no'} GPU{'' if gpus == 1 else 's'} here. Give "
            "another one, or see what 'speechbrain-mamba doctor' says."
        )
    return name

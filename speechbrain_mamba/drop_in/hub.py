"""The functions of ``mamba_ssm.utils.hf``, and the base class of ``mamba_ssm.utils.generation``.

Models of speech import them with mamba-ssm's language models, of which they come, and seldom call them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor


def load_config_hf(model_name: str) -> dict[str, Any]:
    """Read ``config.json`` of a model on the Hugging Face Hub."""
    return json.loads(Path(hf_hub_download(model_name, "config.json")).read_text(encoding="utf-8"))


def load_state_dict_hf(
    model_name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Load ``pytorch_model.bin`` of a model on the Hugging Face Hub: weights only, whatever else it holds."""
    weights = torch.load(hf_hub_download(model_name, "pytorch_model.bin"), map_location="cpu", weights_only=True)
    return {name: tensor.to(device=device, dtype=dtype) for name, tensor in weights.items()}


class GenerationMixin:
    """The base class of mamba-ssm's language models. It can be inherited; generating text is not served.

    Example
    -------
    >>> class Model(GenerationMixin): ...
    >>> Model().generate()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    NotImplementedError: speechbrain_mamba.drop_in does not serve generate of mamba_ssm.utils.generation: ...
    """

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: Any = None, **kwargs: Any) -> Any:
        """The states of all layers; a model defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define allocate_inference_cache.")

    def generate(self, *arguments: Any, **options: Any) -> NoReturn:
        """Refuse."""
        raise NotImplementedError(
            "speechbrain_mamba.drop_in does not serve generate of mamba_ssm.utils.generation: step through the model "
            "with InferenceParams instead."
        )

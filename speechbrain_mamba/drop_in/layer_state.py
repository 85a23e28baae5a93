"""The states of layers between the frames of a generation, kept as mamba-ssm keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class InferenceParams:
    """What a model hands to its layers while it generates (``mamba_ssm.utils.generation.InferenceParams``).

    Arguments
    ---------
    max_seqlen, max_batch_size : int
        Largest sizes; they are kept for the caller.
    seqlen_offset : int
        Frames that were seen before: 0 for a first call with many frames; then a call has one.
    batch_size_offset : int
        Kept for the caller.
    key_value_memory_dict : dict
        The states of each layer by ``layer_idx``.
    lengths_per_sample : Tensor, optional
        Kept for the caller.

    Example
    -------
    >>> InferenceParams(max_seqlen=100, max_batch_size=2).seqlen_offset
    0
    """

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict[int, Any] = field(default_factory=dict)
    lengths_per_sample: Tensor | None = None

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        """Begin again with other sizes. The states stay: a first call overwrites them."""
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


class CachedLayer(nn.Module):
    """A layer that finds its states in the :class:`InferenceParams` by its ``layer_idx``."""

    layer_idx: int | None

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The states before the first frame: of the convolution and of the scan."""
        raise NotImplementedError

    def _get_states_from_cache(
        self, inference_params: InferenceParams, batch_size: int, initialize_states: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The layer's states, new ones for its first call."""
        if self.layer_idx is None:
            raise ValueError(f"{type(self).__name__}: inference_params needs a layer_idx: give it to the constructor.")
        cache = inference_params.key_value_memory_dict
        if self.layer_idx not in cache:
            cache[self.layer_idx] = self.allocate_inference_cache(batch_size, inference_params.max_seqlen)
        states = cache[self.layer_idx]
        if initialize_states:
            for state in states:
                state.zero_()
        return states


def keep_last(state: Tensor, frames: Tensor) -> None:
    """Write the last of some frames (batch, channels, time) to a convolution's state, zeros before shorter ones."""
    state.copy_(nn.functional.pad(frames, (state.shape[-1] - frames.shape[-1], 0)))


def step_bias(
    count: int, dt_min: float, dt_max: float, floor: float, device: Any = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Draw biases whose softplus, the step, is log-uniform between two values but not below a floor.

    Example
    -------
    >>> step = nn.functional.softplus(step_bias(5, 0.001, 0.1, 1e-4))
    >>> bool((step > 0.0009).all() and (step < 0.11).all())
    True
    """
    low, high = torch.tensor([dt_min, dt_max], dtype=torch.float64).log().tolist()
    step = torch.exp(torch.rand(count, device=device, dtype=dtype) * (high - low) + low).clamp(min=floor)
    return step + torch.log(-torch.expm1(-step))  # the inverse of softplus

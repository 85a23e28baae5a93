"""Separators as programs: of whole mixtures, and of pieces of a stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.inference.programs.program import (
    BATCH,
    EXAMPLE_SECONDS,
    Deployed,
    Program,
    fill_state,
    name_states,
)
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.lobes.models.separation.causal import check_causal
from speechbrain_mamba.lobes.models.separation.dual_path import DualPathModel
from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.ops import mask_frames


class WholeMixtures(nn.Module):
    """From mixtures (batch, samples) and, unless the model takes none, lengths in samples (batch,), to estimates
    (batch, samples, speakers)."""

    def __init__(self, separator: SpeechSeparator) -> None:
        super().__init__()
        self.parts = separator.mods

    def forward(self, mixture: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Separate."""
        relative = None if lengths is None else lengths.double() / mixture.shape[1]
        parts = self.parts
        return separate(parts["encoder"], parts["masknet"], parts["decoder"], mixture, relative)


class MixtureWindows(nn.Module):
    """From windows of mixtures (batch, samples), which overlap by the encoder's kernel less its stride, their valid
    samples (batch,), and states, to estimates (batch, samples less the overlap, speakers) and the states after them."""

    def __init__(self, separator: SpeechSeparator) -> None:
        super().__init__()
        self.encoder: Any = separator.mods.encoder
        self.masknet: Any = separator.mods.masknet
        self.decoder: Any = separator.mods.decoder
        check_causal(self.masknet)
        self.kernel, self.stride = self.encoder.conv1d.kernel_size[0], self.encoder.conv1d.stride[0]
        self.overlap = self.kernel - self.stride
        self.template = self.init_state(1)

    def init_state(self, batch: int) -> dict[str, Any]:
        """The states before the first window."""
        tail = torch.zeros(batch, self.masknet.num_spks, self.overlap)
        return {"tail": tail, "masknet": self.masknet.init_state(batch)}

    def forward(self, window: Tensor, lengths: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Separate the next window."""
        state = fill_state(self.template, iter(states))
        frames = ((lengths - self.kernel) // self.stride + 1).clamp(min=0)
        mix_w = self.encoder(mask_frames(window, lengths))
        masks, masknet = self.masknet(mix_w, frames, state=state["masknet"], return_state=True)
        speakers, batch = masks.shape[:2]
        # contiguous: adding the tail to a transposed view compares strides, and would fix what batches a program takes
        decoded = self.decoder((masks * mix_w).flatten(0, 1)).reshape(speakers, batch, -1).transpose(0, 1).contiguous()
        ready, overlap = decoded.shape[2] - self.overlap, self.overlap
        decoded = torch.cat([decoded[..., :overlap] + state["tail"], decoded[..., overlap:]], -1)
        after = {"tail": decoded[..., ready:], "masknet": masknet}
        return decoded[..., :ready].transpose(1, 2), list(name_states(after).values())


def separator_programs(model: SpeechSeparator) -> Deployed:
    """``separator``, and for a model that does not see the future ``stream``."""
    kernel = model.mods.encoder.conv1d.kernel_size[0]
    samples = max(round(EXAMPLE_SECONDS * model.sample_rate), 4 * kernel)
    masknet: Any = model.mods.masknet
    takes_lengths = isinstance(masknet, MaskNet) or (isinstance(masknet, DualPathModel) and masknet.batched)
    inputs = {"mixture": torch.randn(2, samples)}
    axes = {"mixture": {0: "batch", 1: "samples"}, "estimates": {0: "batch", 1: "samples"}}
    if takes_lengths:
        inputs["lengths"] = torch.tensor([samples, samples // 2])
        axes["lengths"] = BATCH
    programs = [Program("separator", WholeMixtures(model).eval(), inputs, axes, ["estimates"])]
    if _is_causal(model):
        programs.append(_stream(model))
    return Deployed("separator", programs, {"sample_rate": model.sample_rate, "speakers": model.speakers})


def _is_causal(model: SpeechSeparator) -> bool:
    try:
        check_causal(model.mods.masknet)
    except ValueError:
        return False
    return getattr(model.mods.decoder, "bias", None) is None


def _stream(model: SpeechSeparator) -> Program:
    module = MixtureWindows(model).eval()
    samples = 20 * module.stride + module.overlap
    inputs = {"window": torch.randn(2, samples), "lengths": torch.tensor([samples, samples // 2])}
    axes = {"window": {0: "batch", 1: "samples"}, "lengths": BATCH, "estimates": {0: "batch", 1: "samples"}}
    facts = {
        "windows": {"before": 0, "overlap": module.overlap, "step_is_a_multiple_of": module.stride},
        "states_begin_with": 0,
    }
    return Program("stream", module, inputs, axes, ["estimates"], name_states(module.init_state(2)), facts=facts)

"""The networks of the catalog with random weights, and their forward pass over some speech or tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from speechbrain.nnet.attention import RelPosEncXL, RelPosMHAXL
from torch import Tensor, nn

from crossings.catalog import System
from speechbrain_mamba.nnet.mixers import plan_mixers
from speechbrain_mamba.nnet.self_attention import usual_heads
from system_calls import FEATURES, hear, load_modules, separate_noise, speak


class RelativeAttention(nn.Module):
    """Conformer's attention with relative positions, as SpeechBrain has it, and its usual number of heads.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.encoding = RelPosEncXL(d_model)
        self.mha_layer = RelPosMHAXL(d_model, usual_heads(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer over (batch, time, d_model)."""
        return self.mha_layer(x, x, x, self.encoding(x))[0]


def make_layer(kind: str, d_model: int, causal: bool) -> nn.Module:
    """A layer: ``relative attention``, or a mixer of the number of parameters of Mamba, one of
    :data:`speechbrain_mamba.nnet.mixers.MIXERS`."""
    if kind == "relative attention":
        return RelativeAttention(d_model)
    return plan_mixers(1, d_model, causal, mixer=kind).build(0)


class Network:
    """A network of the catalog.

    Arguments
    ---------
    system : System
        What to make.
    """

    def __init__(self, system: System) -> None:
        self.system, self.n_features = system, 0
        torch.manual_seed(0)
        if system.task == "layer":
            self.model: Any = make_layer(system.source.split("/")[1], **system.overrides)
        else:
            self.model, self.n_features = load_modules(
                system.source, torch.get_default_device(), system.overrides, system.parts
            )

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def bytes(self) -> int:
        """The size of its parameters."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def call(self, length: float, device: torch.device, batch: int = 1) -> Callable[[], Tensor]:
        """Its forward pass over seconds of speech, or over tokens for a layer."""
        task = self.system.task
        if task == "layer":
            x = torch.randn(batch, round(length), self.system.overrides["d_model"], device=device)
            return lambda: self.model(x)
        if task == "separation":
            return separate_noise(self.model, length, batch, device)
        if task == "asr":
            rate = 1000 / self.system.overrides.get("hop_length", 1000 / FEATURES)
            return hear(self.model, self.n_features, length, batch, device, rate)
        return speak(self.model, length, 1000 / self.system.token_ms, batch, device)


class NetworkCache:
    """The networks in use: they are made when asked for, and those used longest ago give way.

    Arguments
    ---------
    limit : int
        Bytes of parameters to keep.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._kept = limit, OrderedDict[tuple, Network]()

    def get(self, system: System) -> Network:
        """The network of a system; the form of its attention is for the caller to set."""
        key = (system.source, repr(sorted(system.overrides.items())), system.parts)
        network = self._kept.pop(key, None) or Network(system)
        while self._kept and network.bytes + sum(other.bytes for other in self._kept.values()) > self.limit:
            self._kept.popitem(last=False)
        self._kept[key] = network
        network.system = system
        return network

"""Log-probabilities of a streaming recognizer, for audio that comes in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn


class LogProbStream:
    """Features, encoder and output layer of a recognizer on a stream. What it keeps does not grow.

    Arguments
    ---------
    modules : mapping of str to torch.nn.Module
        ``fea_streaming_extractor``, ``enc`` and ``proj_enc`` of an exported recognizer.
    chunk_config : DynChunkTrainConfig
        Frames that are encoded together; those of a causal encoder are not.
    """

    def __init__(self, modules: Mapping[str, nn.Module], chunk_config: DynChunkTrainConfig) -> None:
        parts = ("fea_streaming_extractor", "enc", "proj_enc")
        self.extractor, self.encoder, self.projection = (self._part(modules, name) for name in parts)
        self.front = self.extractor.make_streaming_context()
        self.context = self.encoder.make_streaming_context(chunk_config)

    @staticmethod
    def _part(modules: Mapping[str, nn.Module], name: str) -> Any:
        return modules[name]

    @torch.no_grad()
    def push(self, wavs: Tensor) -> Tensor:
        """Take the next samples (batch, samples), and return the log-probabilities (batch, frames, tokens) that no
        later sample can change; there may be none."""
        frames = self.extractor(wavs, self.front)
        return self._project(self.encoder.forward_streaming(frames, self.context))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the stream, and return the log-probabilities of the rest."""
        return self._project(self.encoder.finish(self.front.finish(), self.context))

    def _project(self, encoded: Tensor) -> Tensor:
        return self.projection(encoded).float().log_softmax(-1)

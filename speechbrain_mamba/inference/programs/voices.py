"""Speaker encoders as a program."""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.nnet.pooling import StatisticsPooling
from torch import Tensor, nn

from speechbrain_mamba.inference.programs.program import BATCH, EXAMPLE_SECONDS, Deployed, Program
from speechbrain_mamba.utils._compat import masks_of_any_batch


class Embeddings(nn.Module):
    """From waveforms (batch, samples) and lengths in samples (batch,) to embeddings (batch, channels)."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        parts = encoder.mods
        self.compute_features, self.normalize = parts.compute_features, parts.mean_var_norm
        self.embedding_model = parts.embedding_model

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Embed."""
        relative = lengths / waveform.shape[1]
        feats = self.normalize(self.compute_features(waveform), relative)
        with masks_of_any_batch():
            return self.embedding_model(feats, relative)[:, 0]


def speaker_programs(model: Any) -> Deployed:
    """``speaker_encoder``, of SpeechBrain's ``EncoderClassifier``.

    Raises
    ------
    ValueError
        For an encoder with SpeechBrain's pooling of x-vectors.
    """
    if any(isinstance(part, StatisticsPooling) for part in model.mods.modules()):
        raise ValueError(
            "The speaker encoder pools like x-vectors, one example after the other: a program of it cannot take any "
            "number of examples. Use it in Python, or train ECAPA-TDNN."
        )
    rate = int(model.audio_normalizer.sample_rate)
    samples = round(EXAMPLE_SECONDS * rate)
    inputs = {"waveform": torch.randn(2, samples), "lengths": torch.tensor([samples, samples // 2])}
    axes = {"waveform": {0: "batch", 1: "samples"}, "lengths": BATCH, "embedding": BATCH}
    program = Program("speaker_encoder", Embeddings(model).eval(), inputs, axes, ["embedding"])
    return Deployed("speaker encoder", [program], {"sample_rate": rate})

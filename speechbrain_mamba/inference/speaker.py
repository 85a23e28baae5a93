"""Folders of trained speaker encoders that SpeechBrain's ``EncoderClassifier`` loads."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import nn

from speechbrain_mamba.inference.export import exported

_INTERFACE = """
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: !ref <sample_rate>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
"""


def export_speaker_encoder(folder: str | os.PathLike, hparams_text: str, modules: Mapping[str, nn.Module]) -> None:
    """Write a speaker encoder to a folder that SpeechBrain's ``EncoderClassifier.from_hparams`` loads.

    Arguments
    ---------
    folder, hparams_text
        As in :func:`~speechbrain_mamba.inference.export.exported`.
    modules : dict of str to torch.nn.Module
        ``embedding_model`` and ``classifier``.
    """
    networks = {name: modules[name] for name in ("embedding_model", "classifier")}
    with exported(folder, hparams_text, ["sample_rate", "modules"], _INTERFACE, networks):
        pass

"""Folders of trained speaker encoders that SpeechBrain's ``EncoderClassifier`` loads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from speechbrain.dataio.encoder import CategoricalEncoder
from torch import nn

from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.utils.hparams import select_hparams

_INTERFACE = """
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: !ref <sample_rate>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
"""
_LABELS = "label_encoder.ckpt"
"""The file of the labels, a text: the pretrainer finds it under this name wherever the folder is."""


def export_speaker_encoder(
    folder: str | os.PathLike,
    hparams_text: str,
    modules: Mapping[str, nn.Module],
    speakers: Iterable[str],
    n_speakers: int,
) -> None:
    """Write a speaker encoder to a folder that SpeechBrain's ``EncoderClassifier.from_hparams`` loads.

    Arguments
    ---------
    folder : str or Path
        The folder; replaced if it exists.
    hparams_text : str
        HyperPyYAML of the training, references not resolved.
    modules : dict of str to torch.nn.Module
        Among them ``embedding_model`` and ``classifier``.
    speakers : iterable of str
        The speakers that the classifier was trained for, by its outputs.
    n_speakers : int
        Outputs of the classifier. Those beyond the speakers were trained for none, and are labeled so.
    """
    networks = {name: modules[name] for name in ("embedding_model", "classifier")}
    labels = CategoricalEncoder()
    labels.update_from_iterable(speakers)
    labels.update_from_iterable(f"(no speaker {index})" for index in range(len(labels), n_speakers))
    labels.expect_len(n_speakers)
    text = select_hparams(hparams_text, ["sample_rate", "modules"]) + _INTERFACE
    with exported(folder, text, networks) as unfinished:
        labels.save(unfinished / _LABELS)

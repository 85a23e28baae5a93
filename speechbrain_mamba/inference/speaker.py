"""Trained speaker encoders in folders that SpeechBrain's own ``EncoderClassifier`` loads, here or from the Hub."""

from __future__ import annotations

from speechbrain_mamba.inference.export import exported

_INTERFACE = """
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: !ref <sample_rate>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
"""


def export_speaker_encoder(folder, hparams_text, modules):
    """Write a speaker encoder to a folder that SpeechBrain's ``EncoderClassifier.from_hparams`` loads.

    Arguments
    ---------
    folder : str or Path
        The folder; replaced if it exists.
    hparams_text : str
        HyperPyYAML of the training, references not resolved.
    modules : dict of str to torch.nn.Module
        ``embedding_model`` and ``classifier``.
    """
    modules = {name: modules[name] for name in ("embedding_model", "classifier")}
    with exported(folder, hparams_text, ["sample_rate", "modules"], _INTERFACE, modules):
        pass

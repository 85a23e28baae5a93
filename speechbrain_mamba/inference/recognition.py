"""Trained recognizers in folders that SpeechBrain's own ``EncoderASR`` loads, here or from the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sentencepiece import SentencePieceProcessor
from torch import nn

from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.text.tokenizer import FILE_NAME
from speechbrain_mamba.utils._compat import save_normalizer

_KEYS = ["sample_rate", "compute_features", "normalize", "CNN", "Encoder", "ctc_lin", "blank_index"]
_INTERFACE = """
encoder: !new:speechbrain_mamba.lobes.models.recognition.ctc_encoder.CTCEncoder
    compute_features: !ref <compute_features>
    normalize: !ref <normalize>
    CNN: !ref <CNN>
    encoder: !ref <Encoder>
    ctc_lin: !ref <ctc_lin>
    blank_index: !ref <blank_index>
    chunk_config: !ref <{chunks}>
no_chunks: null
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: !ref <sample_rate>
modules:
    encoder: !ref <encoder>
tokenizer: !new:sentencepiece.SentencePieceProcessor
decoding_function: !name:speechbrain.decoders.ctc.ctc_greedy_decode
    blank_id: !ref <blank_index>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        CNN: !ref <CNN>
        Encoder: !ref <Encoder>
        ctc_lin: !ref <ctc_lin>
        normalizer: !ref <normalize>
        tokenizer: !ref <tokenizer>
"""


def export_recognizer(
    folder: str | os.PathLike,
    hparams_text: str,
    modules: Mapping[str, nn.Module],
    tokenizer: SentencePieceProcessor,
    streaming: bool = False,
) -> None:
    """Write a CTC recognizer, ``CNN``, ``Encoder``, ``ctc_lin`` and ``normalize``, to a folder that SpeechBrain's
    ``EncoderASR.from_hparams`` loads; arguments as in :func:`~speechbrain_mamba.inference.export.exported`.

    ``streaming`` says whether the encoder was trained to see chunk by chunk; then the exported one does so too.
    """
    keys = [*_KEYS, "chunk_config"] if streaming else _KEYS
    interface = _INTERFACE.format(chunks="chunk_config" if streaming else "no_chunks")
    networks = {name: modules[name] for name in ("CNN", "Encoder", "ctc_lin")}
    with exported(folder, hparams_text, keys, interface, networks) as unfinished:
        save_normalizer(modules["normalize"], unfinished / "normalizer.ckpt")
        (unfinished / FILE_NAME).write_bytes(tokenizer.serialized_model_proto())

"""Trained recognizers in folders that SpeechBrain's ``EncoderASR``, ``EncoderDecoderASR`` and ``StreamingASR`` load."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml.comments import CommentedMap
from sentencepiece import SentencePieceProcessor
from torch import nn

from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.lobes.models.recognition.conmamba_encoder import ConmambaEncoder
from speechbrain_mamba.text.tokenizer import FILE_NAME
from speechbrain_mamba.utils._compat import save_normalizer
from speechbrain_mamba.utils.hparams import resolve_operators, select_hparams
from speechbrain_mamba.utils.yaml_text import dump_yaml, parse_yaml

_SHARED = """
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: !ref <sample_rate>
tokenizer: !new:sentencepiece.SentencePieceProcessor
"""
_CTC = """
encoder: !new:speechbrain_mamba.lobes.models.recognition.ctc_encoder.CTCEncoder
    compute_features: !ref <compute_features>
    normalize: !ref <normalize>
    CNN: !ref <CNN>
    encoder: !ref <Encoder>
    ctc_lin: !ref <ctc_lin>
    blank_index: !ref <blank_index>
    chunk_config: !ref <{chunks}>
no_chunks: null
decoding_function: !name:speechbrain_mamba.decoders.ctc.decode_greedily
    blank_id: !ref <blank_index>
"""
_STREAM = """
fea_streaming_extractor: !new:speechbrain_mamba.lobes.models.recognition.streaming_interface.StreamingExtractor
    compute_features: !ref <compute_features>
    normalize: !ref <normalize>
    CNN: !ref <CNN>
enc: !new:speechbrain_mamba.lobes.models.recognition.streaming_interface.StreamingEncoder
    encoder: !ref <Encoder>
    d_model: !ref <d_model>
proj_enc: !ref <ctc_lin>
make_decoder_streaming_context: !name:speechbrain_mamba.decoders.ctc.GreedyContext
make_tokenizer_streaming_context: !name:speechbrain_mamba.text.spelling.SpellingContext
tokenizer_decode_streaming: !name:speechbrain_mamba.text.spelling.spell_next
"""
_SEQ2SEQ = """
encoder: !new:speechbrain_mamba.lobes.models.recognition.seq2seq_encoder.Seq2SeqEncoder
    compute_features: !ref <compute_features>
    normalize: !ref <normalize>
    CNN: !ref <CNN>
    transformer: !ref <Transformer>
ctc_scorer: !new:speechbrain.decoders.scorer.CTCScorer
    ctc_fc: !ref <ctc_lin>
    blank_index: !ref <blank_index>
    eos_index: !ref <eos_index>
"""
_LM_SCORER = """
lm_scorer: !new:speechbrain.decoders.scorer.TransformerLMScorer
    language_model: !ref <lm>
    temperature: !ref <lm_temperature>
scorer: !new:speechbrain.decoders.scorer.ScorerBuilder
    full_scorers: [!ref <lm_scorer>, !ref <ctc_scorer>]
    weights:
        transformerlm: !ref <lm_weight>
        ctc: !ref <ctc_weight_decode>
"""
_CTC_SCORER = """
scorer: !new:speechbrain.decoders.scorer.ScorerBuilder
    full_scorers: [!ref <ctc_scorer>]
    weights:
        ctc: !ref <ctc_weight_decode>
"""
_SEARCH = "{beam_size: !ref <test_beam_size>, temperature: !ref <test_temperature>, scorer: !ref <scorer>}"
_FRONT = ["sample_rate", "compute_features", "normalize", "CNN", "ctc_lin", "blank_index"]
_LM = ["lm_model", "lm_weight", "lm_temperature"]
_SEQ2SEQ_NETWORKS = ("CNN", "Transformer", "seq_lin", "ctc_lin")


def export_recognizer(
    folder: str | os.PathLike,
    hparams_text: str,
    modules: Mapping[str, nn.Module],
    tokenizer: SentencePieceProcessor,
    streaming: bool = False,
    causal: bool = False,
) -> None:
    """Write a CTC recognizer to a folder that SpeechBrain's ``EncoderASR.from_hparams`` loads, and its ``StreamingASR``
    if the recognizer can run on a stream.

    Arguments
    ---------
    folder : str or Path
        The folder; replaced if it exists.
    hparams_text : str
        HyperPyYAML of the training, references not resolved.
    modules : mapping of str to torch.nn.Module
        ``CNN``, ``Encoder``, ``ctc_lin`` and ``normalize``.
    tokenizer : sentencepiece.SentencePieceProcessor
        Its tokenizer.
    streaming : bool
        Whether the encoder was trained to see chunk by chunk; the exported one then does so too.
    causal : bool
        Whether the encoder sees frame by frame. Only a ConMamba encoder has a state of constant size for a stream; the
        interface of streams is left out for the others.
    """
    encoder: Any = getattr(modules["Encoder"], "module", modules["Encoder"])
    streams = (streaming or causal) and isinstance(encoder.transformer.encoder, ConmambaEncoder)
    networks = {name: modules[name] for name in ("CNN", "Encoder", "ctc_lin")}
    _export(folder, recognizer_yaml(hparams_text, streaming, streams), networks, modules["normalize"], tokenizer)


def recognizer_yaml(hparams_text: str, streaming: bool = False, streams: bool = False) -> str:
    """The ``hyperparams.yaml`` of an exported CTC recognizer, from that of its training.

    Arguments
    ---------
    hparams_text : str
        HyperPyYAML of the training, references not resolved.
    streaming : bool
        Whether the encoder sees chunk by chunk.
    streams : bool
        Whether it has the interface of streams.
    """
    keys, parts = [*_FRONT, "Encoder", "test_search"], ["encoder"]
    interface = _CTC.format(chunks="chunk_config" if streaming else "no_chunks")
    if streaming or streams:
        keys.append("chunk_config")
    if streams:
        keys.append("d_model")
        interface += _STREAM
        parts += ["fea_streaming_extractor", "enc", "proj_enc"]
    return _make_yaml(hparams_text, keys, interface, parts, ("CNN", "Encoder", "ctc_lin"))


def export_seq2seq_recognizer(
    folder: str | os.PathLike,
    hparams_text: str,
    modules: Mapping[str, nn.Module],
    tokenizer: SentencePieceProcessor,
    language_model: nn.Module | None = None,
) -> None:
    """Write a recognizer with a decoder to a folder that SpeechBrain's ``EncoderDecoderASR.from_hparams`` loads, with
    the search of its test.

    Arguments
    ---------
    folder, hparams_text, tokenizer
        As in :func:`export_recognizer`.
    modules : mapping of str to torch.nn.Module
        ``CNN``, ``Transformer``, ``seq_lin``, ``ctc_lin`` and ``normalize``.
    language_model : torch.nn.Module, optional
        The language model of the search, a ``lm_model`` of the hyper-parameters; it becomes a part of the folder.
    """
    networks = {name: modules[name] for name in _SEQ2SEQ_NETWORKS}
    if language_model is not None:
        networks["lm"] = language_model
    text = seq2seq_yaml(hparams_text, language_model is not None)
    _export(folder, text, networks, modules["normalize"], tokenizer)


def seq2seq_yaml(hparams_text: str, language_model: bool = False) -> str:
    """The ``hyperparams.yaml`` of an exported recognizer with a decoder, with the search of its test and perhaps its
    language model, from that of its training."""
    keys = [*_FRONT, "Transformer", "seq_lin", "decoder", "eos_index", "ctc_weight_decode", *_LM]
    parts, networks = ["encoder", "ctc_lin", "decoder"], [*_SEQ2SEQ_NETWORKS]
    tree = parse_yaml(hparams_text, "The hyper-parameters")
    _make(tree, "decoder", "searcher").update(parse_yaml(_SEARCH, ""))
    if language_model:
        _make(tree, "lm", "lm_model")
        for names in (keys, parts, networks):
            names.append("lm")
    interface = _SEQ2SEQ + (_LM_SCORER if language_model else _CTC_SCORER)
    return _make_yaml(dump_yaml(tree), keys, interface, parts, networks)


def _make(tree: CommentedMap, key: str, partial: str) -> CommentedMap:
    """Add the object that calling a ``!name:`` entry makes, under a key; returns its arguments."""
    text = dump_yaml(CommentedMap({partial: tree[partial]}))
    made = parse_yaml(text.replace("!name:", "!new:", 1), partial)[partial]
    tree[key] = made
    return made


def _make_yaml(
    hparams_text: str, keys: Sequence[str], interface: str, parts: Sequence[str], networks: Sequence[str]
) -> str:
    """The text of a folder. ``parts`` are SpeechBrain's ``modules``, ``networks`` those that have weights."""
    lines = ["modules:", *(f"    {name}: !ref <{name}>" for name in parts)]
    lines += ["pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer", "    loadables:"]
    loadables = {**{name: name for name in networks}, "normalizer": "normalize", "tokenizer": "tokenizer"}
    lines += [f"        {name}: !ref <{entry}>" for name, entry in loadables.items()]
    own = select_hparams(resolve_operators(select_hparams(hparams_text, keys)), keys)
    return own + _SHARED + interface + "\n".join([*lines, ""])


def _export(
    folder: str | os.PathLike,
    text: str,
    networks: Mapping[str, nn.Module],
    normalizer: nn.Module,
    tokenizer: SentencePieceProcessor,
) -> None:
    with exported(folder, text, networks) as unfinished:
        save_normalizer(normalizer, unfinished / "normalizer.ckpt")
        (unfinished / FILE_NAME).write_bytes(tokenizer.serialized_model_proto())

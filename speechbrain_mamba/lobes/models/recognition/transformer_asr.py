"""SpeechBrain's ``TransformerASR`` with ConMamba as another encoder and Mamba as another decoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from speechbrain.lobes.models.transformer import TransformerASR as speechbrain_asr
from speechbrain.lobes.models.transformer.Transformer import (
    NormalizedEmbedding,
    PositionalEncoding,
    get_key_padding_mask,
    get_lookahead_mask,
)
from speechbrain.nnet.containers import ModuleList
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.conmamba_encoder import ConmambaEncoder
from speechbrain_mamba.lobes.models.recognition.mamba_decoder import MambaDecoder
from speechbrain_mamba.lobes.models.recognition.transformer_options import check_cross, check_options
from speechbrain_mamba.nnet.hidden_attention import HiddenAttention
from speechbrain_mamba.nnet.interleaving import places_of_tokens
from speechbrain_mamba.nnet.mamba_layer import MambaLayer
from speechbrain_mamba.nnet.mixers import bidirectional_form
from speechbrain_mamba.nnet.places import PlaceAdvance
from speechbrain_mamba.ops import absolute_lengths, lengths_on, mask_frames, valid_frames


class TransformerASR(speechbrain_asr.TransformerASR):
    """SpeechBrain's ``TransformerASR`` with two more choices: ``encoder_module: conmamba``, ``decoder_module: mamba``.

    All choices of SpeechBrain's class behave as they do there. ConMamba and the Mamba decoder need no attention masks:
    every example in a padded batch gets the output it gets on its own, and time and memory grow linearly.

    Where attention adds sinusoids to its input (``attention_type`` regularMHA with ``positional_encoding``
    fixed_abs_sine), so does ConMamba, for sources of at most ``max_length`` frames; the published models have
    RelPosMHAXL, with which it adds none. The decoder's input gets sinusoids by the same rules as with attention.

    Arguments
    ---------
    *args, **kwargs
        As in ``speechbrain.lobes.models.transformer.TransformerASR.TransformerASR``; ``encoder_module`` may also be
        ``conmamba``, which takes ``kernel_size``, ``bias``, ``causal``, ``output_hidden_states`` and
        ``layerdrop_prob`` as ``conformer`` does, and ``activation`` for its feed-forward and convolution modules, as
        the published models do.
    decoder_module : str
        ``transformer`` or ``mamba``.
    decoder_d_ffn : int, optional
        Channels inside of the decoder's feed-forward networks, if they are others than ``d_ffn``, the encoder's.
    mamba_config : dict, optional
        Options of the Mamba layers (``d_state``, ``d_conv``, ``expand``, ...), and ``bidirectional`` for the encoder,
        by default ``not causal``.
    cross, cross_config
        How the Mamba decoder reads the encoder's output, see
        :class:`~speechbrain_mamba.lobes.models.recognition.mamba_decoder.MambaDecoderLayer`.
    places_by : torch.nn.Module, optional
        For the cross ``interleaved``: the linear layer to the logits of CTC, in which token 0 is the blank. Its
        likeliest path says where each target belongs. It stays a part of the model around this one.
    mixer, attention_window, mixer_config
        The mixers of ConMamba and of the Mamba decoder, ``mamba`` by default, see
        :func:`~speechbrain_mamba.nnet.mixers.plan_mixers`. Attention has ``nhead`` heads unless ``mixer_config`` says
        otherwise.
    attention_layers, decoder_attention_layers : list of int, str or None
        Layers of the encoder, and of the decoder, that attend instead, see
        :func:`~speechbrain_mamba.nnet.mixers.attention_layers`.
    bidirectional : bool, str or None
        The form of the encoder's layers that see both ways, see :func:`~speechbrain_mamba.nnet.mixers.build_mixer`;
        True and False are as in ``mamba_config``.

    Raises
    ------
    ValueError
        For unknown choices, a ``mamba_config`` that does not fit or that nothing uses, or Mamba modules without
        ``normalize_before``.

    Example
    -------
    >>> net = TransformerASR(
    ...     tgt_vocab=40, input_size=64, d_model=16, nhead=4, num_encoder_layers=1, num_decoder_layers=1, d_ffn=32,
    ...     normalize_before=True, causal=False, attention_type="RelPosMHAXL",
    ...     encoder_module="conmamba", decoder_module="mamba", mamba_config={"d_state": 8},
    ... )
    >>> src, tgt = torch.randn(2, 30, 64), torch.randint(1, 40, (2, 7))
    >>> encoder_out, decoder_out = net(src, tgt, wav_len=torch.tensor([1.0, 0.5]))
    >>> encoder_out.shape, decoder_out.shape
    (torch.Size([2, 30, 16]), torch.Size([2, 7, 16]))
    """

    def __init__(
        self,
        *args: Any,
        decoder_module: str = "transformer",
        decoder_d_ffn: int | None = None,
        mamba_config: Mapping[str, Any] | None = None,
        cross: str = "concat",
        cross_config: Mapping[str, Any] | None = None,
        places_by: nn.Module | None = None,
        mixer: str | None = None,
        attention_layers: Sequence[int] | str | None = None,
        decoder_attention_layers: Sequence[int] | str | None = None,
        attention_window: int | None = None,
        bidirectional: bool | str | None = None,
        mixer_config: Mapping[str, Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        bound = inspect.signature(super().__init__).bind(*args, **kwargs)
        bound.apply_defaults()
        options = bound.arguments
        mixers = {
            "mixer": mixer, "attention_layers": attention_layers, "attention_window": attention_window,
            "mixer_config": mixer_config, "bidirectional": bidirectional,
            "decoder_attention_layers": decoder_attention_layers,
        }  # fmt: skip
        check_options(options, decoder_module, mamba_config, mixers)
        check_cross(decoder_module, cross, cross_config, places_by)
        if isinstance(bidirectional, bool):
            mamba_config, bidirectional = {**(mamba_config or {}), "bidirectional": bidirectional}, None
        mamba_decoder = decoder_module == "mamba" and options["num_decoder_layers"] > 0
        conmamba = options["encoder_module"] == "conmamba"
        if decoder_d_ffn is not None and not (mamba_decoder or conmamba):
            raise ValueError(
                f"decoder_d_ffn is given, but encoder_module is '{options['encoder_module']}' and decoder_module "
                f"'{decoder_module}', which SpeechBrain builds with one d_ffn: leave it out."
            )
        decoder_d_ffn = options["d_ffn"] if decoder_d_ffn is None else decoder_d_ffn
        # SpeechBrain's class makes no encoder for an unknown name, and no decoder of zero layers
        of_theirs = {"num_decoder_layers": 0 if mamba_decoder else options["num_decoder_layers"]}
        super().__init__(**{**options, **of_theirs, "d_ffn": decoder_d_ffn if conmamba else options["d_ffn"]})
        self.encoder_module, self.decoder_module = options["encoder_module"], decoder_module
        shared = {key: options[key] for key in ("d_model", "d_ffn", "activation", "dropout")}
        shared["mamba_config"] = mamba_config
        if self.encoder_module == "conmamba":
            own = {key: options[key] for key in ("kernel_size", "bias", "output_hidden_states", "layerdrop_prob")}
            own |= {
                "causal": self.causal,
                "nhead": options["nhead"],
                "bidirectional": bidirectional_form(bidirectional),
            }
            own |= _mixers_of(attention_layers, mixer, attention_window, mixer_config, mamba_decoder)
            self.encoder = ConmambaEncoder(options["num_encoder_layers"], **shared, **own)
        if mamba_decoder:
            self.custom_tgt_module = ModuleList(NormalizedEmbedding(options["d_model"], options["tgt_vocab"]))
            reading: dict[str, Any] = {"cross": cross, "cross_config": cross_config}
            own = _mixers_of(
                decoder_attention_layers, mixer, attention_window, mixer_config, self.encoder_module == "conmamba"
            )
            shared["d_ffn"] = decoder_d_ffn
            self.decoder = MambaDecoder(options["num_decoder_layers"], **shared, **own, **reading)
        if self.encoder_module == "conmamba" or mamba_decoder:
            _draw_matrices(self)
        self._places_by = (places_by,)  # in a tuple, so that its weights are not ours too

    def forward(
        self,
        src: Tensor | None,
        tgt: Tensor | None,
        wav_len: Tensor | None = None,
        pad_idx: int = 0,
        encoder_out: Tensor | None = None,
    ) -> Any:
        """Encode and decode whole sequences.

        Arguments
        ---------
        src : Tensor
            Features (batch, time, input_size), or (batch, time, ...) to be flattened to that.
        tgt, pad_idx : Tensor or None, int
            Input tokens of the decoder, integers (batch, target time), and the token that pads them; None to run the
            encoder only.
        wav_len : Tensor, optional
            Lengths relative to the longest source, floats (batch,).
        encoder_out : Tensor, optional
            The output of an encoder (batch, time, d_model) in place of ``src``: it is returned as it is, without hidden
            states.

        Returns
        -------
        encoder_out : Tensor
            Output of the encoder (batch, time, d_model).
        hidden_states : list
            With ``output_hidden_states``, the input and the output of each layer of the encoder.
        decoder_out : Tensor or None
            Output of the decoder (batch, target time, d_model). Without ``tgt`` it is None for Mamba modules, and for
            the others the attention weights that SpeechBrain's class returns.
        """
        if encoder_out is not None and tgt is not None:
            lengths = absolute_lengths(wav_len, encoder_out.shape[1], encoder_out.device)
            return encoder_out, self._decode(tgt, encoder_out, lengths, get_key_padding_mask(tgt, pad_idx))[0]
        if src is None or encoder_out is not None:
            raise ValueError("The model needs either src, or encoder_out and tgt.")
        if self.encoder_module != "conmamba" and not self.has_mamba_decoder:
            return super().forward(src, tgt, wav_len, pad_idx)
        wav_len = None if wav_len is None else lengths_on(wav_len, src.device)
        outputs = self.encode(src, wav_len, pad_idx)
        outputs = outputs if self.output_hidden_states else (outputs,)
        if tgt is None:
            return (*outputs, None)
        lengths = absolute_lengths(wav_len, src.shape[1], src.device)
        decoder_out, _ = self._decode(tgt, outputs[0], lengths, get_key_padding_mask(tgt, pad_idx))
        return (*outputs, decoder_out)

    def encode(
        self,
        src: Tensor,
        wav_len: Tensor | None = None,
        pad_idx: int = 0,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> Any:
        """Encode whole sequences, as :meth:`forward` does; with ConMamba the output is zero past each length. With
        ``dynchunktrain_config``, a frame sees later ones in its own chunk only."""
        if self.encoder_module != "conmamba":
            return super().encode(src, wav_len, pad_idx, dynchunktrain_config)
        lengths = absolute_lengths(wav_len, src.shape[1], src.device)
        outputs = self.encoder(
            self._embed_source(mask_frames(src.flatten(2), lengths)),
            src_key_padding_mask=_padding_mask(lengths, src.shape[1]),
            dynchunktrain_config=dynchunktrain_config,
        )
        return (outputs[0], outputs[2]) if self.output_hidden_states else outputs[0]

    def encode_streaming(self, src: Tensor, context: Any) -> Tensor:
        """Encode the next piece of a stream, given the context made by ``make_streaming_context``, which is updated.
        The output equals that of :meth:`encode` over all pieces at once; see :meth:`ConmambaEncoder.forward_streaming()
        <speechbrain_mamba.lobes.models.recognition.conmamba_encoder.ConmambaEncoder.forward_streaming>`."""
        if self.encoder_module != "conmamba":
            return super().encode_streaming(src, context)
        src = self._embed_source(src.flatten(2), context.encoder_context.position)
        return self.encoder.forward_streaming(src, context.encoder_context)[0]

    @torch.no_grad()
    def decode(self, tgt: Tensor, encoder_out: Tensor, enc_len: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Decode a prefix, for searches without a state.

        Arguments
        ---------
        tgt : Tensor
            Tokens so far, integers (batch, target time).
        encoder_out, enc_len : Tensor
            Output of the encoder (batch, time, d_model), and optionally its valid frames, integers (batch,).

        Returns
        -------
        prediction, attention : Tensor
            Output of the decoder (batch, target time, d_model), and the last layer's attention weights, None for Mamba.
        """
        if not self.has_mamba_decoder:
            return super().decode(tgt, encoder_out, enc_len)
        return self._decode(tgt, encoder_out, enc_len, None)

    def decode_prefix(self, tgt: Tensor, encoder_out: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The output of the decoder (batch, target time, d_model) for a prefix, given as in :meth:`decode`; without the
        attention weights, and for any lengths while a program is exported."""
        return self._decode(tgt, encoder_out, lengths, None)[0]

    @property
    def reads_places(self) -> bool:
        """Whether CTC says where the decoder's targets belong."""
        return self._places_by[0] is not None

    @property
    def has_mamba_decoder(self) -> bool:
        """Whether the decoder is Mamba, which has a state."""
        return isinstance(getattr(self, "decoder", None), MambaDecoder)

    @property
    def max_target_length(self) -> int | None:
        """The number of positions that the decoder has for tokens, or None without a limit."""
        encoding = self._target_positions()
        return None if encoding is None else encoding.max_len

    def init_decoder_state(self, encoder_out: Tensor, enc_len: Tensor | None = None) -> dict[str, Any]:
        """Consume the encoder's output, given as in :meth:`decode`; decoding token by token starts from the state.

        It is a dict of ``layers``, a state per layer of the decoder, and ``position``, integers (batch,): the number of
        tokens fed so far. The batch comes first in every tensor inside. Raises a TypeError if the decoder is not Mamba.
        """
        if not self.has_mamba_decoder:
            raise TypeError(
                "A Transformer decoder has no state: set decoder_module to mamba, or decode whole prefixes."
            )
        position = torch.zeros(encoder_out.shape[0], dtype=torch.long, device=encoder_out.device)
        places = self._places(encoder_out, enc_len)
        return {"layers": self.decoder.consume(encoder_out, enc_len, places), "position": position}

    def decode_step(self, tokens: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Feed the decoder one token of each example, integers (batch,), from a state returned by
        :meth:`init_decoder_state` or an earlier call. Returns the output (batch, d_model) and the state after it, and
        leaves the given state unchanged."""
        x_t = self.custom_tgt_module(tokens[:, None])[:, 0]
        encoding = self._target_positions()
        if encoding is not None:
            x_t = x_t + encoding.pe[0, state["position"]]
        x_t, layers = self.decoder.step(x_t, state["layers"])
        return x_t, {"layers": layers, "position": state["position"] + 1}

    def _decode(
        self, tgt: Tensor, memory: Tensor, memory_lengths: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the decoder over targets; ``memory_lengths`` are absolute, ``padding`` marks the targets'."""
        if memory_lengths is not None:
            memory_lengths = lengths_on(memory_lengths, memory.device)
        x, encoding = self.custom_tgt_module(tgt), self._target_positions()
        if encoding is not None:
            x = x + _positions(encoding, 0, tgt.shape[1], "target")
        inputs: dict[str, Any] = {
            "tgt": x,
            "memory": memory,
            "tgt_key_padding_mask": padding,
            "memory_key_padding_mask": _padding_mask(memory_lengths, memory.shape[1]),
        }
        if self.has_mamba_decoder:
            inputs["places"] = self._places(memory, memory_lengths)
        else:
            inputs["tgt_mask"] = get_lookahead_mask(tgt).isinf()
        x, _, attention = self.decoder(**inputs)
        return x, attention[-1]

    @torch.no_grad()
    def _places(self, memory: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Where the targets belong in the memory, as CTC says, integers (batch, targets); None if nothing asks."""
        places_by = self._places_by[0]
        if places_by is None:
            return None
        if lengths is None:
            lengths = torch.full(memory.shape[:1], memory.shape[1], device=memory.device)
        lengths = lengths_on(lengths, memory.device)
        return places_of_tokens(places_by(mask_frames(memory, lengths)).argmax(-1), 0, lengths)

    def _embed_source(self, src: Tensor, start: int = 0) -> Tensor:
        x = self.custom_src_module(src)
        if self.attention_type == "regularMHA" and self.positional_encoding_type is not None:
            x = x + _positions(self.positional_encoding, start, src.shape[1], "source")
        return x

    def _target_positions(self) -> PositionalEncoding | None:
        """The positional encoding of targets that SpeechBrain would choose."""
        if self.attention_type in ("RelPosMHAXL", "RoPEMHA"):
            return self.positional_encoding_decoder
        return self.positional_encoding if self.positional_encoding_type is not None else None


def _padding_mask(lengths: Tensor | None, time: int) -> Tensor | None:
    """Mark the frames past absolute lengths, as SpeechBrain's encoders and decoders want it."""
    return None if lengths is None else ~valid_frames(lengths, time)


def _draw_matrices(net: nn.Module) -> None:
    """Initialize the matrices as SpeechBrain's class does, except those of Mamba layers and of learned places, which
    depend on their own initialization."""
    layers = [module for module in net.modules() if isinstance(module, (MambaLayer, HiddenAttention, PlaceAdvance))]
    keep = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for parameter in net.parameters():
        if parameter.dim() > 1 and id(parameter) not in keep:
            nn.init.xavier_normal_(parameter)


def _mixers_of(
    layers: Sequence[int] | str | None,
    mixer: str | None,
    window: int | None,
    mixer_config: Mapping[str, Mapping[str, Any]] | None,
    shared: bool,
) -> dict[str, Any]:
    """What the encoder, or the decoder, is given of its mixers. A window that is ``shared`` may be for the other."""
    attends = mixer == "attention" or layers is not None
    given = {
        "mixer": mixer, "attention_layers": layers, "mixer_config": mixer_config,
        "attention_window": window if attends or not shared else None,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None and (name, value) != ("mixer", "mamba")}


def _positions(encoding: PositionalEncoding, start: int, time: int, kind: str) -> Tensor:
    if start + time > encoding.max_len:
        raise ValueError(
            f"The {kind} has {start + time} positions, but max_length is {encoding.max_len}: raise max_length"
            + (", or set attention_type to RelPosMHAXL, with which ConMamba needs none." if kind == "source" else ".")
        )
    return encoding.pe[:, start : start + time]

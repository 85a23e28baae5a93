"""SpeechBrain's ``TransformerASR`` with ConMamba as a further encoder and Mamba as a further decoder."""

from __future__ import annotations

import inspect

import torch
from speechbrain.lobes.models.transformer import TransformerASR as speechbrain_asr
from speechbrain.lobes.models.transformer.Transformer import (
    NormalizedEmbedding,
    get_key_padding_mask,
    get_lookahead_mask,
)
from speechbrain.nnet.containers import ModuleList
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.conmamba import ConmambaEncoder, MambaDecoder
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from speechbrain_mamba.ops import absolute_lengths, mask_frames, valid_frames

ENCODERS = ("transformer", "conformer", "branchformer", "conmamba")
DECODERS = ("transformer", "mamba")


class TransformerASR(speechbrain_asr.TransformerASR):
    """SpeechBrain's ``TransformerASR`` with two more choices: ``encoder_module: conmamba``, ``decoder_module: mamba``.

    Every choice that SpeechBrain's class has works as there. ConMamba and the Mamba decoder need no attention masks: in
    a padded batch each example gets the output that it gets alone, and time and memory grow linearly.

    Where attention adds sinusoids to its input (``attention_type`` regularMHA with ``positional_encoding``
    fixed_abs_sine), so does ConMamba, for sources of at most ``max_length`` frames; the published models have
    RelPosMHAXL, with which it adds none. The decoder's input gets sinusoids by the same rules as with attention.

    Arguments
    ---------
    *args, **kwargs
        As ``speechbrain.lobes.models.transformer.TransformerASR.TransformerASR``; ``encoder_module`` may be
        ``conmamba`` too, which takes ``kernel_size``, ``bias``, ``causal``, ``output_hidden_states`` and
        ``layerdrop_prob`` as ``conformer`` does, and ``activation`` for its feed-forward and convolution modules, as
        the published models do.
    decoder_module : str
        ``transformer`` or ``mamba``.
    mamba_config : dict, optional
        Options of the Mamba layers (``d_state``, ``d_conv``, ``expand``, ...), and ``bidirectional`` for the encoder's,
        by default whatever ``causal`` is not.

    Raises
    ------
    ValueError
        For a module that does not exist, a ``mamba_config`` that does not fit or that nothing uses, Mamba modules
        without ``normalize_before``, or a ``positional_encoding`` that is unknown.

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

    def __init__(self, *args, decoder_module="transformer", mamba_config=None, **kwargs):
        bound = inspect.signature(super().__init__).bind(*args, **kwargs)
        bound.apply_defaults()
        options = bound.arguments
        _check_options(options, decoder_module, mamba_config)
        mamba_decoder = decoder_module == "mamba" and options["num_decoder_layers"] > 0
        # SpeechBrain's class makes no encoder for a name that it does not know, and no decoder of no layers
        super().__init__(**{**options, "num_decoder_layers": 0 if mamba_decoder else options["num_decoder_layers"]})
        self.encoder_module, self.decoder_module = options["encoder_module"], decoder_module
        if self.encoder_module == "conmamba":
            self.encoder = ConmambaEncoder(
                num_layers=options["num_encoder_layers"],
                d_model=options["d_model"],
                d_ffn=options["d_ffn"],
                kernel_size=options["kernel_size"],
                activation=options["activation"],
                bias=options["bias"],
                dropout=options["dropout"],
                causal=self.causal,
                mamba_config=mamba_config,
                output_hidden_states=options["output_hidden_states"],
                layerdrop_prob=options["layerdrop_prob"],
            )
        if mamba_decoder:
            self.custom_tgt_module = ModuleList(NormalizedEmbedding(options["d_model"], options["tgt_vocab"]))
            self.decoder = MambaDecoder(
                num_layers=options["num_decoder_layers"],
                d_model=options["d_model"],
                d_ffn=options["d_ffn"],
                activation=options["activation"],
                dropout=options["dropout"],
                mamba_config=mamba_config,
            )
        if self.encoder_module == "conmamba" or mamba_decoder:
            self._init_params()

    def forward(self, src, tgt, wav_len=None, pad_idx=0):
        """Encode and decode whole sequences.

        Arguments
        ---------
        src : Tensor
            Features (batch, time, input_size), or (batch, time, ...) to be flattened to that.
        tgt : Tensor or None
            Tokens that the decoder is fed, integers (batch, target time); None for an encoder alone.
        wav_len : Tensor, optional
            Lengths relative to the longest source, floats (batch,).
        pad_idx : int
            The token that pads targets.

        Returns
        -------
        encoder_out : Tensor
            Output of the encoder (batch, time, d_model).
        hidden_states : list
            With ``output_hidden_states``, the input and the output of each layer of the encoder.
        decoder_out : Tensor or None
            Output of the decoder (batch, target time, d_model). Where ``tgt`` is None it is None for Mamba modules, and
            what SpeechBrain's class returns, the attention weights, for the others.
        """
        if self.encoder_module != "conmamba" and not self.has_mamba_decoder:
            return super().forward(src, tgt, wav_len, pad_idx)
        outputs = self.encode(src, wav_len, pad_idx)
        outputs = outputs if self.output_hidden_states else (outputs,)
        if tgt is None:
            return (*outputs, None)
        padding = self._padding(wav_len, outputs[0].shape[1])
        decoder_out, _ = self._decode(tgt, outputs[0], padding, get_key_padding_mask(tgt, pad_idx))
        return (*outputs, decoder_out)

    def encode(self, src, wav_len=None, pad_idx=0, dynchunktrain_config=None):
        """Encode whole sequences.

        Arguments
        ---------
        src, wav_len, pad_idx
            As in :meth:`forward`.
        dynchunktrain_config : DynChunkTrainConfig, optional
            Frames per chunk, beyond which a frame sees no later ones.

        Returns
        -------
        encoder_out : Tensor
            Output of the encoder (batch, time, d_model); of ConMamba zero past each length.
        hidden_states : list
            With ``output_hidden_states``, the input and the output of each layer.
        """
        if self.encoder_module != "conmamba":
            return super().encode(src, wav_len, pad_idx, dynchunktrain_config)
        src = mask_frames(src.flatten(2), absolute_lengths(wav_len, src.shape[1]))
        outputs = self.encoder(
            self._embed_source(src),
            src_key_padding_mask=self._padding(wav_len, src.shape[1]),
            dynchunktrain_config=dynchunktrain_config,
        )
        return (outputs[0], outputs[2]) if self.output_hidden_states else outputs[0]

    def encode_streaming(self, src, context):
        """Encode the next piece of a stream; see :meth:`ConmambaEncoder.forward_streaming()
        <speechbrain_mamba.lobes.models.recognition.conmamba.ConmambaEncoder.forward_streaming>`.

        Arguments
        ---------
        src : Tensor
            Features (batch, time, input_size), or (batch, time, ...) to be flattened to that.
        context : TransformerASRStreamingContext
            The stream so far, of ``make_streaming_context``; updated.

        Returns
        -------
        Tensor
            Output of the encoder (batch, time, d_model): that of :meth:`encode` of all pieces in one go.
        """
        if self.encoder_module != "conmamba":
            return super().encode_streaming(src, context)
        src = self._embed_source(src.flatten(2), context.encoder_context.position)
        return self.encoder.forward_streaming(src, context.encoder_context)[0]

    @torch.no_grad()
    def decode(self, tgt, encoder_out, enc_len=None):
        """Decode a prefix, for searches that have no state.

        Arguments
        ---------
        tgt : Tensor
            Tokens so far, integers (batch, target time).
        encoder_out : Tensor
            Output of the encoder (batch, time, d_model).
        enc_len : Tensor, optional
            Valid frames of the encoder's output, integers (batch,).

        Returns
        -------
        prediction : Tensor
            Output of the decoder (batch, target time, d_model).
        attention : Tensor or None
            Attention weights of the last layer; None for Mamba.
        """
        if not self.has_mamba_decoder:
            return super().decode(tgt, encoder_out, enc_len)
        padding = None if enc_len is None else ~valid_frames(enc_len, encoder_out.shape[1])
        return self._decode(tgt, encoder_out, padding, None)

    @property
    def has_mamba_decoder(self):
        """Whether the decoder is Mamba, and so has a state."""
        return isinstance(getattr(self, "decoder", None), MambaDecoder)

    @property
    def max_target_length(self):
        """The most tokens that the decoder can be fed, as it has no more positions, or None."""
        encoding = self._target_positions()
        return None if encoding is None else encoding.max_len

    def init_decoder_state(self, encoder_out, enc_len=None):
        """Consume the encoder's output, to decode token by token from there.

        Arguments
        ---------
        encoder_out : Tensor
            Output of the encoder (batch, time, d_model).
        enc_len : Tensor, optional
            Valid frames of it, integers (batch,).

        Returns
        -------
        dict
            ``layers``, a state per layer of the decoder, and ``position``, integers (batch,): how many tokens it was
            fed. Every tensor within has the batch first.

        Raises
        ------
        TypeError
            When the decoder is not Mamba.
        """
        if not self.has_mamba_decoder:
            raise TypeError(
                "A Transformer decoder has no state: set decoder_module to mamba, or decode whole prefixes."
            )
        position = torch.zeros(encoder_out.shape[0], dtype=torch.long, device=encoder_out.device)
        return {"layers": self.decoder.consume(encoder_out, enc_len), "position": position}

    def decode_step(self, tokens, state):
        """Feed the decoder one token.

        Arguments
        ---------
        tokens : Tensor
            Tokens, integers (batch,).
        state : dict
            State before them, of :meth:`init_decoder_state` or an earlier call.

        Returns
        -------
        prediction : Tensor
            Output of the decoder (batch, d_model).
        state : dict
            State after them; the one given is left as it is.
        """
        x_t = self.custom_tgt_module(tokens[:, None])[:, 0]
        encoding = self._target_positions()
        if encoding is not None:
            x_t = x_t + encoding.pe[0, state["position"]]
        x_t, layers = self.decoder.step(x_t, state["layers"])
        return x_t, {"layers": layers, "position": state["position"] + 1}

    def _decode(
        self, tgt: Tensor, memory: Tensor, memory_padding: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        x, encoding = self.custom_tgt_module(tgt), self._target_positions()
        if encoding is not None:
            x = x + _positions(encoding, 0, tgt.shape[1], "target")
        x, _, attention = self.decoder(
            tgt=x,
            memory=memory,
            tgt_mask=None if self.has_mamba_decoder else get_lookahead_mask(tgt).isinf(),
            tgt_key_padding_mask=padding,
            memory_key_padding_mask=memory_padding,
        )
        return x, attention[-1]

    def _embed_source(self, src: Tensor, start: int = 0) -> Tensor:
        x = self.custom_src_module(src)
        if self.attention_type == "regularMHA" and self.positional_encoding_type is not None:
            x = x + _positions(self.positional_encoding, start, src.shape[1], "source")
        return x

    def _target_positions(self) -> nn.Module | None:
        """What encodes the positions of targets, as SpeechBrain chooses it."""
        if self.attention_type in ("RelPosMHAXL", "RoPEMHA"):
            return self.positional_encoding_decoder
        return self.positional_encoding if self.positional_encoding_type is not None else None

    @staticmethod
    def _padding(wav_len: Tensor | None, time: int) -> Tensor | None:
        return None if wav_len is None else ~valid_frames(absolute_lengths(wav_len, time), time)

    def _init_params(self):
        """Draw the matrices anew as SpeechBrain's class does, but for those of Mamba layers, which come with an
        initialisation that their recurrence depends on."""
        layers = [module for module in self.modules() if isinstance(module, (Mamba, BiMamba))]
        keep = {id(parameter) for layer in layers for parameter in layer.parameters()}
        for parameter in self.parameters():
            if parameter.dim() > 1 and id(parameter) not in keep:
                nn.init.xavier_normal_(parameter)


def _check_options(options: dict, decoder_module: str, mamba_config: dict | None) -> None:
    encoder_module = options["encoder_module"]
    for name, value, known in (
        ("encoder_module", encoder_module, ENCODERS),
        ("decoder_module", decoder_module, DECODERS),
        ("attention_type", options["attention_type"], ("regularMHA", "RelPosMHAXL", "hypermixing", "RoPEMHA")),
        ("positional_encoding", options["positional_encoding"], ("fixed_abs_sine", None)),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, known))}.")
    uses_mamba = encoder_module == "conmamba" or decoder_module == "mamba"
    if uses_mamba and not options["normalize_before"]:
        raise ValueError(
            "normalize_before is False, but ConMamba and the Mamba decoder normalise before: set it to True."
        )
    if mamba_config and not uses_mamba:
        raise ValueError(
            f"mamba_config is given, but encoder_module is '{encoder_module}' and decoder_module '{decoder_module}': "
            "set encoder_module to conmamba or decoder_module to mamba, or leave mamba_config out."
        )


def _positions(encoding: nn.Module, start: int, time: int, what: str) -> Tensor:
    if start + time > encoding.max_len:
        raise ValueError(
            f"The {what} has {start + time} positions, but max_length is {encoding.max_len}: raise max_length"
            + (", or set attention_type to RelPosMHAXL, with which ConMamba needs none." if what == "source" else ".")
        )
    return encoding.pe[:, start : start + time]

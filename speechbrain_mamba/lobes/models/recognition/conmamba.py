"""ConMamba, the Conformer whose attention is Mamba, and the Mamba decoder ("Speech Slytherin", arXiv 2407.09732)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from speechbrain.nnet.activations import Swish
from speechbrain.nnet.attention import PositionalwiseFeedForward
from speechbrain.nnet.normalization import LayerNorm
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.chunked_mamba import ChunkedBiMamba
from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionModule
from speechbrain_mamba.nnet.mamba import Mamba
from speechbrain_mamba.nnet.mamba_config import mamba_options
from speechbrain_mamba.ops import mask_frames


def is_bidirectional(mamba_config, causal):
    """Whether an encoder's Mamba layers scan in both directions.

    Arguments
    ---------
    mamba_config : dict, optional
        Its ``bidirectional``, by default whatever ``causal`` is not.
    causal : bool
        Whether the encoder may see no later frames.

    Returns
    -------
    bool
        Whether they do.

    Raises
    ------
    ValueError
        When a causal encoder is asked to be bidirectional.

    Example
    -------
    >>> is_bidirectional({}, causal=False)
    True
    """
    bidirectional = (mamba_config or {}).get("bidirectional", not causal)
    if causal and bidirectional:
        raise ValueError(
            "causal is True, but mamba_config has bidirectional: True, which sees the future: leave one of them out."
        )
    return bidirectional


def _feed_forward_module(d_model: int, d_ffn: int, activation: type, dropout: float) -> nn.Sequential:
    ffn = PositionalwiseFeedForward(d_ffn=d_ffn, input_size=d_model, dropout=dropout, activation=activation)
    return nn.Sequential(nn.LayerNorm(d_model), ffn, nn.Dropout(dropout))


class ConmambaEncoderLayer(nn.Module):
    """A Conformer layer with Mamba in the place of attention: half a feed-forward module, Mamba, the convolution
    module, half a feed-forward module, normalisation.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    d_ffn : int
        Channels within the feed-forward modules.
    kernel_size : int
        Width of the convolution, in frames.
    activation : type
        Module used in the feed-forward modules and after the convolution.
    bias : bool
        Whether the convolution module has biases.
    dropout : float
        Dropout rate.
    causal : bool
        Whether a frame sees no later frames.
    mamba_config : dict, optional
        ``bidirectional``, by default not ``causal``, and arguments of :class:`~speechbrain_mamba.nnet.mamba.Mamba`.

    Raises
    ------
    ValueError
        For a ``mamba_config`` that does not fit, or an even kernel.

    Example
    -------
    >>> layer = ConmambaEncoderLayer(d_model=8, d_ffn=16, kernel_size=5)
    >>> layer(torch.randn(2, 10, 8), lengths=torch.tensor([10, 4])).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        d_model,
        d_ffn,
        kernel_size=31,
        activation=Swish,
        bias=True,
        dropout=0.0,
        causal=False,
        mamba_config=None,
    ):
        super().__init__()
        self.bidirectional = is_bidirectional(mamba_config, causal)
        mixer = ChunkedBiMamba if self.bidirectional else Mamba
        self.mamba = mixer(d_model=d_model, **mamba_options(mamba_config))
        self.convolution_module = ConvolutionModule(d_model, kernel_size, bias, activation, dropout, causal=causal)
        self.ffn_module1 = _feed_forward_module(d_model, d_ffn, activation, dropout)
        self.ffn_module2 = _feed_forward_module(d_model, d_ffn, activation, dropout)
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)

    def forward(self, x, lengths=None, chunk_size=None, state=None, return_state=False):
        """Run the layer over a sequence.

        Arguments
        ---------
        x : Tensor
            Input (batch, time, d_model), whose frames past the length are finite.
        lengths : Tensor, optional
            Valid frames per example, integers (batch,).
        chunk_size : int, optional
            Frames per chunk, within which alone a frame sees later ones; no limit by default.
        state : dict, optional
            State to go on from, of an earlier call that ended with a whole chunk.
        return_state : bool
            Whether to return the state after each example's last valid frame too; for layers that are causal or run in
            chunks.

        Returns
        -------
        Tensor
            Output like ``x``; and with ``return_state`` the state.
        """
        state = state or {"mamba": None, "conv": None}
        chunks = {"chunk_size": chunk_size} if self.bidirectional else {}
        x = x + 0.5 * self.ffn_module1(x)
        y, mamba_state = self._with_state(self.mamba, self.norm1(x), lengths, state["mamba"], return_state, **chunks)
        x = x + y
        y, conv_state = self._with_state(
            self.convolution_module, x, lengths, state["conv"], return_state, chunk_size=chunk_size
        )
        x = x + y
        x = self.norm2(x + 0.5 * self.ffn_module2(x))
        return (x, {"mamba": mamba_state, "conv": conv_state}) if return_state else x

    @staticmethod
    def _with_state(module, x, lengths, state, return_state, **chunks):
        y = module(x, lengths, state=state, return_state=return_state, **chunks)
        return y if return_state else (y, None)


@dataclass
class ConmambaEncoderStreamingContext:
    """What a :class:`ConmambaEncoder` keeps between the chunks of a stream; its size does not grow."""

    dynchunktrain_config: DynChunkTrainConfig
    """Frames per chunk. Its left context plays no part: the state sums up all the past."""

    layers: list[dict[str, Tensor] | None]
    """State of each layer; None before the first chunk."""

    position: int = 0
    """Frames seen so far."""


class ConmambaEncoder(nn.Module):
    """A stack of ConMamba layers with a final normalisation, with the interface of SpeechBrain's ``ConformerEncoder``.

    Arguments
    ---------
    num_layers : int
        Number of layers.
    d_model, d_ffn, kernel_size, activation, bias, dropout, causal, mamba_config
        As in :class:`ConmambaEncoderLayer`.
    output_hidden_states : bool
        Whether to return the input and the output of each layer too.
    layerdrop_prob : float
        Probability of leaving out a layer in training.

    Example
    -------
    >>> encoder = ConmambaEncoder(num_layers=2, d_model=8, d_ffn=16, kernel_size=5)
    >>> padding = torch.tensor([[False] * 10, [False] * 4 + [True] * 6])
    >>> y, _ = encoder(torch.randn(2, 10, 8), src_key_padding_mask=padding)
    >>> y.shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        num_layers,
        d_model,
        d_ffn,
        kernel_size=31,
        activation=Swish,
        bias=True,
        dropout=0.0,
        causal=False,
        mamba_config=None,
        output_hidden_states=False,
        layerdrop_prob=0.0,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            ConmambaEncoderLayer(d_model, d_ffn, kernel_size, activation, bias, dropout, causal, mamba_config)
            for _ in range(num_layers)
        )
        self.norm = LayerNorm(d_model, eps=1e-6)
        self.causal = causal
        self.output_hidden_states = output_hidden_states
        self.layerdrop_prob = layerdrop_prob

    def forward(self, src, src_mask=None, src_key_padding_mask=None, pos_embs=None, dynchunktrain_config=None):
        """Encode a sequence.

        Arguments
        ---------
        src : Tensor
            Input (batch, time, d_model).
        src_mask, pos_embs
            What attention takes, here for the sake of the interface: which frames see which is up to ``causal``,
            ``mamba_config`` and ``dynchunktrain_config``, and Mamba knows the order of frames by itself.
        src_key_padding_mask : Tensor, optional
            Boolean (batch, time), True for the frames past each example's length.
        dynchunktrain_config : DynChunkTrainConfig, optional
            Frames per chunk, for encoders that are not causal: a frame sees later ones in its own chunk only. The left
            context is unlimited, whatever it says, as the forward scan has no cheaper state for less.

        Returns
        -------
        output : Tensor
            Output (batch, time, d_model), zero past each length.
        attention_lst : list
            None for each layer, which has no attention.
        hidden_state_lst : list
            With ``output_hidden_states``, the input and the output of each layer.
        """
        lengths = None if src_key_padding_mask is None else (~src_key_padding_mask).sum(1)
        chunk_size = None if dynchunktrain_config is None else dynchunktrain_config.chunk_size
        x = mask_frames(src, lengths)
        hidden = [x]
        dropped = torch.rand(len(self.layers)) <= self.layerdrop_prob if self.layerdrop_prob > 0 else None
        for i, layer in enumerate(self.layers):
            if self.training and dropped is not None and dropped[i]:
                continue
            x = layer(x, lengths, chunk_size)
            hidden.append(x)
        output = mask_frames(self.norm(x), lengths)
        attention = [None] * (len(hidden) - 1)
        return (output, attention, hidden) if self.output_hidden_states else (output, attention)

    def make_streaming_context(self, dynchunktrain_config):
        """Start a stream.

        Arguments
        ---------
        dynchunktrain_config : DynChunkTrainConfig
            Frames per chunk. A causal encoder takes pieces of any size with the same result.

        Returns
        -------
        ConmambaEncoderStreamingContext
            The context, for :meth:`forward_streaming`.
        """
        return ConmambaEncoderStreamingContext(dynchunktrain_config, [None] * len(self.layers))

    def forward_streaming(self, src, context, pos_embs=None):
        """Encode the next piece of a stream: the output is that of :meth:`forward` with the same chunk size.

        Arguments
        ---------
        src : Tensor
            Input (batch, time, d_model). Unless the encoder is causal, each piece but the last is one chunk or several
            whole ones.
        context : ConmambaEncoderStreamingContext
            The stream so far; updated.
        pos_embs
            For the sake of the interface, as in :meth:`forward`.

        Returns
        -------
        output : Tensor
            Output (batch, time, d_model).
        attention_lst : list
            None for each layer, which has no attention.

        Raises
        ------
        ValueError
            When a piece follows one that ended amid a chunk.
        """
        chunk_size = context.dynchunktrain_config.chunk_size
        if not self.causal and context.position % chunk_size:
            raise ValueError(
                f"The stream is at frame {context.position}, amid a chunk of {chunk_size}: a piece of another size can "
                "only be the last."
            )
        x = src
        for i, layer in enumerate(self.layers):
            x, context.layers[i] = layer(x, chunk_size=chunk_size, state=context.layers[i], return_state=True)
        context.position += src.shape[1]
        return self.norm(x), [None] * len(self.layers)


class MambaDecoderLayer(nn.Module):
    """A pre-norm decoder layer: causal Mamba over the targets, cross-Mamba, and a feed-forward network.

    Cross-Mamba is causal Mamba over the memory and then the targets, of whose output the targets' part is kept. Each
    example's memory is consumed up to its own length, and its targets go on from that state.

    Arguments
    ---------
    d_model : int
        Channels of targets and memory.
    d_ffn : int
        Channels within the feed-forward network.
    activation : type
        Module used in the feed-forward network.
    dropout : float
        Dropout rate.
    mamba_config : dict, optional
        Arguments of :class:`~speechbrain_mamba.nnet.mamba.Mamba`; ``bidirectional`` concerns encoders only.

    Example
    -------
    >>> layer = MambaDecoderLayer(d_model=8, d_ffn=16)
    >>> state = layer.consume(torch.randn(2, 30, 8), torch.tensor([30, 12]))
    >>> layer(torch.randn(2, 5, 8), state).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, d_model, d_ffn, activation=nn.ReLU, dropout=0.0, mamba_config=None):
        super().__init__()
        options = mamba_options(mamba_config)
        self.self_mamba = Mamba(d_model=d_model, **options)
        self.cross_mamba = Mamba(d_model=d_model, **options)
        self.pos_ffn = PositionalwiseFeedForward(
            d_ffn=d_ffn, input_size=d_model, dropout=dropout, activation=activation
        )
        self.norm1 = LayerNorm(d_model, eps=1e-6)
        self.norm2 = LayerNorm(d_model, eps=1e-6)
        self.norm3 = LayerNorm(d_model, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    def consume(self, memory, lengths=None):
        """The state before the first target.

        Arguments
        ---------
        memory : Tensor
            Output of the encoder (batch, memory time, d_model).
        lengths : Tensor, optional
            Valid frames of each memory, integers (batch,).

        Returns
        -------
        dict of str to dict
            ``self`` and ``cross``, each a state of :class:`~speechbrain_mamba.nnet.mamba.Mamba`.
        """
        _, cross = self.cross_mamba(memory, lengths, return_state=True)
        batch = memory.shape[0]
        return {"self": self.self_mamba.init_state(batch, memory.device, cross["conv"].dtype), "cross": cross}

    def forward(self, tgt, state, return_state=False):
        """Run the layer over targets.

        Arguments
        ---------
        tgt : Tensor
            Targets (batch, time, d_model).
        state : dict
            State before them, of :meth:`consume` or an earlier call.
        return_state : bool
            Whether to return the state after them too.

        Returns
        -------
        Tensor
            Output like ``tgt``; and with ``return_state`` the state.
        """
        y, self_state = self.self_mamba(self.norm1(tgt), state=state["self"], return_state=True)
        x = tgt + self.dropout(y)
        y, cross_state = self.cross_mamba(self.norm2(x), state=state["cross"], return_state=True)
        x = x + self.dropout(y)
        x = x + self.dropout(self.pos_ffn.ffn(self.norm3(x)))
        return (x, {"self": self_state, "cross": cross_state}) if return_state else x

    def step(self, x_t, state):
        """Run the layer over one target.

        Arguments
        ---------
        x_t : Tensor
            Target (batch, d_model).
        state : dict
            State before it.

        Returns
        -------
        y_t : Tensor
            Output (batch, d_model).
        state : dict
            State after it; the one given is left as it is.
        """
        y, self_state = self.self_mamba.step(self.norm1(x_t), state["self"])
        x_t = x_t + self.dropout(y)
        y, cross_state = self.cross_mamba.step(self.norm2(x_t), state["cross"])
        x_t = x_t + self.dropout(y)
        x_t = x_t + self.dropout(self.pos_ffn.ffn(self.norm3(x_t)))
        return x_t, {"self": self_state, "cross": cross_state}


class MambaDecoder(nn.Module):
    """A stack of Mamba decoder layers with a final normalisation, with the interface of SpeechBrain's
    ``TransformerDecoder``, and a state to decode token by token.

    Arguments
    ---------
    num_layers : int
        Number of layers.
    d_model, d_ffn, activation, dropout, mamba_config
        As in :class:`MambaDecoderLayer`.

    Example
    -------
    >>> decoder = MambaDecoder(num_layers=2, d_model=8, d_ffn=16)
    >>> tgt, memory = torch.randn(2, 5, 8), torch.randn(2, 30, 8)
    >>> y, _, _ = decoder(tgt, memory)
    >>> first, state = decoder.step(tgt[:, 0], decoder.consume(memory))
    >>> torch.allclose(first, y[:, 0], atol=1e-5)
    True
    """

    def __init__(self, num_layers, d_model, d_ffn, activation=nn.ReLU, dropout=0.0, mamba_config=None):
        super().__init__()
        self.layers = nn.ModuleList(
            MambaDecoderLayer(d_model, d_ffn, activation, dropout, mamba_config) for _ in range(num_layers)
        )
        self.norm = LayerNorm(d_model, eps=1e-6)

    def forward(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        pos_embs_tgt=None,
        pos_embs_src=None,
    ):
        """Decode whole target sequences.

        Arguments
        ---------
        tgt : Tensor
            Targets (batch, time, d_model).
        memory : Tensor
            Output of the encoder (batch, memory time, d_model).
        tgt_mask, memory_mask, tgt_key_padding_mask, pos_embs_tgt, pos_embs_src
            What attention takes, here for the sake of the interface: the decoder is causal by itself, so that targets
            see no padding, which stands at their end.
        memory_key_padding_mask : Tensor, optional
            Boolean (batch, memory time), True for the frames past each memory's length.

        Returns
        -------
        output : Tensor
            Output (batch, time, d_model).
        self_attns, multihead_attns : list
            None for each layer, which has no attention.
        """
        lengths = None if memory_key_padding_mask is None else (~memory_key_padding_mask).sum(1)
        x = tgt
        for layer, state in zip(self.layers, self.consume(memory, lengths)):
            x = layer(x, state)
        nothing = [None] * len(self.layers)
        return self.norm(x), nothing, nothing

    def consume(self, memory, lengths=None):
        """The states of all layers before the first target: a tuple with that of each layer's
        :meth:`MambaDecoderLayer.consume`, which takes the same arguments."""
        return tuple(layer.consume(memory, lengths) for layer in self.layers)

    def step(self, x_t, state):
        """Run the decoder over one target, as :meth:`MambaDecoderLayer.step` does with one layer; the state is that of
        :meth:`consume`."""
        states = []
        for layer, layer_state in zip(self.layers, state):
            x_t, layer_state = layer.step(x_t, layer_state)
            states.append(layer_state)
        return self.norm(x_t), tuple(states)

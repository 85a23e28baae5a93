"""The ConMamba encoder, for whole sequences and for streams ("Speech Slytherin", arXiv 2407.09732)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from speechbrain.nnet.normalization import LayerNorm
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from speechbrain_mamba.lobes.models.recognition.conmamba_layer import ConmambaEncoderLayer, is_bidirectional
from speechbrain_mamba.nnet.mixers import plan_mixers
from speechbrain_mamba.ops import mask_frames


@dataclass
class ConmambaEncoderStreamingContext:
    """What a :class:`ConmambaEncoder` keeps between the chunks of a stream. Its size does not grow, unless a layer
    attends without a window."""

    dynchunktrain_config: DynChunkTrainConfig
    """Frames per chunk. The left context is ignored: the state covers the whole past."""

    layers: list[dict[str, Any] | None]
    """State of each layer; None before the first chunk."""

    position: int = 0
    """Frames seen so far."""


class ConmambaEncoder(nn.Module):
    """A stack of ConMamba layers with a final normalization and the interface of SpeechBrain's ``ConformerEncoder``.

    Arguments
    ---------
    num_layers : int
        Number of layers.
    d_model, d_ffn, causal, dropout, mamba_config, **layer_options
        As in :class:`~speechbrain_mamba.lobes.models.recognition.conmamba_layer.ConmambaEncoderLayer`.
    output_hidden_states : bool
        Whether to return the input and the output of each layer too.
    layerdrop_prob : float
        Probability of skipping a layer in training.
    nhead : int, optional
        Heads of the layers that attend; by default about one for 64 channels.
    mixer, attention_layers, attention_window, bidirectional, mixer_config
        The mixers of the layers and the form of those that see both ways, see
        :func:`~speechbrain_mamba.nnet.mixers.plan_mixers`. Attention drops weights at the rate ``dropout``.

    Raises
    ------
    ValueError
        As there, and as in the layers.

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
        num_layers: int,
        d_model: int,
        d_ffn: int,
        causal: bool = False,
        output_hidden_states: bool = False,
        layerdrop_prob: float = 0.0,
        dropout: float = 0.0,
        mamba_config: Mapping[str, Any] | None = None,
        nhead: int | None = None,
        mixer: str = "mamba",
        attention_layers: Sequence[int] | str | None = None,
        attention_window: int | None = None,
        bidirectional: str | None = None,
        mixer_config: Mapping[str, Mapping[str, Any]] | None = None,
        **layer_options: Any,
    ) -> None:
        super().__init__()
        attention = {"dropout": dropout} | ({} if nhead is None else {"nhead": nhead})
        both_ways = is_bidirectional(mamba_config, causal)
        if bidirectional is not None and not both_ways:
            raise ValueError(f"bidirectional is '{bidirectional}', but the encoder sees no later frames: leave it out.")
        self.mixer_plan = plan_mixers(
            num_layers, d_model, not both_ways, mixer=mixer, attention_layers=attention_layers,
            attention_window=attention_window, bidirectional=bidirectional, mamba_config=mamba_config,
            mixer_config=mixer_config, attention=attention, chunked=True,
        )  # fmt: skip
        layer_options |= {"causal": causal, "dropout": dropout, "mamba_config": mamba_config}
        self.layers = nn.ModuleList(
            ConmambaEncoderLayer(
                d_model,
                d_ffn,
                mixer=self.mixer_plan.build(i, masks_input=False),  # the encoder masks its input
                **layer_options,
            )
            for i in range(num_layers)
        )
        self.norm = LayerNorm(d_model, eps=1e-6)
        self.causal = causal
        self.output_hidden_states = output_hidden_states
        self.layerdrop_prob = layerdrop_prob

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, list[None]] | tuple[Tensor, list[None], list[Tensor]]:
        """Encode whole sequences.

        Arguments
        ---------
        src : Tensor
            Input (batch, time, d_model).
        src_mask, pos_embs
            Arguments of a Conformer's attention, accepted for the interface and ignored: ``causal``, ``mamba_config``
            and ``dynchunktrain_config`` decide which frames see which. Mamba needs no positions, and layers that attend
            have rotary ones.
        src_key_padding_mask : Tensor, optional
            Boolean (batch, time), True for the frames past each example's length.
        dynchunktrain_config : DynChunkTrainConfig, optional
            Frames per chunk, for encoders that are not causal: a frame sees later ones in its own chunk only. The left
            context is always unlimited: a shorter one would not make the forward scan's state any smaller.

        Returns
        -------
        output : Tensor
            Output (batch, time, d_model), zero past each length.
        attention_lst : list
            None for each layer: attention weights are not kept.
        hidden_state_lst : list
            With ``output_hidden_states``, the input and the output of each layer.
        """
        lengths = None if src_key_padding_mask is None else (~src_key_padding_mask).sum(1)
        chunk_size = None if dynchunktrain_config is None else dynchunktrain_config.chunk_size
        x = mask_frames(src, lengths)
        hidden = [x]
        for layer in self.layers:
            if self.training and self.layerdrop_prob and torch.rand(()) < self.layerdrop_prob:
                continue
            x = layer(x, lengths, chunk_size)
            hidden.append(x)
        output = mask_frames(self.norm(x), lengths)
        attention = [None] * (len(hidden) - 1)
        return (output, attention, hidden) if self.output_hidden_states else (output, attention)

    def make_streaming_context(self, dynchunktrain_config: DynChunkTrainConfig) -> ConmambaEncoderStreamingContext:
        """Start a stream for :meth:`forward_streaming` with some frames per chunk, which a causal encoder ignores."""
        return ConmambaEncoderStreamingContext(dynchunktrain_config, [None] * len(self.layers))

    def forward_streaming(
        self, src: Tensor, context: ConmambaEncoderStreamingContext, pos_embs: Tensor | None = None
    ) -> tuple[Tensor, list[None]]:
        """Encode the next piece of a stream (batch, time, d_model), given the stream so far, which is updated.

        Output and attention are those of :meth:`forward` with the same chunk size. Unless the encoder is causal, each
        piece but the last holds whole chunks; a ValueError is raised for a piece after one that does not.
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

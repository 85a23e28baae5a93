"""The Mamba decoder, with a state to decode token by token ("Speech Slytherin", arXiv 2407.09732)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from speechbrain.nnet.attention import PositionalwiseFeedForward
from speechbrain.nnet.normalization import LayerNorm
from torch import Tensor, nn

from speechbrain_mamba.nnet.cross_mamba import build_cross, consume
from speechbrain_mamba.nnet.fused_step import Network, residual_step
from speechbrain_mamba.nnet.interleaving import product_dtype
from speechbrain_mamba.nnet.kept import KeptForSteps
from speechbrain_mamba.nnet.mamba import Mamba
from speechbrain_mamba.nnet.mamba_config import mamba_options
from speechbrain_mamba.nnet.mixers import build_mixer, plan_mixers
from speechbrain_mamba.ops import lengths_on, mask_frames
from speechbrain_mamba.utils._compat import has_forward_hooks

DecoderLayerState = dict[str, dict[str, Any]]
"""The states of both mixers, ``self`` and ``cross``."""


class MambaDecoderLayer(nn.Module):
    """A pre-norm decoder layer: causal Mamba over the targets, a reader of the memory, and a feed-forward network.

    As published, the memory is read by cross-Mamba: causal Mamba over the memory followed by the targets, of whose
    output the targets' part is kept. Each example's memory is consumed up to its own length, and its targets resume
    from that state.

    Arguments
    ---------
    d_model, d_ffn : int
        Channels of targets and memory, and inside the feed-forward network.
    activation, dropout : type, float
        Module used in the feed-forward network, and the dropout rate.
    mamba_config : dict, optional
        Arguments of :class:`~speechbrain_mamba.nnet.mamba.Mamba`; ``bidirectional`` concerns encoders only.
    cross : str
        How the memory is read: a kind of :func:`~speechbrain_mamba.nnet.cross_mamba.build_cross`.
    cross_config : dict, optional
        Options of that: ``init``, ``nhead``, and those of ``hidden_attention`` or of the mixers.
    make_mixer : callable, optional
        Makes another causal mixer in the place of Mamba, given further arguments of it by name.

    Example
    -------
    >>> import torch
    >>> layer = MambaDecoderLayer(d_model=8, d_ffn=16)
    >>> state = layer.consume(torch.randn(2, 30, 8), torch.tensor([30, 12]))
    >>> layer(torch.randn(2, 5, 8), state).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_ffn: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        mamba_config: Mapping[str, Any] | None = None,
        cross: str = "concat",
        cross_config: Mapping[str, Any] | None = None,
        make_mixer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.cross = cross
        if make_mixer is None:
            make_mixer = partial(Mamba, d_model, **mamba_options(mamba_config))
        self.self_mamba: Any = make_mixer()
        # all kinds have the name that published weights give the first one
        self.cross_mamba: Any = build_cross(cross, d_model, make_mixer, dropout=dropout, **(cross_config or {}))
        self.pos_ffn = PositionalwiseFeedForward(d_ffn, input_size=d_model, dropout=dropout, activation=activation)
        self.norm1 = LayerNorm(d_model, eps=1e-6)
        self.norm2 = LayerNorm(d_model, eps=1e-6)
        self.norm3 = LayerNorm(d_model, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self._kept = KeptForSteps()

    def consume(self, memory: Tensor, lengths: Tensor | None = None, places: Tensor | None = None) -> DecoderLayerState:
        """Compute the state before the first target from the output of the encoder (batch, memory time, d_model), which
        is finite past the valid frames of each example, integers (batch,); interleaved targets need their places too,
        integers (batch, targets)."""
        self._kept.clear()
        own = self.self_mamba.init_state(memory.shape[0], memory.device, product_dtype(memory))
        return {"self": own, "cross": consume(self.cross_mamba, memory, lengths, places)}

    def forward(
        self, tgt: Tensor, state: DecoderLayerState, return_state: bool = False
    ) -> Tensor | tuple[Tensor, DecoderLayerState]:
        """Run the layer over targets (batch, time, d_model), from the state returned by :meth:`consume` or an earlier
        call. Returns an output of the same shape, and with ``return_state`` the state after it too."""
        x, after = self._run(lambda mamba, x, before: mamba(x, state=before, return_state=True), tgt, state)
        return (x, after) if return_state else x

    def step(self, x_t: Tensor, state: DecoderLayerState) -> tuple[Tensor, DecoderLayerState]:
        """Run the layer over one target, (batch, d_model); returns the output and the state after it, and leaves the
        given state unchanged."""
        if self.training:
            return self._run(lambda mamba, x, before: mamba.step(x, before), x_t, state)
        norm1, norm2, norm3 = (_inner(norm) for norm in (self.norm1, self.norm2, self.norm3))
        x_t, self_state = residual_step(x_t, state["self"], norm1, self.self_mamba)
        network = Network(norm3, self.pos_ffn.ffn)
        x_t, cross_state = residual_step(x_t, state["cross"], norm2, self.cross_mamba, network, self._kept)
        return x_t, {"self": self_state, "cross": cross_state}

    def _run(self, run: Callable[..., Any], x: Tensor, state: DecoderLayerState) -> tuple[Tensor, DecoderLayerState]:
        """Run the layer, given how to run a Mamba layer from a state."""
        y, self_state = run(self.self_mamba, self.norm1(x), state["self"])
        x = x + self.dropout(y)
        y, cross_state = run(self.cross_mamba, self.norm2(x), state["cross"])
        x = x + self.dropout(y)
        return x + self.dropout(self.pos_ffn.ffn(self.norm3(x))), {"self": self_state, "cross": cross_state}


def _inner(norm: nn.Module) -> nn.Module:
    """What SpeechBrain's LayerNorm consists of; the module itself if it is more than that."""
    return norm.norm if type(norm) is LayerNorm and not has_forward_hooks(norm) else norm  # type: ignore[return-value]


class MambaDecoder(nn.Module):
    """A stack of Mamba decoder layers with a final normalization, the interface of SpeechBrain's
    ``TransformerDecoder``, and a state to decode token by token.

    Arguments
    ---------
    num_layers : int
        Number of layers.
    d_model, d_ffn, **layer_options
        As in :class:`MambaDecoderLayer`.
    mamba_config, mixer, attention_layers, attention_window, mixer_config
        The mixers over the targets, and those of cross-Mamba, see :func:`~speechbrain_mamba.nnet.mixers.plan_mixers`.

    Example
    -------
    >>> import torch
    >>> decoder = MambaDecoder(num_layers=2, d_model=8, d_ffn=16)
    >>> tgt, memory = torch.randn(2, 5, 8), torch.randn(2, 30, 8)
    >>> y, _, _ = decoder(tgt, memory)
    >>> first, state = decoder.step(tgt[:, 0], decoder.consume(memory))
    >>> torch.allclose(first, y[:, 0], atol=1e-5)
    True
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        d_ffn: int,
        *,
        mamba_config: Mapping[str, Any] | None = None,
        mixer: str = "mamba",
        attention_layers: Sequence[int] | str | None = None,
        attention_window: int | None = None,
        mixer_config: Mapping[str, Mapping[str, Any]] | None = None,
        **layer_options: Any,
    ) -> None:
        super().__init__()
        plan = plan_mixers(
            num_layers, d_model, mixer=mixer, attention_layers=attention_layers, attention_window=attention_window,
            mamba_config=mamba_config, mixer_config=mixer_config,
        )  # fmt: skip
        self.mixer_plan = plan

        def make_mixer(kind: str, **others: Any) -> nn.Module:
            return build_mixer(kind, d_model, **{**plan.options[kind], **others})

        def options_of(kind: str) -> dict[str, Any]:
            """Those of a layer: where it has no states, nothing is initialized mimetically, if other layers have."""
            config = dict(layer_options.get("cross_config") or {})
            if kind == "attention" and {*plan.kinds} != {kind} and layer_options.get("cross") != "hidden_attention":
                config.pop("init", None)
            return {**layer_options, "cross_config": config}

        layers = (
            MambaDecoderLayer(d_model, d_ffn, make_mixer=partial(make_mixer, kind), **options_of(kind))
            for kind in plan.kinds
        )
        self.layers: Any = nn.ModuleList(layers)
        self.norm = LayerNorm(d_model, eps=1e-6)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        pos_embs_tgt: Tensor | None = None,
        pos_embs_src: Tensor | None = None,
        places: Tensor | None = None,
    ) -> tuple[Tensor, list[None], list[None]]:
        """Decode whole target sequences.

        Arguments
        ---------
        tgt, memory : Tensor
            Targets (batch, time, d_model), and output of the encoder (batch, memory time, d_model).
        tgt_mask, memory_mask, tgt_key_padding_mask, pos_embs_tgt, pos_embs_src
            Arguments of attention, accepted for the interface and ignored: the decoder is causal, so that no target
            sees the padding, which is at the end.
        memory_key_padding_mask : Tensor, optional
            Boolean (batch, memory time), True for the frames past each memory's length.
        places : Tensor, optional
            How many frames of the memory come before each target, integers (batch, targets); for ``interleaved``.

        Returns
        -------
        output : Tensor
            Output (batch, time, d_model).
        self_attns, multihead_attns : list
            None for each layer: attention weights are not kept.
        """
        lengths = None if memory_key_padding_mask is None else (~memory_key_padding_mask).sum(1)
        x = tgt
        for layer, state in zip(self.layers, self.consume(memory, lengths, places)):
            x = layer(x, state)
        nothing = [None] * len(self.layers)
        return self.norm(x), nothing, nothing

    def consume(
        self, memory: Tensor, lengths: Tensor | None = None, places: Tensor | None = None
    ) -> tuple[DecoderLayerState, ...]:
        """Compute the states of all layers before the first target, as :meth:`MambaDecoderLayer.consume` does for one;
        here values past the lengths may be anything."""
        lengths = None if lengths is None else lengths_on(lengths, memory.device)
        valid = mask_frames(memory, lengths)
        return tuple(layer.consume(valid, lengths, places) for layer in self.layers)

    def step(self, x_t: Tensor, state: Sequence[DecoderLayerState]) -> tuple[Tensor, tuple[DecoderLayerState, ...]]:
        """Run the decoder over one target, as :meth:`MambaDecoderLayer.step` does for one layer."""
        states = []
        for layer, layer_state in zip(self.layers, state):
            x_t, after = layer.step(x_t, layer_state)
            states.append(after)
        return self.norm(x_t), tuple(states)

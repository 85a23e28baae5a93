"""The layers of a codec language model: Transformer, Mamba or other mixers, which may also attend to the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from speechbrain.nnet.attention import PositionalwiseFeedForward
from torch import Tensor, nn

from speechbrain_mamba.nnet.attention import PrefixAttention, PrefixCrossAttention
from speechbrain_mamba.nnet.cross_mamba import CROSS_KINDS, INITS
from speechbrain_mamba.nnet.feed_forward import feed_forward
from speechbrain_mamba.nnet.fused_step import Network, residual_step
from speechbrain_mamba.nnet.kept import KeptForSteps
from speechbrain_mamba.nnet.mimetic import initialize_mimetically
from speechbrain_mamba.nnet.mixers import MixerPlan, plan_mixers
from speechbrain_mamba.nnet.text_blocks import HiddenTextAttention, TextBidirectional, mark_blocks
from speechbrain_mamba.utils._compat import has_forward_hooks

BACKBONES = ("transformer", "mamba", "hybrid")
_READ_BY_SOME = ("attention", "hidden_attention")
"""Ways of reading the text that one layer in ``attention_interval`` has."""
LayerState = dict[str, Any]
"""State of the layer's ``mixer``, and of its attention to the ``text`` or None."""


class AdaptiveLayerNorm(nn.Module):
    """Layer normalization with a scale and a shift for each stage: AdaLN of VALL-E (arXiv 2301.02111, section 4.2.2).

    The paper projects a learned embedding of the stage, which gives one scale and one shift per stage and channel.
    Here these are the parameters.

    Arguments
    ---------
    d_model, n_stages : int
        Channels, and number of stages; 0 for plain layer normalization.

    Example
    -------
    >>> norm = AdaptiveLayerNorm(8, n_stages=3)
    >>> norm(torch.randn(2, 10, 8), torch.tensor([0, 2])).shape
    torch.Size([2, 10, 8])
    """

    def __init__(self, d_model: int, n_stages: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, elementwise_affine=n_stages == 0)
        self.scale = nn.Parameter(torch.ones(n_stages, d_model)) if n_stages else None
        self.shift = nn.Parameter(torch.zeros(n_stages, d_model)) if n_stages else None

    @property
    def plain(self) -> nn.Module:
        """The normalization of a single frame, which has no stage."""
        return self.norm if self.scale is None and not has_forward_hooks(self) else self

    def forward(self, x: Tensor, stage: Tensor | None = None) -> Tensor:
        """Normalize (batch, time, d_model), or (batch, d_model), for the stages of its examples, integers (batch,)."""
        x = self.norm(x)
        if self.scale is None or self.shift is None:
            return x
        return x * self.scale[stage][:, None] + self.shift[stage][:, None]


class CodecLanguageLayer(nn.Module):
    """A pre-norm layer: a mixer, in hybrids attention to the text, and a feed-forward network.

    Arguments
    ---------
    mixer : torch.nn.Module
        :class:`~speechbrain_mamba.nnet.attention.PrefixAttention`, or a layer such as
        :class:`~speechbrain_mamba.nnet.mamba.Mamba`.
    text_attention : torch.nn.Module, optional
        :class:`~speechbrain_mamba.nnet.attention.PrefixCrossAttention` to the text, or
        :class:`~speechbrain_mamba.nnet.text_blocks.HiddenTextAttention`.
    d_model, d_ffn, dropout, n_stages
        As in :class:`CodecLanguageBackbone`.

    Example
    -------
    >>> from speechbrain_mamba.nnet.mamba import Mamba
    >>> layer = CodecLanguageLayer(Mamba(8), d_model=8, d_ffn=16)
    >>> layer(torch.randn(2, 10, 8), torch.tensor([10, 7]), torch.tensor([3, 4]), 4)[0].shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        mixer: nn.Module,
        d_model: int,
        d_ffn: int,
        text_attention: nn.Module | None = None,
        dropout: float = 0.0,
        n_stages: int = 0,
    ) -> None:
        super().__init__()
        self.mixer: Any = mixer  # its step is there in causal layers only
        self.text_attention: Any = text_attention
        self.ffn = PositionalwiseFeedForward(d_ffn, input_size=d_model, dropout=dropout, activation=nn.GELU)
        self.norm1, self.norm2 = AdaptiveLayerNorm(d_model, n_stages), AdaptiveLayerNorm(d_model, n_stages)
        self.norm_text: Any = AdaptiveLayerNorm(d_model, n_stages) if text_attention is not None else None
        self.dropout = nn.Dropout(dropout)
        self._kept = KeptForSteps()

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        prefix_lengths: Tensor,
        prefix_time: int,
        stage: Tensor | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, LayerState | None]:
        """Run the layer; ``prefix_time`` is the longest text, the other arguments are those of
        :meth:`CodecLanguageBackbone.forward`. Returns the output with a state or None."""
        self._kept.clear()
        state: LayerState = {"mixer": None, "text": None}

        def run(part: str, module: Any, x: Tensor, *arguments: Any) -> Tensor:
            if not return_state:  # bidirectional mixers have no such option
                return self.dropout(module(x, *arguments))
            y, state[part] = module(x, *arguments, return_state=True)
            return self.dropout(y)

        prefix = [prefix_lengths] if isinstance(self.mixer, (PrefixAttention, TextBidirectional)) else []
        x = x + run("mixer", self.mixer, self.norm1(x, stage), lengths, *prefix)
        if self.text_attention is not None:
            x = x + run("text", self.text_attention, self.norm_text(x, stage), prefix_lengths, prefix_time)
        x = x + self.dropout(feed_forward(self.ffn, self.norm2(x, stage)))
        return x, state if return_state else None

    def step(self, x_t: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Run the layer over one frame, (batch, d_model), from a state; returns the output and the state after it."""
        network, text = Network(self.norm2.plain, self.ffn.ffn), state["text"]
        if self.text_attention is None:
            x_t, mixer = residual_step(x_t, state["mixer"], self.norm1.plain, self.mixer, network, self._kept)
            return x_t, {"mixer": mixer, "text": text}
        x_t, mixer = residual_step(x_t, state["mixer"], self.norm1.plain, self.mixer)
        x_t, text = residual_step(x_t, text, self.norm_text.plain, self.text_attention, network, self._kept)
        return x_t, {"mixer": mixer, "text": text}


def default_mixer(backbone: str) -> str:
    """The mixer of a backbone, which also sets the size of others. Raises a ValueError for an unknown backbone."""
    if backbone not in BACKBONES:
        raise ValueError(f"backbone is '{backbone}', but must be one of {', '.join(BACKBONES)}.")
    return "attention" if backbone == "transformer" else "mamba"


def check_text_reading(backbone: str, cross: str | None, cross_config: Mapping[str, Any] | None) -> str:
    """Find out how speech reads the text, given arguments of :class:`CodecLanguageBackbone`. Raises a ValueError for
    choices that are unknown or contradict each other."""
    usual = "attention" if backbone == "hybrid" else "concat"
    cross = usual if cross is None else cross
    if cross not in CROSS_KINDS:
        raise ValueError(f"cross is {cross!r}, but must be one of {', '.join(CROSS_KINDS)}.")
    if cross == "interleaved":
        raise ValueError(
            "cross is 'interleaved', but codec tokens come without durations of their phonemes: set prompt_order to "
            "interleaved, which puts the text of each utterance right before its speech."
        )
    if backbone != "mamba" and cross != usual:
        raise ValueError(
            f"cross is '{cross}', but the backbone '{backbone}' attends to the text: use the backbone mamba."
        )
    init = (cross_config or {}).get("init", "default")
    others = [key for key in cross_config or {} if key != "init"]
    if init not in INITS:
        raise ValueError(f"init of cross is {init!r}, but must be one of {', '.join(INITS)}.")
    if init == "mimetic" and (cross == "attention" or backbone == "transformer"):
        raise ValueError("init of cross is 'mimetic', but attention has no states to initialize: leave it out.")
    if others and cross != "hidden_attention":
        raise ValueError(f"cross_config has {', '.join(others)}, which are for hidden_attention: leave them out.")
    return cross


def has_attention(
    backbone: str,
    mixer: str | None = None,
    attention_layers: Sequence[int] | str | None = None,
    cross: str | None = None,
    **_: Any,
) -> bool:
    """Whether some layer attends, given arguments of :class:`CodecLanguageBackbone`.

    Example
    -------
    >>> has_attention("mamba"), has_attention("hybrid"), has_attention("mamba", attention_layers="low")
    (False, True, True)
    """
    reads = backbone == "hybrid" or cross == "attention"
    return reads or (mixer or default_mixer(backbone)) == "attention" or bool(attention_layers)


class CodecLanguageBackbone(nn.Module):
    """A stack of layers over text followed by speech.

    Arguments
    ---------
    backbone : str
        ``transformer`` as in VALL-E (arXiv 2301.02111), ``mamba`` as in VALL-M (arXiv 2407.09732), or ``hybrid``: Mamba
        with attention to the text in some layers, since Mamba is weak at modeling text and speech jointly.
    num_layers, d_model, d_ffn, nhead : int
        Sizes; ``nhead`` is for layers that attend.
    causal, dropout : bool, float
        Whether speech sees no later speech, and the dropout rate.
    mamba_config : dict, optional
        Arguments of :class:`~speechbrain_mamba.nnet.mamba.Mamba`.
    attention_interval : int
        One layer in this many attends to the text, or reads it by hidden attention, the first of them at this depth.
    n_stages : int
        Stages of the normalizations; 0 for plain ones.
    mixer : str, optional
        ``mamba``, ``mamba2`` or ``attention`` in place of the backbone's own mixer, of the same size, see
        :func:`~speechbrain_mamba.nnet.mixers.plan_mixers`.
    attention_layers : list of int, str or None
        Layers whose mixer is replaced by attention, see :func:`~speechbrain_mamba.nnet.mixers.attention_layers`.
    attention_window : int, optional
        The frames of speech that these see, beside the text. All by default.
    bidirectional : str, optional
        The form of Mamba layers that are not causal, see :func:`~speechbrain_mamba.nnet.mixers.build_mixer`.
    mixer_config : dict, optional
        Options of each kind of mixers, such as ``{"mamba2": {"d_state": 128}}``. Attention has ``nhead`` heads unless
        it says otherwise, and no rotary positions: embeddings carry the positions.
    cross : str, optional
        How speech reads the text. ``concat``: only as what comes before it. ``attention``, the default of hybrids: by
        attention to it too. ``hidden_attention``:
        :class:`~speechbrain_mamba.nnet.text_blocks.HiddenTextAttention` in its place. ``prefix_bidirectional``: each
        Mamba layer of a causal stack but the last one, above which nothing reads the text, also runs backwards over it,
        see :class:`~speechbrain_mamba.nnet.text_blocks.TextBidirectional`; stacks that are not causal see it both ways
        anyway.
    cross_config : dict, optional
        ``init: mimetic`` for the state space layers that read the text, see
        :func:`~speechbrain_mamba.nnet.mimetic.initialize_mimetically`, and options of ``hidden_attention``.

    Raises
    ------
    ValueError
        For an unknown backbone or key of ``mamba_config``, an ``attention_interval`` or ``init`` that no layer would
        follow, and as in ``plan_mixers``.

    Example
    -------
    >>> net = CodecLanguageBackbone("hybrid", num_layers=2, d_model=8, d_ffn=16, nhead=2, attention_interval=2)
    >>> x, lengths, text_lengths = torch.randn(2, 10, 8), torch.tensor([10, 7]), torch.tensor([3, 4])
    >>> net(x, lengths, text_lengths).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        backbone: str,
        num_layers: int = 12,
        d_model: int = 1024,
        d_ffn: int = 4096,
        nhead: int = 16,
        causal: bool = True,
        dropout: float = 0.0,
        mamba_config: dict[str, Any] | None = None,
        attention_interval: int = 4,
        n_stages: int = 0,
        mixer: str | None = None,
        attention_layers: Sequence[int] | str | None = None,
        attention_window: int | None = None,
        bidirectional: str | None = None,
        mixer_config: Mapping[str, Mapping[str, Any]] | None = None,
        cross: str | None = None,
        cross_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        own = default_mixer(backbone)
        self.causal, self.cross = causal, check_text_reading(backbone, cross, cross_config)
        if attention_interval < 1 or (self.cross in _READ_BY_SOME and attention_interval > num_layers):
            raise ValueError(
                f"attention_interval is {attention_interval}, by which no layer of {num_layers} reads the text by "
                f"{self.cross}: set it to a number from 1 to {num_layers}."
            )
        if self.cross == "prefix_bidirectional" and num_layers < 2:
            raise ValueError(
                f"cross is 'prefix_bidirectional', whose speech hears of the text's future in the next layer, but "
                f"num_layers is {num_layers}: set it to 2 or more."
            )
        reading = dict(cross_config or {})
        mimetic = reading.pop("init", "default") == "mimetic"
        self.mixer_plan = plan_mixers(
            num_layers, d_model, causal, mixer=mixer or own, attention_layers=attention_layers,
            attention_window=attention_window, bidirectional=bidirectional, mamba_config=mamba_config,
            mixer_config=mixer_config, reference=own,
            attention={"nhead": nhead, "dropout": dropout, "rotary": False, "bias": True},
        )  # fmt: skip
        layers, started = [], 0
        for i in range(num_layers):
            layer_mixer = _build(self.mixer_plan, i)
            looks_back = self.cross == "prefix_bidirectional" and causal and i + 1 < num_layers
            if looks_back and not isinstance(layer_mixer, PrefixAttention):
                layer_mixer = TextBidirectional(layer_mixer, _build(self.mixer_plan, i))
            text_attention: nn.Module | None = None
            if (i + 1) % attention_interval == 0 and self.cross == "attention":
                text_attention = PrefixCrossAttention(d_model, nhead, dropout)
            elif (i + 1) % attention_interval == 0 and self.cross == "hidden_attention":
                text_attention = HiddenTextAttention(d_model, **reading)
            reader = text_attention if self.cross == "hidden_attention" else layer_mixer
            if mimetic and reader is not None and not isinstance(reader, PrefixAttention):
                initialize_mimetically(reader)
                started += 1
            layers.append(CodecLanguageLayer(layer_mixer, d_model, d_ffn, text_attention, dropout, n_stages))
        if mimetic and not started:
            raise ValueError(
                "init of cross is 'mimetic', but all mixers are attention, which has no states to initialize: leave it "
                "out, or let some layers be mamba or mamba2."
            )
        self.layers: Any = nn.ModuleList(layers)
        self.norm = AdaptiveLayerNorm(d_model, n_stages)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        prefix_lengths: Tensor,
        stage: Tensor | None = None,
        return_state: bool = False,
        text_time: int | None = None,
    ) -> Any:
        """Run the stack over whole sequences.

        Arguments
        ---------
        x : Tensor
            Text and then speech, without padding in between, (batch, time, d_model).
        lengths, prefix_lengths : Tensor
            Valid frames per example, and how many of them are text, at least 1, integers (batch,). With several texts
            in an example, the latter say what each frame belongs to, integers (batch, time), see
            :func:`~speechbrain_mamba.nnet.text_blocks.mark_blocks`.
        stage : Tensor, optional
            Stage of each example, integers (batch,).
        return_state : bool
            Whether to return the state after each example's last valid frame; for causal stacks.
        text_time : int, optional
            At least the frames of text in any example, all frames by default. Only a program that is exported needs it,
            which takes any lengths; elsewhere the lengths are looked at.

        Returns
        -------
        Tensor
            Output (batch, time, d_model); and with ``return_state`` the state, a tuple of one dict per layer.
        """
        states: list[LayerState] = []
        if torch.compiler.is_exporting():
            prefix_time = x.shape[1] if text_time is None else text_time
        else:
            prefix_time = int((prefix_lengths if prefix_lengths.dim() == 1 else (prefix_lengths > 0).sum(1)).max())
        if prefix_lengths.dim() == 1 and self.cross in ("hidden_attention", "prefix_bidirectional"):
            prefix_lengths = mark_blocks(prefix_lengths, lengths, x.shape[1])
        for layer in self.layers:
            x, state = layer(x, lengths, prefix_lengths, prefix_time, stage, return_state)
            states.append(state)
        x = self.norm(x, stage)
        return (x, tuple(states)) if return_state else x

    def step(self, x_t: Tensor, state: tuple[LayerState, ...]) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Run the stack over one frame of speech, (batch, d_model). Returns the output and the state after it, which
        reuses the buffers of the given one; discard that."""
        states = []
        for layer, before in zip(self.layers, state):
            x_t, after = layer.step(x_t, before)
            states.append(after)
        return self.norm(x_t), tuple(states)


def _build(plan: MixerPlan, layer: int) -> nn.Module:
    """The mixer of a layer: attention sees the text whole, as other mixers need not be told where it ends."""
    if plan.kinds[layer] != "attention":
        return plan.build(layer)
    options = dict(plan.options["attention"])
    if options.pop("rotary") or not options.pop("bias"):
        raise ValueError(
            "mixer_config has rotary or bias for attention, but in a codec language model it has biases and no rotary "
            "positions, as the embeddings carry the positions: leave them out."
        )
    return PrefixAttention(plan.d_model, causal=plan.causal, **options)

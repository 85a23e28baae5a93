"""The mixers of a stack, by name: Mamba, Mamba-2 or attention, in any mixture and of one size."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from speechbrain_mamba.nnet.chunked_mamba import ChunkedBiMamba, ChunkedBiMamba2
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from speechbrain_mamba.nnet.mamba2 import BiMamba2, Mamba2
from speechbrain_mamba.nnet.mamba_config import MAMBA_OPTIONS, mamba_options
from speechbrain_mamba.nnet.outer_bidirectional import OuterBidirectional
from speechbrain_mamba.nnet.self_attention import SelfAttention, usual_heads

MIXERS = ("mamba", "mamba2", "attention")
BIDIRECTIONAL = ("inner", "outer", "outer_concat")
TOLERANCE = 0.03
"""The largest relative difference of the parameters of two kinds of mixers whose widths were matched."""

OPTIONS = {
    "mamba": MAMBA_OPTIONS,
    "mamba2": (
        "d_state", "d_conv", "expand", "headdim", "ngroups", "A_init_range", "D_has_hdim", "rmsnorm",
        "norm_before_gate", "dt_min", "dt_max", "dt_init_floor", "dt_limit", "bias", "conv_bias", "chunk_size",
    ),
    "attention": ("nhead", "d_attention", "rotary", "dropout", "bias"),
}  # fmt: skip
"""What a ``mixer_config`` may say of each kind."""

_WIDTH = {"mamba": "expand", "mamba2": "expand", "attention": "d_attention"}
_SHARED = ("d_conv", "conv_bias", "bias", "dt_min", "dt_max", "dt_init_floor")
"""Options of Mamba layers that mean the same to Mamba-2."""


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Raise a ValueError unless a choice is known."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(known)}.")


def bidirectional_form(value: bool | str | None) -> str | None:
    """Read the key ``bidirectional`` of an hparams file.

    Arguments
    ---------
    value : bool, str or None
        ``inner``, ``outer`` or ``outer_concat``, see :func:`build_mixer`; True means ``inner``, and False none.

    Returns
    -------
    str or None
        The form of layers that see both ways, or None for layers that see the past only.

    Raises
    ------
    ValueError
        For anything else.

    Example
    -------
    >>> bidirectional_form(True), bidirectional_form("outer"), bidirectional_form(False)
    ('inner', 'outer', None)
    """
    if value is None or value is False:
        return None
    if value is True:
        return "inner"
    if value not in BIDIRECTIONAL:
        raise ValueError(f"bidirectional is {value!r}, but must be one of {', '.join(BIDIRECTIONAL)}, True or False.")
    return value


def attention_layers(spec: Sequence[int] | str | None, num_layers: int) -> tuple[int, ...]:
    """Find which layers of a stack attend.

    Arguments
    ---------
    spec : list of int, str or None
        Indices from 0; ``low``, ``high`` or ``spread``: a quarter of the layers, at least one, the first ones, the last
        ones, or some at equal distances, and ``low 3`` that many; ``every 4``: the fourth, the eighth and so on. None
        for no layer.
    num_layers : int
        Number of layers.

    Returns
    -------
    tuple of int
        The indices in order.

    Raises
    ------
    ValueError
        For anything else, or an index that the stack does not have.

    Example
    -------
    >>> [attention_layers(spec, 12) for spec in ("low", "high", "spread", "every 4", "spread 2", [7, 0])]
    [(0, 1, 2), (9, 10, 11), (2, 6, 10), (3, 7, 11), (3, 9), (0, 7)]
    """
    if spec is None:
        return ()
    if isinstance(spec, str):
        place, *number = spec.split() or [""]
        count = int(number[0]) if len(number) == 1 and number[0].isdecimal() else 0
        if place == "every" and count > 0:
            return tuple(range(count - 1, num_layers, count))
        if place in ("low", "high", "spread") and (not number or 0 < count <= num_layers):
            count = count or min(max(1, round(num_layers / 4)), num_layers)
            if place == "spread":
                return tuple((2 * i + 1) * num_layers // (2 * count) for i in range(count))
            return tuple(range(count) if place == "low" else range(num_layers - count, num_layers))
    elif isinstance(spec, Sequence) and all(isinstance(i, int) and 0 <= i < num_layers for i in spec):
        return tuple(sorted({int(i) for i in spec}))
    raise ValueError(
        f"attention_layers is {spec!r}, but must be indices from 0 to {num_layers - 1} such as [0, 2], or low, high, "
        f"spread, each also with a number up to {num_layers} such as 'low 2', or 'every 4'."
    )


def build_mixer(
    kind: str,
    d_model: int,
    causal: bool = True,
    *,
    bidirectional: str = "inner",
    chunked: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a layer that mixes frames.

    Arguments
    ---------
    kind : str
        ``mamba``, ``mamba2`` or ``attention``.
    d_model : int
        Channels of input and output.
    causal : bool
        Whether a frame sees no later ones. Then the layer has ``init_state``, ``step`` and ``forward`` with a state.
    bidirectional : str
        The form of a Mamba layer that is not causal: ``inner``, two scans between shared projections, or ``outer`` and
        ``outer_concat``, two whole layers whose outputs are added, or concatenated and projected.
    chunked : bool
        Whether a layer that is not causal also takes a ``chunk_size`` and a state.
    **options
        Arguments of :class:`~speechbrain_mamba.nnet.mamba.Mamba`, :class:`~speechbrain_mamba.nnet.mamba2.Mamba2` or
        :class:`~speechbrain_mamba.nnet.self_attention.SelfAttention`.

    Returns
    -------
    torch.nn.Module
        The layer.

    Raises
    ------
    ValueError
        For an unknown ``kind`` or ``bidirectional``.

    Example
    -------
    >>> mixer = build_mixer("mamba2", 16, headdim=8, d_state=8)
    >>> y, state = mixer(torch.randn(2, 10, 16), return_state=True)
    >>> mixer.step(torch.randn(2, 16), state)[0].shape
    torch.Size([2, 16])
    >>> type(build_mixer("mamba", 16, causal=False)).__name__
    'BiMamba'
    """
    check_choice("mixer", kind, MIXERS)
    check_choice("bidirectional", bidirectional, BIDIRECTIONAL)
    if kind == "attention":
        return SelfAttention(d_model, causal=causal, **options)
    one_way, both_ways, in_chunks = {
        "mamba": (Mamba, BiMamba, ChunkedBiMamba),
        "mamba2": (Mamba2, BiMamba2, ChunkedBiMamba2),
    }[kind]
    if causal:
        return one_way(d_model, **options)
    if bidirectional == "inner":
        return (in_chunks if chunked else both_ways)(d_model, **options)
    merge = "concat" if bidirectional == "outer_concat" else "add"
    masks_input = options.pop("masks_input", True)
    forward, reverse = (one_way(d_model, masks_input=False, **options) for _ in range(2))
    return OuterBidirectional(forward, reverse, d_model, merge, masks_input)


def count_parameters(build: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> int:
    """Count the parameters of a module without making it: it gets no memory, and no random number is drawn.

    Example
    -------
    >>> count_parameters(nn.Linear, 3, 2)
    8
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(*args, **kwargs).parameters())


@dataclass(frozen=True)
class MixerPlan:
    """Which mixers a stack has, and of which sizes; made by :func:`plan_mixers`."""

    d_model: int
    """Channels of input and output."""

    causal: bool
    """Whether a frame sees no later ones."""

    kinds: tuple[str, ...]
    """The kind of each layer's mixer."""

    options: Mapping[str, Mapping[str, Any]]
    """The arguments of each kind."""

    parameters: Mapping[str, int]
    """The number of parameters of a layer of each kind."""

    budget: int
    """The number of parameters that was to be met: that of a layer of the reference."""

    forms: Mapping[str, Any] = field(default_factory=dict)
    """``bidirectional`` and ``chunked`` of :func:`build_mixer`."""

    def build(self, layer: int, **common: Any) -> nn.Module:
        """Build the mixer of a layer, counted from 0, with arguments that all kinds take."""
        kind = self.kinds[layer]
        return build_mixer(kind, self.d_model, self.causal, **self.forms, **self.options[kind], **common)

    def describe(self) -> str:
        """Say in one line what the stack has, for the log of a training."""
        parts = []
        for kind in sorted(set(self.kinds), key=self.kinds.index):
            places = [i for i, other in enumerate(self.kinds) if other == kind]
            where = "" if len(places) == len(self.kinds) else f" (layers {', '.join(map(str, places))})"
            size = self.parameters[kind]
            parts.append(f"{len(places)} x {kind}{where} of {size:,} parameters, {size / self.budget - 1:+.1%}")
        return "; ".join(parts)


def plan_mixers(
    num_layers: int,
    d_model: int,
    causal: bool = True,
    *,
    mixer: str = "mamba",
    attention_layers: Sequence[int] | str | None = None,
    attention_window: int | None = None,
    bidirectional: str | None = None,
    mamba_config: Mapping[str, Any] | None = None,
    mixer_config: Mapping[str, Mapping[str, Any]] | None = None,
    attention: Mapping[str, Any] | None = None,
    reference: str = "mamba",
    chunked: bool = False,
) -> MixerPlan:
    """Decide on the mixers of a stack so that its size does not depend on their kind.

    A layer of the reference, Mamba with ``mamba_config``, sets the number of parameters. Mixers of other kinds and
    forms get the inner width (``expand`` of Mamba layers, ``d_attention`` of attention) with which they have as many,
    within 3 %, unless ``mixer_config`` gives that width.

    Arguments
    ---------
    num_layers, d_model : int
        Number of layers, and channels of input and output.
    causal : bool
        Whether a frame sees no later ones.
    mixer : str
        ``mamba``, ``mamba2`` or ``attention``.
    attention_layers : list of int, str or None
        Layers whose mixer is replaced by attention, see :func:`attention_layers`.
    attention_window : int, optional
        The frames that attention sees, see :class:`~speechbrain_mamba.nnet.self_attention.SelfAttention`.
    bidirectional : str, optional
        The form of Mamba layers that are not causal, see :func:`build_mixer`; ``inner`` by default.
    mamba_config : dict, optional
        Arguments of Mamba layers. Those that Mamba-2 also has go to it too, except for ``d_state`` and ``expand``.
    mixer_config : dict, optional
        For each kind a dict of its arguments, such as ``{"mamba2": {"d_state": 128}, "attention": {"nhead": 4}}``. By
        default Mamba-2 has 64 states, or fewer where these would leave too little of a small layer to its width, and
        heads of 64 channels, or of fewer where they would be too coarse to meet the size; attention has heads of about
        64 channels.
    attention : dict, optional
        Arguments of attention that ``mixer_config`` may replace, such as the ``nhead`` of a model.
    reference : str
        ``mamba``, or ``attention`` with ``d_model`` channels.
    chunked : bool
        As in :func:`build_mixer`.

    Returns
    -------
    MixerPlan
        The plan, which builds the layers.

    Raises
    ------
    ValueError
        For unknown choices or options, a window that nothing uses, or a ``mixer_config`` with which no width meets the
        size.

    Example
    -------
    >>> plan = plan_mixers(4, 64, mixer="mamba2", attention_layers="high", mamba_config={"d_state": 16})
    >>> plan.kinds
    ('mamba2', 'mamba2', 'mamba2', 'attention')
    >>> sizes = [sum(p.numel() for p in plan.build(i).parameters()) for i in range(4)]
    >>> all(abs(size / plan.budget - 1) < 0.03 for size in sizes)
    True
    """
    check_choice("mixer", mixer, MIXERS)
    form = "inner" if bidirectional is None else bidirectional
    check_choice("bidirectional", form, BIDIRECTIONAL)
    given = {kind: _options_of(kind, options) for kind, options in (mixer_config or {}).items()}
    attends = _find_attention_layers(attention_layers, num_layers)
    kinds = tuple("attention" if i in attends else mixer for i in range(num_layers))
    if attention_window is not None and "attention" not in kinds:
        raise ValueError(f"attention_window is {attention_window}, but no layer attends: set attention_layers.")
    mamba = mamba_options(mamba_config)
    if reference == "attention":
        budget = count_parameters(build_mixer, "attention", d_model, causal, **(attention or {}))
    else:
        budget = count_parameters(build_mixer, "mamba", d_model, causal, **mamba)
    starts: dict[str, dict[str, Any]] = {
        "mamba": mamba,
        "mamba2": {key: mamba[key] for key in _SHARED if key in mamba},
        "attention": dict(attention or {}),
    }
    options, parameters = {}, {}
    for kind in sorted(set(kinds)):
        own, forms = given.get(kind, {}), {} if kind == "attention" else {"bidirectional": form}
        chosen = starts[kind] | own
        is_reference = kind == reference and (causal or form == "inner" or kind == "attention")
        if not is_reference and _WIDTH[kind] not in own:
            chosen = _match(kind, d_model, causal, forms, chosen, budget)
        if kind == "attention" and attention_window is not None:
            chosen["window"] = attention_window
        options[kind] = chosen
        unchanged = is_reference and not own
        parameters[kind] = (
            budget if unchanged else count_parameters(build_mixer, kind, d_model, causal, **forms, **chosen)
        )
    return MixerPlan(d_model, causal, kinds, options, parameters, budget, {"bidirectional": form, "chunked": chunked})


def describe_mixers(model: nn.Module) -> list[str]:
    """Say which mixers the stacks of a model have, a line for all those that are alike.

    Example
    -------
    >>> from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
    >>> describe_mixers(nn.ModuleDict({"masknet": MambaBlocksSequential(2, True, 16)}))
    ['masknet: 2 x mamba of 5,184 parameters, +0.0%']
    """
    places: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        plan = getattr(module, "mixer_plan", None)
        if isinstance(plan, MixerPlan):
            places.setdefault(plan.describe(), []).append(name)
    more = {text: f" and {len(names) - 1} more" if len(names) > 1 else "" for text, names in places.items()}
    return [f"{names[0]}{more[text]}: {text}" for text, names in places.items()]


_find_attention_layers = attention_layers  # plan_mixers has an argument of this name


def _options_of(kind: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of a ``mixer_config`` for one kind, checked."""
    check_choice("A key of mixer_config", kind, MIXERS)
    for key in options or {}:
        if key not in OPTIONS[kind]:
            near = difflib.get_close_matches(str(key), OPTIONS[kind], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join(OPTIONS[kind])}."
            raise ValueError(f"mixer_config has '{key}' for {kind}, which has no such option: {hint}")
    return dict(options or {})


def _match(
    kind: str, d_model: int, causal: bool, forms: Mapping[str, str], options: dict[str, Any], budget: int
) -> dict[str, Any]:
    """Choose the inner width, and what is open of heads and states, with which a layer has ``budget`` parameters."""
    options = {key: value for key, value in options.items() if key != _WIDTH[kind]}
    if kind == "mamba2" and "d_state" not in options:
        # B and C leave little to the width of a narrow layer: half a channel per channel of d_model is the least
        for d_state in (size for size in (64, 32, 16, 8, 4) if size <= max(d_model, 4)):
            try:
                best = _match(kind, d_model, causal, forms, options | {"d_state": d_state}, budget)
            except ValueError:
                if d_state == 4:
                    raise
                continue
            if best["expand"] >= 0.5 or d_state == 4:
                return best
    heads: list[dict[str, Any]] = [{}]
    if kind == "mamba2" and "headdim" not in options:
        heads = [{"headdim": size} for size in (64, 32, 16, 8, 4, 2, 1)]
    elif kind == "attention" and "nhead" not in options:
        heads = [{"nhead": count} for count in range(usual_heads(d_model), 0, -1)]
    best, difference = {}, math.inf
    for head in heads:
        candidate = _with_width(kind, d_model, causal, forms, options | head, budget)
        size = count_parameters(build_mixer, kind, d_model, causal, **forms, **candidate)
        if abs(size - budget) < difference:
            best, difference = candidate, abs(size - budget)
        if difference <= TOLERANCE / 2 * budget:
            break
    nearest = count_parameters(build_mixer, kind, d_model, causal, **forms, **best)
    if nearest > budget and difference > TOLERANCE * budget:
        raise ValueError(
            f"A {kind} layer with {best} has {nearest:,} parameters, but {budget:,} are wanted, and no width comes "
            f"nearer: give {_WIDTH[kind]} in mixer_config for {kind} to choose the width yourself, or a smaller "
            f"{'nhead' if kind == 'attention' else 'd_state'}."
        )
    return best


def _with_width(
    kind: str, d_model: int, causal: bool, forms: Mapping[str, str], options: dict[str, Any], budget: int
) -> dict[str, Any]:
    """The options with the width that is nearest to ``budget``. Parameters grow linearly with the width."""
    unit = {
        "mamba": lambda: 1,
        "mamba2": lambda: options["headdim"] * options.get("ngroups", 1),
        "attention": lambda: options["nhead"] * (2 if options.get("rotary", True) else 1),
    }[kind]()

    def sized(units: int) -> dict[str, Any]:
        channels = units * unit
        return options | {_WIDTH[kind]: channels if kind == "attention" else _expand(channels, d_model)}

    one, two = (count_parameters(build_mixer, kind, d_model, causal, **forms, **sized(units)) for units in (1, 2))
    return sized(max(1, round(1 + (budget - one) / (two - one))))


def _expand(channels: int, d_model: int) -> float:
    """The ``expand`` of which a layer makes that many inner channels, whatever the rounding."""
    expand = channels / d_model
    return expand if int(expand * d_model) == channels else math.nextafter(expand, math.inf)

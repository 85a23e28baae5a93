"""What is compared: systems at published sizes, their baselines and hybrids, and single layers.

A comparison is a Mamba system against an attention baseline at one token duration. Priority 1 is measured first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

TASKS = ("separation", "asr", "tts", "layer")
PASSES = ("inference", "training step")


@dataclass(frozen=True)
class System:
    """A network to measure.

    Example
    -------
    >>> System("asr/conmamba_ctc", token_ms=40.0).label
    'conmamba_ctc'
    """

    source: str
    """A hyper-parameter file such as ``asr/conmamba_ctc``, or ``layer/KIND`` for a single layer."""

    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Values that replace those of the file; for a layer ``d_model`` and ``causal``."""

    parts: tuple[str, ...] = ()
    """The networks of the file to make; all by default."""

    form: str = "sdpa"
    """How attention is computed: see :mod:`crossings.attention_forms`."""

    token_ms: float = 0.0
    """Milliseconds per token, 0 for a layer, whose lengths are in tokens."""

    name: str = ""
    """What distinguishes it from others of the same file."""

    @property
    def task(self) -> str:
        """The folder of the file, or ``layer``."""
        return self.source.split("/")[0]

    @property
    def label(self) -> str:
        """Its name in tables, without the form of its attention."""
        return self.name or self.source.split("/")[1]

    @property
    def linear(self) -> bool:
        """Whether no layer attends, so that its cost has no square of the length.

        Example
        -------
        >>> System("asr/conmamba_ctc").linear, System("asr/conmamba_ctc", {"attention_layers": "low"}).linear
        (True, False)
        """
        name = self.source.split("/")[1]
        mamba = name.startswith(("mamba", "dpmamba", "conmamba", "vallm")) and "hybrid" not in name
        return mamba and not self.overrides.get("attention_layers") and self.overrides.get("mixer") != "attention"

    @property
    def key(self) -> tuple[str, str, float]:
        """What it is known by in the rows of measurements, with the digits of the table."""
        return self.label, self.form, float(f"{self.token_ms:.6g}")


@dataclass(frozen=True)
class Comparison:
    """A system against its baseline."""

    mamba: System
    baseline: System
    priority: int = 1

    @property
    def label(self) -> str:
        """Both names."""
        form = "" if self.baseline.form == "sdpa" else f", {self.baseline.form}"
        return f"{self.mamba.label} against {self.baseline.label}{form}"


def separation() -> Iterator[Comparison]:
    """Mamba-TasNet, DPMamba and hybrids against SepFormer, and against the same network with attention."""

    def system(source: str, kernel: int = 16, **options: Any) -> System:
        overrides = {"kernel_size": kernel, **options.pop("overrides", {})}
        return System(f"separation/{source}", overrides, token_ms=kernel / 16, **options)

    def attending(kernel: int = 16, form: str = "sdpa", size: str = "M") -> System:
        name = f"mambatasnet_{size}, all attention"
        return system(f"mambatasnet_{size}", kernel, overrides={"mixer": "attention"}, form=form, name=name)

    for form in ("explicit", "sdpa"):
        yield Comparison(system("mambatasnet_M"), system("sepformer", form=form))
        yield Comparison(system("dpmamba_M"), system("sepformer", form=form))
    for kernel in (16, 8, 32, 64):
        for form in ("sdpa", "explicit"):
            priority = 1 if kernel == 16 or form == "sdpa" else 2
            yield Comparison(system("mambatasnet_M", kernel), attending(kernel, form), priority)
    for count in (1, 4, 16):
        overrides = {"attention_layers": f"spread {count}"}
        hybrid = system("mambatasnet_M", overrides=overrides, name=f"mambatasnet_M, {count} of 32 attend")
        yield Comparison(hybrid, attending(), 2)
    for size in ("XS", "S", "L"):
        yield Comparison(system(f"mambatasnet_{size}"), system("sepformer", form="explicit"), 3)
        yield Comparison(system(f"mambatasnet_{size}"), attending(size=size), 3)
        yield Comparison(system(f"dpmamba_{size}"), system("sepformer", form="explicit"), 3)


FRONT_ENDS = {
    20.0: {"CNN.strides": [2, 1], "Transformer.input_size": 80 // 2 * 32},
    40.0: {},
    80.0: {"CNN.strides": [2, 4], "Transformer.input_size": 80 // 8 * 32},
}
"""What changes recognition's front end for a token duration in ms."""


def recognition() -> Iterator[Comparison]:
    """ConMamba encoders and hybrids against Conformer encoders."""
    encoder = {"num_decoder_layers": 0}, ("CNN", "Transformer", "ctc_lin")

    def system(source: str, token_ms: float = 40.0, **options: Any) -> System:
        overrides = options.pop("overrides", {})
        parts: tuple[str, ...] = ()
        if not source.endswith("ctc"):
            overrides, parts = {**encoder[0], **overrides}, encoder[1]
        overrides = {**FRONT_ENDS[token_ms], **overrides}
        return System(f"asr/{source}", overrides, parts, token_ms=token_ms, **options)

    for size in ("ctc", "small"):
        for form in ("explicit", "sdpa"):
            yield Comparison(system(f"conmamba_{size}"), system(f"conformer_{size}", form=form))
    for token_ms in (20.0, 80.0):
        for form in ("explicit", "sdpa"):
            mamba, baseline = (system(name, token_ms) for name in ("conmamba_ctc", "conformer_ctc"))
            baseline = system("conformer_ctc", token_ms, form=form)
            yield Comparison(mamba, baseline, 1 if form == "explicit" else 2)
    rotary = {"Transformer.attention_type": "RoPEMHA"}
    yield Comparison(system("conmamba_ctc"), system("conformer_ctc", overrides=rotary, name="conformer_ctc, rotary"), 2)
    attending = system("conmamba_ctc", overrides={"mixer": "attention"}, name="conmamba_ctc, all attention")
    yield Comparison(system("conmamba_ctc"), attending, 2)
    for count in (1, 3, 9):
        overrides = {"attention_layers": f"spread {count}"}
        hybrid = system("conmamba_ctc", overrides=overrides, name=f"conmamba_ctc, {count} of 18 attend")
        yield Comparison(hybrid, attending, 2)
    for form in ("explicit", "sdpa"):
        yield Comparison(system("conmamba_large"), system("conformer_large", form=form), 3)


def synthesis() -> Iterator[Comparison]:
    """VALL-M and hybrids against VALL-E, both language models."""

    def system(source: str, part: str, rate: float = 75.0, **options: Any) -> System:
        name = f"{options.pop('name', source)} {part.upper()}"
        return System(f"tts/{source}", parts=(part,), token_ms=1000 / rate, name=name, **options)

    for part in ("ar", "nar"):
        for form in ("explicit", "sdpa"):
            yield Comparison(system("vallm", part), system("valle", part, form=form))
    for rate in (50.0, 25.0):
        for form in ("explicit", "sdpa"):
            yield Comparison(
                system("vallm", "ar", rate), system("valle", "ar", rate, form=form), 1 if form == "explicit" else 2
            )
    yield Comparison(system("vallm_hybrid", "ar"), system("valle", "ar"), 2)
    for count in (1, 3, 6):
        overrides = {"attention_layers": f"spread {count}"}
        hybrid = system("vallm", "ar", overrides=overrides, name=f"vallm, {count} of 12 attend,")
        yield Comparison(hybrid, system("valle", "ar"), 2)


def layer() -> Iterator[Comparison]:
    """A single layer of Mamba against attention of the same number of parameters: experiment 1."""

    def single(kind: str, d_model: int, causal: bool, form: str = "sdpa") -> System:
        name = f"{kind}, {'causal' if causal else 'both ways'}, {d_model} channels"
        return System(f"layer/{kind}", {"d_model": d_model, "causal": causal}, form=form, name=name)

    for d_model in (256, 512, 128, 1024, 64):
        for form in ("sdpa", "explicit"):
            yield Comparison(single("mamba", d_model, False), single("attention", d_model, False, form))
    for d_model in (256, 1024):
        for form in ("sdpa", "explicit"):
            yield Comparison(single("mamba", d_model, True), single("attention", d_model, True, form), 2)
    for d_model in (256, 512):
        yield Comparison(single("mamba2", d_model, False), single("attention", d_model, False), 2)
        relative = single("relative attention", d_model, False, "explicit")
        yield Comparison(single("mamba", d_model, False), relative, 2)


COMPARISONS = dict(zip(TASKS, (separation, recognition, synthesis, layer)))
"""The comparisons of each task."""


def systems_of(comparisons: list[Comparison]) -> list[System]:
    """All systems of some comparisons, each once, those of the first ones first."""
    found = {system.key: system for c in comparisons for system in (c.mamba, c.baseline)}
    return list(found.values())

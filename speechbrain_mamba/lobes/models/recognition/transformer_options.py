"""The choices that a ``TransformerASR`` has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_options(
    options: dict[str, Any],
    decoder_module: str,
    mamba_config: Mapping[str, Any] | None,
    mixers: Mapping[str, Any] | None = None,
) -> None:
    """Raise a ValueError for an unknown choice or for choices that contradict each other. The options are arguments of
    SpeechBrain's ``TransformerASR`` by name, the others those of our class, ``mixers`` those about mixers by name."""
    encoder_module = options["encoder_module"]
    for name, value, known in (
        ("encoder_module", encoder_module, ("transformer", "conformer", "branchformer", "conmamba")),
        ("decoder_module", decoder_module, ("transformer", "mamba")),
        ("attention_type", options["attention_type"], ("regularMHA", "RelPosMHAXL", "hypermixing", "RoPEMHA")),
        ("positional_encoding", options["positional_encoding"], ("fixed_abs_sine", None)),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, known))}.")
    uses_mamba = encoder_module == "conmamba" or decoder_module == "mamba"
    if uses_mamba and not options["normalize_before"]:
        raise ValueError(
            "normalize_before is False, but ConMamba and the Mamba decoder normalize before: set it to True."
        )
    of_encoder, of_decoder = ("attention_layers", "bidirectional"), ("decoder_attention_layers",)
    for name, value in {"mamba_config": mamba_config or None, **(mixers or {})}.items():
        if value is None or (name, value) == ("mixer", "mamba"):  # which is what Mamba modules have in any case
            continue
        if not uses_mamba:
            raise ValueError(
                f"{name} is given, but encoder_module is '{encoder_module}' and decoder_module '{decoder_module}': set "
                f"encoder_module to conmamba or decoder_module to mamba, or leave {name} out."
            )
        if name in of_encoder and encoder_module != "conmamba":
            raise ValueError(f"{name} is given, but encoder_module is '{encoder_module}': set it to conmamba.")
        if name in of_decoder and decoder_module != "mamba":
            raise ValueError(f"{name} is given, but decoder_module is '{decoder_module}': set it to mamba.")


def check_cross(decoder_module: str, cross: str, cross_config: Mapping[str, Any] | None, places_by: Any) -> None:
    """Raise a ValueError unless the decoder can read its memory as the arguments of our ``TransformerASR`` say."""
    given = {"cross": cross != "concat", "cross_config": bool(cross_config), "places_by": places_by is not None}
    for name, differs in given.items():
        if differs and decoder_module != "mamba":
            raise ValueError(f"{name} is given, but decoder_module is '{decoder_module}': set it to mamba.")
    if cross == "interleaved" and places_by is None:
        raise ValueError(
            "cross is 'interleaved', which takes the places of the targets from CTC, but places_by is not given: set "
            "it to the layer of the CTC, by places_by: !ref <ctc_lin> in an hparams file."
        )
    if places_by is not None and not callable(places_by):
        raise ValueError(f"places_by is {places_by!r}, but must be a layer, such as !ref <ctc_lin> in an hparams file.")
    if cross != "interleaved" and places_by is not None:
        raise ValueError(f"places_by is given, but cross is '{cross}', which needs no places: leave it out.")

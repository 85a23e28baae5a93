"""The command export."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from speechbrain_mamba.cli.program import Command, program_name
from speechbrain_mamba.utils.terminal import show

FORMATS = {
    "speechbrain": "",
    "onnx": "speechbrain_mamba.inference.deployment:write_onnx",
    "torch": "speechbrain_mamba.inference.deployment:write_torch",
}
"""How a model is written: for the Hub, or by a function ``module:name`` of the model's folder and the new one, which
returns what is shown."""


@click.command(
    cls=Command,
    section="Share a model",
    short_help="Write a model into a folder to share, with a card.",
    examples=[
        ("export results/separation/mini_mambatasnet/1234 two-voices --license cc-by-4.0", "a trained separator"),
        ("export separator mine --safetensors-only", "a model that comes with the package"),
        ("export separator small --precision int8", "weights of 8-bit integers, for inference on a CPU"),
        ("export separator graphs --format onnx", "its computation, for onnxruntime"),
    ],
)
@click.argument("source", metavar="SOURCE")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--license", metavar="NAME", help="License of the weights as the Hub calls it, such as apache-2.0.")
@click.option("--language", metavar="CODE", help="Language that the model is for.  [default: en]")
@click.option("--repo", metavar="NAME/MODEL", help="Its id on the Hub, for the examples of the card.")
@click.option("--safetensors-only", is_flag=True, help="No .ckpt files, which only SpeechBrain's own classes need.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="int8: weights of 8-bit integers. The folder is smaller, and loses what int8 loses.",
)
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="speechbrain", show_default=True)
def command(
    source: str,
    out: Path,
    license: str | None,
    language: str | None,
    repo: str | None,
    safetensors_only: bool,
    precision: str,
    form: str,
) -> None:
    """Write a model into the folder OUT: settings, weights, what belongs to them, scores, and a card.

    SOURCE is the output folder of a training, an exported folder, or the name of a model that comes with the package.
    The model is loaded from OUT and run once before OUT appears. The formats onnx and torch write what it computes, for
    programs without this package, of models on the Hub too.
    """
    from speechbrain_mamba.inference.pretrained import find_source
    from speechbrain_mamba.inference.sharing import export_model, find_model

    if form != "speechbrain":
        of_cards = {"--license": license, "--language": language, "--repo": repo}
        if told := [name for name, value in of_cards.items() if value]:
            raise ValueError(f"The format {form} has no card: leave out {' and '.join(told)}.")
        if precision != "fp32":
            raise ValueError(f"The format {form} has weights of fp32: leave out --precision {precision}.")
        module, name = FORMATS[form].split(":")
        model = str(find_model(source)[1]) if Path(find_source(source)).is_dir() else source
        show(getattr(import_module(module), name)(model, out))
        return
    made = export_model(
        source, out, license=license, language=language, repository=repo, safetensors_only=safetensors_only,
        precision=precision,
    )  # fmt: skip
    size = sum(made.files.values()) / 1e6
    show(
        f"'{made.folder}' has a {made.kind} of {made.parameters:,} parameters, {len(made.files)} files, {size:.1f} MB."
    )
    show(f"Read its card, README.md, before you share it: {program_name()} push {made.folder} {repo or 'NAME/MODEL'}")

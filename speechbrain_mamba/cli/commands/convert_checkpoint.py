"""The command convert-checkpoint."""

from __future__ import annotations

import click

from speechbrain_mamba.cli.commands.hparams import read_options
from speechbrain_mamba.cli.locations import find_hparams
from speechbrain_mamba.cli.program import RawCommand
from speechbrain_mamba.utils.terminal import show


@click.command(
    cls=RawCommand,
    section="Share a model",
    options_metavar="SOURCE OUT TASK/NAME [--key value ...]",
    short_help="Turn published checkpoints into a run of this package.",
    epilog="--key value replaces a hyper-parameter, as in training: --tokenizer_folder FOLDER, --num_spks 3.",
    examples=[
        ("convert-checkpoint mamba-tasnet/S results/published/S separation/mambatasnet_S", "a separator"),
        (
            "convert-checkpoint conmamba_large/save results/published/L asr/conmamba_large --tokenizer_folder tokens",
            "a recognizer whose tokenizer is elsewhere",
        ),
    ],
)
def command(arguments: list[str]) -> None:
    """Turn checkpoints of the authors' recipes, or of other recipes of SpeechBrain, into a run of this package.

    SOURCE is a folder of checkpoints (save/CKPT+...), one checkpoint, or a folder with encoder.ckpt, masknet.ckpt and
    decoder.ckpt or with model.ckpt alone. TASK/NAME are the hyper-parameters of the model. OUT becomes an output folder
    that train --test_only tests, and OUT/inference a model to load. Each name and shape of the weights is checked.
    """
    count = next((place for place, argument in enumerate(arguments) if argument.startswith("--")), len(arguments))
    if count != 3:
        raise click.UsageError(
            "The arguments must be SOURCE, OUT and TASK/NAME, and then options.", click.get_current_context()
        )
    source, out, name = arguments[:3]
    path, options = find_hparams(name), read_options(arguments[3:])
    from speechbrain_mamba.inference.conversion import convert_checkpoint

    made = convert_checkpoint(source, out, path, options)
    average = f", the average of {made.averaged} checkpoints" if made.averaged > 1 else ""
    many = "" if made.checkpoints == 1 else "s"
    show(
        f"{made.checkpoints} checkpoint{many} with {made.tensors} tensors, {made.parameters:,} parameters: all names "
        f"and shapes are those of {path.stem}.\n\n"
        f"model to load: {made.folder / 'inference'}{average}\n"
        f"test it with:  train {path.parent.name} {path.stem} --output_folder {made.folder} --test_only "
        "--data_folder FOLDER"
    )

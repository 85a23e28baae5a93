"""A recipe from its command line to its results."""

from __future__ import annotations

import json
import logging
import shutil
import sys

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import run_on_main

from speechbrain_mamba.training.brain import TrainingBrain
from speechbrain_mamba.training.command_line import read_comments
from speechbrain_mamba.training.record import save_hparams
from speechbrain_mamba.training.requirements import check_requirements, named_packages, setting_packages
from speechbrain_mamba.utils.distributed import check_shared_folder
from speechbrain_mamba.utils.files import write_json
from speechbrain_mamba.utils.hparams import read_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory
from speechbrain_mamba.utils.terminal import show

logger = logging.getLogger(__name__)

FINISHED = "finished.json"
"""The file in the output folder of a run that is trained, tested and exported."""


def run_recipe(brain_class: type[TrainingBrain], arguments: list[str] | None = None) -> None:
    """Run a recipe: prepare, train, test, export, show. A run that is finished only shows its results.

    With ``data_prep_only`` it ends when the data are prepared, read and checked, and the tokenizer is trained: in one
    process, before several are started.

    Arguments
    ---------
    brain_class : type
        The recipe's Brain.
    arguments : list of str, optional
        The command line without the program's name; that of the process by default.

    Raises
    ------
    ModuleNotFoundError
        When a package is missing that the recipe needs, before anything else happens.
    """
    brain = start_run(brain_class, sys.argv[1:] if arguments is None else arguments)
    hparams = vars(brain.hparams)
    if is_finished(brain):
        logger.info("Trained and tested already: remove %s to start again.", brain.output_folder)
    else:
        run_on_main(_save_settings, args=[brain])  # not before: a finished run keeps the settings that made it
        only_prepare = hparams.get("data_prep_only", False)
        if not only_prepare:
            brain.set_up()
        if not hparams.get("skip_prep", False):
            run_on_main(brain.prepare_data, args=[hparams])
        datasets = brain.make_datasets(hparams)
        if only_prepare:
            logger.info("The data are prepared: the same command without data_prep_only trains.")
            return
        brain.fit_and_test(datasets)
        run_on_main(brain.export)
        if not brain.debug:
            run_on_main(write_json, args=[brain.output_folder / FINISHED, {"epochs": _last_epoch(brain)}])
    run_on_main(_show_results, args=[brain])


def start_run(brain_class: type[TrainingBrain], arguments: list[str]) -> TrainingBrain:
    """Read the command line and the hyper-parameters, get the output folder ready, and make the Brain.

    Arguments
    ---------
    brain_class : type
        The recipe's Brain.
    arguments : list of str
        The command line without the program's name.

    Returns
    -------
    TrainingBrain
        The Brain.
    """
    keep_freed_memory()
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    text = read_hparams(hparams_file, overrides)
    settings = {key: value for key, (value, _) in read_comments(text).items()}
    # SpeechBrain takes its own options for itself: those that the file has too are written down as they are
    own = [f"{key}: {run_opts[key]}" for key in sorted(run_opts.overridden_args) if key in settings]
    if own:
        text = read_hparams(hparams_file, "\n".join([*filter(None, [overrides]), *own]))
    needs = (*brain_class.needs, *brain_class.extra_needs(settings), *setting_packages(settings), *named_packages(text))
    check_requirements(needs)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hyperpyyaml(text)
    if "ckpt_interval_steps" in run_opts.overridden_args:  # SpeechBrain takes one of both
        hparams["ckpt_interval_minutes"] = 0
    check_shared_folder(hparams["output_folder"])
    sb.create_experiment_directory(hparams["output_folder"])
    brain = brain_class(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.text = text
    return brain


def is_finished(brain: TrainingBrain) -> bool:
    """Whether an earlier run with the same output folder has trained all epochs, tested and exported.

    Arguments
    ---------
    brain : TrainingBrain
        The Brain of this run. Runs that debug or only test are never finished.

    Returns
    -------
    bool
        Whether nothing is left to do.
    """
    path = brain.output_folder / FINISHED
    if brain.test_only or brain.debug or not path.is_file():
        return False
    tested = json.loads(path.read_text(encoding="utf-8"))["epochs"]
    return min(tested, _last_epoch(brain)) >= brain.hparams.number_of_epochs


def _last_epoch(brain: TrainingBrain) -> int:
    """The last epoch that was trained, 0 for none."""
    checkpoint = brain.checkpointer.find_checkpoint(max_key="epoch")
    return checkpoint.meta["epoch"] if checkpoint else 0


def _save_settings(brain: TrainingBrain) -> None:
    save_hparams(brain.output_folder, brain.text)
    shutil.copy(type(brain).compute_forward.__code__.co_filename, brain.output_folder)  # the recipe


def _show_results(brain: TrainingBrain) -> None:
    show(f"\n{brain.results()}\n")

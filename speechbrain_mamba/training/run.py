"""A recipe from its command line to its results."""

from __future__ import annotations

import logging
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml.comments import CommentedMap
from speechbrain.utils.distributed import if_main_process

from speechbrain_mamba.training.agreement import check_agreement
from speechbrain_mamba.training.brain import TrainingBrain
from speechbrain_mamba.training.command_line import read_comments
from speechbrain_mamba.training.patterns import quote_patterns
from speechbrain_mamba.training.record import Comparison, RunFolder
from speechbrain_mamba.training.requirements import check_requirements, named_packages, setting_packages
from speechbrain_mamba.training.stopping import Stop
from speechbrain_mamba.utils.distributed import check_shared_folder
from speechbrain_mamba.utils.files import remove_temporaries
from speechbrain_mamba.utils.hparams import read_hparams, select_hparams
from speechbrain_mamba.utils.locks import FolderLock
from speechbrain_mamba.utils.main_process import do_on_main
from speechbrain_mamba.utils.memory import settle_memory
from speechbrain_mamba.utils.terminal import show
from speechbrain_mamba.utils.yaml_text import look_at_yaml, parse_yaml, tag_of

logger = logging.getLogger(__name__)

CHANGES_OPTION = "resume_with_changes"


@dataclass
class Command:
    """A command line that was read."""

    text: str
    """The hyper-parameters in HyperPyYAML, references not resolved."""

    run_opts: Any
    """SpeechBrain's options."""

    given: frozenset[str]
    """The hyper-parameters that stand on the command line."""

    resume_with_changes: bool
    """Whether a run in the output folder goes on although other settings were asked for."""

    @property
    def run(self) -> RunFolder:
        """The output folder with its run."""
        there = look_at_yaml(self.text, "The hyper-parameters")
        keys = [key for key in ("output_folder", "save_folder") if key in there]
        folders = load_hyperpyyaml(select_hparams(self.text, keys))
        return RunFolder(folders["output_folder"], folders.get("save_folder", f"{folders['output_folder']}/save"))

    @property
    def debug(self) -> bool:
        """Whether nothing is to be left."""
        return bool(self.run_opts.debug)


def run_recipe(brain_class: type[TrainingBrain], arguments: list[str] | None = None) -> None:
    """Run a recipe: prepare, train, test, export, show. A run that is finished only shows its results.

    One process works in an output folder at a time. A run that is there goes on, unless the command asks for another
    model, other data or anything else that a run keeps; then nothing is written.

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
    FolderInUseError
        When another process works in the output folder.
    ValueError
        When the run in the output folder has other settings.
    SystemExit
        After SIGTERM or SIGINT, with a checkpoint if the run was training.
    """
    with Stop().listening() as stop:
        command = read_command(brain_class, sys.argv[1:] if arguments is None else arguments)
        sb.utils.distributed.ddp_init_group(command.run_opts)
        with locked(command.run.folder) as lock:
            comparison = do_on_main(compare_with_run, command, brain_class)
            finished = do_on_main(is_finished, command, comparison)
            brain = make_brain(brain_class, command, new_log=not finished)
            brain.stop, brain.lock = stop, lock
            if finished:
                do_on_main(_clean, command.run)
                _say_what_made_it(command, comparison)
            elif not _work(brain, command, comparison):
                return
            do_on_main(lambda: show(f"\n{brain.results()}\n"))


def read_command(brain_class: type[TrainingBrain], arguments: list[str]) -> Command:
    """Read a command line and its hyper-parameter file.

    Arguments
    ---------
    brain_class : type
        The recipe's Brain.
    arguments : list of str
        The command line without the program's name.

    Returns
    -------
    Command
        The settings.

    Raises
    ------
    ModuleNotFoundError
        When a package is missing that the recipe needs.
    ValueError
        When a setting is missing that has no default, settings do not agree, or the device is not there.
    """
    settle_memory()
    hparams_file, run_opts, options, changes = parse_arguments(arguments)
    text = read_hparams(hparams_file, options)
    settings = {key: value for key, (value, _) in read_comments(text).items()}
    # SpeechBrain takes its own options for itself: those that the file has too are written down as they are
    own = {key: run_opts[key] for key in sorted(run_opts.overridden_args) if key in settings}
    if own:
        text = read_hparams(hparams_file, {**options, **own})
    needs = (*brain_class.needs, *brain_class.extra_needs(settings), *setting_packages(settings), *named_packages(text))
    check_requirements(needs)
    settings_tree = look_at_yaml(text, "The hyper-parameters")
    missing = [key for key, value in settings_tree.items() if tag_of(value) == "!PLACEHOLDER"]
    if missing:
        options_to_give = " ".join(f"--{key} VALUE" for key in missing)
        raise ValueError(f"'{hparams_file}' has no value for {', '.join(missing)}: give {options_to_give}.")
    check_agreement(text)
    if str(run_opts.device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"The device is {run_opts.device}, but PyTorch sees no GPU: give --device cpu, or find out why with "
            "'python -m speechbrain_mamba doctor'."
        )
    given = frozenset(str(key).partition(".")[0] for key in (*options, *own))
    return Command(text, run_opts, given, changes)


def parse_arguments(arguments: list[str]) -> tuple[str, Any, CommentedMap, bool]:
    """Take a command line apart.

    Arguments
    ---------
    arguments : list of str
        The command line without the program's name.

    Returns
    -------
    str, RunOptions, CommentedMap, bool
        The hyper-parameter file, SpeechBrain's options, the hyper-parameters that stand on the command line, and
        whether a run goes on although other settings were asked for.

    Example
    -------
    >>> file, _, options, resume_with_changes = parse_arguments(["toy.yaml", "--lr", "0.1", "--resume_with_changes"])
    >>> file, dict(options), resume_with_changes
    ('toy.yaml', {'lr': 0.1}, True)
    """
    hparams_file, run_opts, overrides = sb.parse_arguments(quote_patterns(arguments))
    names = Counter(part[2:].partition("=")[0] for part in arguments if part.startswith("--"))
    twice = [f"--{name}" for name, count in names.items() if count > 1 and name not in run_opts.overridden_args]
    if twice:
        raise ValueError(f"Give {', '.join(twice)} once: it stands on the command line more often.")
    options = parse_yaml(overrides, "The text of the options") or CommentedMap()
    changes = CHANGES_OPTION in options and options.pop(CHANGES_OPTION) is not False
    return hparams_file, run_opts, options, changes


@contextmanager
def locked(folder: Path) -> Iterator[FolderLock | None]:
    """A context in which no other command works in a folder. The main process holds the lock for all."""
    lock = FolderLock(folder)
    do_on_main(lock.acquire)
    try:
        yield lock if if_main_process() else None
    finally:
        if if_main_process():
            lock.release()


def compare_with_run(command: Command, brain_class: type[TrainingBrain]) -> Comparison:
    """Compare a command with the run in its output folder.

    Arguments
    ---------
    command : Command
        The command.
    brain_class : type
        The recipe's Brain, which says what may change.

    Returns
    -------
    Comparison
        The differences.

    Raises
    ------
    ValueError
        When the run has other settings; the message lists them.
    FileNotFoundError
        When there is nothing to test.
    """
    run = command.run
    comparison = run.compare(command.text, brain_class.may_change, command.given)
    if comparison.refused and not command.resume_with_changes:
        differences = "; ".join(map(str, comparison.refused))
        raise ValueError(
            f"'{run.folder}' holds a run with other settings: {differences}. Choose another "
            f"--output_folder for a new run, or add --{CHANGES_OPTION} to go on with this one under the new settings."
        )
    if command.run_opts.test_only and not run.last_epoch() and not command.debug:
        raise FileNotFoundError(
            f"--test_only needs a checkpoint from the end of an epoch, but there is none in '{run.save_folder}': train "
            "first, by the same command without it."
        )
    return comparison


def is_finished(command: Command, comparison: Comparison) -> bool:
    """Whether an earlier run with the same output folder has trained all epochs, tested and exported.

    Arguments
    ---------
    command : Command
        The command. Those that debug or only test are never finished.
    comparison : Comparison
        Its differences from the run.

    Returns
    -------
    bool
        Whether nothing is left to do.
    """
    if command.run_opts.test_only or command.debug or comparison.refused:
        return False
    epochs = load_hyperpyyaml(select_hparams(command.text, ["number_of_epochs"]))["number_of_epochs"]
    return command.run.tested_epochs() >= max(1, epochs)


def make_brain(brain_class: type[TrainingBrain], command: Command, new_log: bool = True) -> TrainingBrain:
    """Get the output folder ready, load the hyper-parameters and make the Brain.

    Arguments
    ---------
    brain_class : type
        The recipe's Brain.
    command : Command
        The settings.
    new_log : bool
        Whether the environment is written down too.

    Returns
    -------
    TrainingBrain
        The Brain.
    """
    hparams, run_opts = load_hyperpyyaml(command.text), command.run_opts
    if "ckpt_interval_steps" in run_opts.overridden_args:  # SpeechBrain takes one of both
        hparams["ckpt_interval_minutes"] = 0
    check_shared_folder(hparams["output_folder"])
    sb.create_experiment_directory(hparams["output_folder"], save_env_desc=new_log)
    brain = brain_class(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.text = command.text
    return brain


def _work(brain: TrainingBrain, command: Command, comparison: Comparison) -> bool:
    """Prepare, train, test, export. Returns whether there are results, not only prepared data."""
    run, hparams = command.run, vars(brain.hparams)
    do_on_main(_begin, run, brain, command, comparison)
    only_prepare = hparams.get("data_prep_only", False)
    if not brain.test_only:
        brain.source = do_on_main(brain.find_source)
    if not only_prepare:
        brain.set_up()
        if not brain.test_only:
            brain.start_weights()
    if not hparams.get("skip_prep", False):
        do_on_main(_prepare, brain)
    datasets = brain.make_datasets(hparams)
    if only_prepare:
        logger.info("The data are prepared: the same command without data_prep_only trains.")
        return False
    if brain.test_only:
        do_on_main(_take_over, run, brain, comparison)
    else:  # when the checkpoint fits, not before
        brain.when_resumed = partial(do_on_main, _take_over, run, brain, comparison)
    brain.fit_and_test(datasets)
    do_on_main(_export, brain)
    if not brain.debug:
        do_on_main(run.finish)
    return True


def _prepare(brain: TrainingBrain) -> None:
    brain.prepare_data(vars(brain.hparams))


def _export(brain: TrainingBrain) -> None:
    brain.export()


def _clean(run: RunFolder) -> None:
    """Remove unfinished files of a killed run."""
    removed = remove_temporaries(run.folder)
    if removed:
        logger.info("Removed what a killed run left: %s.", ", ".join(map(str, removed)))


def _begin(run: RunFolder, brain: TrainingBrain, command: Command, comparison: Comparison) -> None:
    """Clean up after a killed run, and write the settings of a new one; those of an old one stay until it goes on."""
    _clean(run)
    new, unknown = comparison.refused + comparison.allowed, comparison.unknown
    for kind, differences in (("New settings in this run", new), ("Unknown to one of both versions", unknown)):
        if differences:
            logger.warning("%s: %s.", kind, "; ".join(map(str, differences)))
    if not run.has_run():
        _save_settings(run, brain)
    elif not run.last_epoch() and not brain.debug and not any(run.save_folder.glob("*CKPT*")):
        logger.warning("There is no checkpoint in '%s': training starts again at epoch 1.", run.save_folder)


def _take_over(run: RunFolder, brain: TrainingBrain, comparison: Comparison) -> None:
    """Write down new settings of a run right before it goes on under them, and that it is not finished."""
    if brain.debug:
        return
    run.begin()
    if run.has_run() and not brain.test_only:
        run.record_changes(comparison.refused + comparison.allowed)
        _save_settings(run, brain)


def _save_settings(run: RunFolder, brain: TrainingBrain) -> None:
    run.record_settings(brain.text)
    shutil.copy(type(brain).compute_forward.__code__.co_filename, run.folder)  # the recipe


def _say_what_made_it(command: Command, comparison: Comparison) -> None:
    folder = command.run.folder
    logger.info("Trained and tested already: remove %s to start again.", folder)
    if comparison.allowed:
        differences = "; ".join(map(str, comparison.allowed))
        logger.warning("The results in '%s' were made with other settings: %s.", folder, differences)

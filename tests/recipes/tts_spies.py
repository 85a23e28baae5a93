"""The recipes of synthesis, codecs and speaker encoders as modules, and what a training does, seen from outside."""

import importlib.util
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import speechbrain as sb
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from speechbrain_mamba.dataio.codec_tokens import TokenFacts, write_tokens
from speechbrain_mamba.lobes.models.synthesis import AutoregressiveCodecLM, NonAutoregressiveCodecLM
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.training.brain import TrainingBrain
from tests.conftest import HPARAMS

RECIPES = HPARAMS.parent / "recipes"
MODELS = {"ar": AutoregressiveCodecLM, "nar": NonAutoregressiveCodecLM}
FACTS = TokenFacts("made up", sample_rate=8000, frame_rate=50.0, n_codebooks=4, codebook_size=16)
SPEAKERS = "aaabbc"
"""Of utterance 0, 1, ...: three speakers who say unlike much, each at least two in six utterances or more."""


def load_script(name: str):
    """A script of a recipe as a module; its name is ``TASK/SCRIPT``."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _text(value) -> list[str]:
    return [json.dumps(value) if isinstance(value, list) else str(value)]


def run_script(name: str, hparams: str, options: dict, prepare=lambda module, patch: None) -> dict[str, dict]:
    """Run a training script of the recipe with options in this process, quickly: pictures are not drawn.

    Arguments
    ---------
    name, hparams, options
        The script, the hyper-parameter file and what is replaced in it; None for options of SpeechBrain without a
        value.
    prepare : callable
        Given the script as a module and a MonkeyPatch for the time of the run.

    Returns
    -------
    dict of str to dict
        What the pictures would have shown: the columns of each panel, by the stem of the file.
    """
    pictures = {}

    def note(figure, path, **options):
        Path(path).write_bytes(b"")
        pictures[Path(path).name.lstrip(".").split(".")[0]] = {
            axis.get_ylabel(): {line.get_label(): list(line.get_ydata()) for line in axis.lines} for axis in figure.axes
        }

    command = [f"{name}.py", str(HPARAMS / f"{hparams}.yaml")]
    for key, value in options.items():
        command += [f"--{key}"] if value is None else [f"--{key}", *_text(value)]
    with pytest.MonkeyPatch.context() as patch:
        # SpeechBrain's handlers would outlive the streams that pytest lends a test
        patch.setattr("logging.config.dictConfig", lambda config: None)
        patch.setattr("sys.excepthook", lambda *_: None)
        patch.setattr("sys.argv", command)
        patch.setattr("speechbrain.utils.logger.get_environment_description", str)  # it is slow
        patch.setattr("matplotlib.figure.Figure.savefig", note)
        module = load_script(name)
        prepare(module, patch)
        module.main()
    return pictures


def make_trainer(name: str, hparams: str, defaults: dict):
    """A function that runs a training script with options, and returns its output folder.

    Arguments
    ---------
    name, hparams
        The script and the hyper-parameter file, as for :func:`run_script`.
    defaults : dict
        Options of each run unless it is given others, with ``output_folder``.
    """

    def train(prepare=lambda module, patch: None, **options):
        options = {**defaults, **options}
        run_script(name, hparams, options, prepare)
        return options["output_folder"]

    return train


class Killed(Exception):
    """Raised in place of a kill."""


def kill_at(epoch: int, step: int | None):
    """Prepare a run that is killed in a batch, or with None in the validation after it; for :func:`run_script`."""

    def prepare(module, patch):
        fit_batch, on_stage_start = TrainingBrain.fit_batch, module_brain(module).on_stage_start

        def fit(brain, batch):
            if (brain.epoch, brain.step) == (epoch, step):
                raise Killed
            return fit_batch(brain, batch)

        def start(brain, stage, epoch_of_stage=None):
            if (stage, epoch_of_stage, step) == (sb.Stage.VALID, epoch, None):
                raise Killed
            return on_stage_start(brain, stage, epoch_of_stage)

        patch.setattr(TrainingBrain, "fit_batch", fit)
        patch.setattr(module_brain(module), "on_stage_start", start)

    return prepare


def module_brain(module) -> type[TrainingBrain]:
    """The Brain that a script defines."""
    brains = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, TrainingBrain)]
    return next(brain for brain in brains if brain is not TrainingBrain)


def assert_resumed(train, folder: Path, weights, **options) -> None:
    """Check that a run that is killed in each epoch and in a validation, stopped at the end of the first epoch, and
    resumed each time, equals one that is not.

    Arguments
    ---------
    train : callable
        Runs the recipe with options.
    folder : Path
        A folder for the runs.
    weights : callable
        From an output folder to the weights that are left there, by name.
    **options
        Options of the run.
    """
    options |= {"ckpt_interval_steps": 2, "number_of_epochs": 2, "n_total_steps": 10}
    whole = train(output_folder=folder / "whole", **options)
    options |= {"output_folder": folder / "broken"}
    for place, kill in enumerate([kill_at(1, 2), None, kill_at(2, 4), kill_at(2, None)]):
        torch.manual_seed(7 + place)
        if kill is None:
            train(**options | {"number_of_epochs": 1})
        else:
            with pytest.raises(Killed):
                train(kill, **options)
    broken = train(**options)
    expected, tables = weights(whole), [(run / "training.csv").read_text().splitlines() for run in (whole, broken)]
    assert expected and all(torch.equal(value, expected[name]) for name, value in weights(broken).items())
    rows = [[line.rpartition(",")[0] for line in table] for table in tables]  # all but the seconds
    assert rows[0] == rows[1] and len(rows[0]) == 3


def note_loaders(patch) -> list[tuple]:
    """Note the stage and the number of workers of the data loaders that are made; they get no workers."""
    noted, make = [], sb.Brain.make_dataloader

    def note(brain, dataset, stage, ckpt_prefix="dataloader-", **options):
        noted.append((stage, options.pop("num_workers", 0)))
        return make(brain, dataset, stage, ckpt_prefix, **options)

    patch.setattr(sb.Brain, "make_dataloader", note)
    return noted


def make_speech(folder: Path, counts: dict[str, int]) -> dict[str, dict]:
    """Tokens of utterances that all differ in phonemes and codes, of 3 to 14 frames; returned by id."""
    rng, everything, used = np.random.default_rng(0), {}, set()
    TextTokenizer(list("abcdefghij"), "characters").save(folder / "text.json")
    for split, count in counts.items():
        utterances = []
        while len(utterances) < count:
            phonemes = tuple(rng.integers(10, size=rng.integers(3, 7)).tolist())
            if phonemes in used:
                continue
            used.add(phonemes)
            index = len(utterances)
            frames = 3 + 11 * index // (count - 1)
            name = f"{split}{index}"
            utterance = {"ID": name, "spk_id": SPEAKERS[index % len(SPEAKERS)], "wrd": "", "wav": f"{name}.wav"}
            codes = rng.integers(FACTS.codebook_size, size=(frames, FACTS.n_codebooks))
            utterances.append(utterance | {"phonemes": phonemes, "codes": codes})
        write_tokens(folder, split, utterances, FACTS)
        everything |= {utterance["ID"]: utterance for utterance in utterances}
    return everything


def make_predictable_speech(folder: Path) -> Path:
    """Tokens of speech that says each phoneme for three frames, by codes that follow from it; returns the folder."""
    rng = np.random.default_rng(0)
    facts = TokenFacts("made up", sample_rate=8000, frame_rate=50.0, n_codebooks=3, codebook_size=16)
    TextTokenizer(list("abcdefghij"), "characters").save(folder / "text.json")
    for split, count in {"train": 40, "valid": 6, "test": 6}.items():
        utterances = []
        for i in range(count):
            phonemes = rng.integers(10, size=rng.integers(2, 6))
            codes = np.stack([phonemes, phonemes + 3, 15 - phonemes], 1).repeat(3, 0)
            utterance = {"ID": f"{split}{i}", "spk_id": "ab"[i % 2], "wrd": "", "wav": f"{split}{i}.wav"}
            utterances.append(utterance | {"phonemes": phonemes, "codes": codes})
        write_tokens(folder, split, utterances, facts)
    return folder


@dataclass
class Example:
    """One example that was given to a model: which utterance, behind which other one, and with what."""

    name: str
    behind: str | None
    inputs: dict
    logits: torch.Tensor

    @property
    def codes(self) -> torch.Tensor:
        """The codes that a model was given, of prompt and speech."""
        return torch.cat([self.inputs["prompt_codes"], self.inputs["codes"]])


@dataclass
class Pass:
    """A batch that was given to a model."""

    part: str
    stage: str
    epoch: int
    examples: list[Example]
    weight: float

    @property
    def names(self) -> list[str]:
        """The utterances."""
        return [example.name for example in self.examples]


@dataclass
class Step:
    """A step of the optimizer."""

    lr: float
    norm: float
    parts: set[str]


class Watch:
    """While it is entered, notes what the models are given, and the steps of optimizers.

    Arguments
    ---------
    utterances : dict of str to dict
        All that can come, by id.
    force : callable, optional
        From part and epoch to how wrong a model's prediction out of training is made: all on token 0 with such a logit.
    """

    def __init__(self, utterances: dict[str, dict], force=None):
        self.utterances, self.force = utterances, force
        self._names = {tuple(item["phonemes"]): name for name, item in utterances.items()}
        self.passes: list[Pass] = []
        self.steps: list[Step] = []
        self._modules: dict[str, torch.nn.Module] = {}
        self._epoch = 0

    def __enter__(self):
        self._patch = pytest.MonkeyPatch()
        for part, model in MODELS.items():
            self._patch.setattr(model, "forward", self._watched(part, model.forward))
        self._handle = register_optimizer_step_pre_hook(lambda optimizer, *_: self._note_step(optimizer))
        return self

    def __exit__(self, *_):
        self._patch.undo()
        self._handle.remove()

    def _watched(self, part, forward):
        def call(module, *arguments, **options):
            logits = forward(module, *arguments, **options)
            inputs = inspect.signature(forward).bind(module, *arguments, **options).arguments
            if not module.training and self.force is not None:
                for one in logits if part == "ar" else [logits]:
                    one.zero_()[..., 0] = self.force(part, self._epoch)
            self._note_pass(part, module, inputs, logits)
            return logits

        return call

    def _note_pass(self, part, module, inputs, logits):
        self._modules[part] = module
        examples, (prompt, speech) = [], (inputs["prompt"], inputs["speech"])
        columns = {"prompt_phonemes": prompt.phonemes, "prompt_codes": prompt.codes}
        columns |= {"phonemes": speech.phonemes, "codes": speech.codes}
        for index in range(len(speech.phonemes.values)):
            own = {key: values[index, : lengths[index]] for key, (values, lengths) in columns.items()}
            if part == "ar":  # those of the prompt count too
                rows = [logits[0][index, : len(own["prompt_codes"])], logits[1][index]]
            else:
                own["stage"], rows = inputs["stage"][index], [logits[index]]
            behind = tuple(own["prompt_phonemes"].tolist())
            behind, name = (behind and self._names[behind]) or None, self._names[tuple(own["phonemes"].tolist())]
            examples.append(Example(name, behind, own, torch.cat(rows).detach().float()))
        stage = examples[0].name.rstrip("0123456789")
        if module.training and (not self.passes or self.passes[-1].stage != "train"):
            self._epoch += 1
        assert module.training == (stage == "train")
        weight = sum(float(parameter.detach().double().abs().sum()) for parameter in module.parameters())
        self.passes.append(Pass(part, stage, self._epoch, examples, weight))

    def _note_step(self, optimizer):
        (group,) = optimizer.param_groups
        grads = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        norm = float(torch.stack([grad.double().norm() for grad in grads]).norm())
        parts = {
            part
            for part, module in self._modules.items()
            if any(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())
        }
        self.steps.append(Step(group["lr"], norm, parts))

    def of(self, part: str, stage: str, epoch: int | None = None) -> list[Pass]:
        """The batches of a model in a stage, of one epoch or of all."""
        return [p for p in self.passes if (p.part, p.stage) == (part, stage) and epoch in (None, p.epoch)]

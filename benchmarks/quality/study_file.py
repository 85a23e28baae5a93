"""The file of a study: which systems are trained on which data, with how many trials and seeds, what is measured."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

import tune
from speechbrain_mamba.utils.yaml_text import parse_yaml

ROOT = Path(__file__).parents[2]
_PLACE = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Measure:
    """What is measured of each test item: a score, whose mean counts, or errors out of a number of tokens."""

    name: str
    """The column of the items; the name of the rate if errors are counted."""

    label: str
    """As in tables, with its unit."""

    better: str
    """``higher`` or ``lower``."""

    errors: str = ""
    """For a rate the column of the errors of an item."""

    out_of: str = ""
    """For a rate the column of the tokens of an item."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the items that it is made of."""
        return (self.errors, self.out_of) if self.errors else (self.name,)


@dataclass(frozen=True)
class System:
    """One of the systems that are compared."""

    name: str
    hparams: Path
    options: Mapping[str, Any]
    label: str
    against: str = ""
    """The system that it is compared with, if not with the study's baseline."""

    token_ms: float = 0.0
    """Milliseconds of a token where the hyper-parameters do not say, as in synthesis; 0 elsewhere."""


@dataclass(frozen=True)
class Tuning:
    """How the systems are tuned: trials of each, the epochs of a trial, and what is drawn."""

    trials: int = 0
    epochs: int = 1
    space: tuple[str, ...] = ()


@dataclass(frozen=True)
class People:
    """Whose voices the test items have, since those of one person are alike."""

    pattern: str = ""
    """A regular expression: what it finds in the name of an item are its speakers."""

    tables: tuple[str, ...] = ()
    """CSV files of the test with the columns ID and ``column``."""

    column: str = "spk_id"


@dataclass(frozen=True)
class Study:
    """A study as its file says it; see ``benchmarks/studies/README.md``."""

    name: str
    title: str
    question: str
    task: str
    systems: tuple[System, ...]
    baseline: str
    epochs: int
    measures: tuple[Measure, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    repeated_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by name, with each of which every seed is trained: two codecs, say."""

    tuning: Tuning = Tuning()
    recipe: Path = Path()
    items: str = ""
    prepare: tuple[str, ...] = ()
    shared_data: Mapping[str, Any] | None = None
    equal_time: bool = True
    sizes_within: float = 0.03
    length: str = "length"
    length_edges: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    people: People | None = None
    folders: Mapping[str, str] = field(default_factory=dict)

    @property
    def repeats(self) -> tuple[tuple[int, str], ...]:
        """What every system is trained with once: a seed, and the name of the options that it is repeated with, "" if
        there are none. All names of a seed before the next seed."""
        return tuple((seed, name) for seed in self.seeds for name in self.repeated_with or ("",))

    def against(self, name: str) -> str:
        """The name of the system that a system is compared with, its own for the one that all are compared with."""
        return self.system(name).against or self.baseline

    def system(self, name: str) -> System:
        """A system by its name."""
        return next(system for system in self.systems if system.name == name)


_KEYS = {
    "title", "question", "task", "recipe", "items", "folders", "prepare", "shared_data", "options", "systems",
    "baseline", "tuning", "seeds", "repeated_with", "epochs", "equal_time", "sizes_within", "measures", "length",
    "length_edges", "notes", "people",
}  # fmt: skip
_REQUIRED = {"title", "question", "task", "systems", "baseline", "epochs", "measures"}


def find_study(name: str) -> Path:
    """The file of a study: a path, or the name of one in ``benchmarks/studies``.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    folder = ROOT / "benchmarks" / "studies"
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise FileNotFoundError(f"There is no study '{name}': give a file, or one of {known}.")


def read_study(path: Path, out: Path, folders: Mapping[str, str] | None = None) -> Study:
    """Read the file of a study.

    Arguments
    ---------
    path : Path
        The file.
    out : Path
        The folder of its results, which stands for ``{out}`` in the file.
    folders : mapping, optional
        Where the data folders are that the file names, instead of where it says.

    Returns
    -------
    Study
        The study.

    Raises
    ------
    ValueError
        When the file is not a study; the message says what is wrong.
    FileNotFoundError
        When it names a hyper-parameter file that is not there.
    """
    text = path.read_text(encoding="utf-8")
    named = dict((parse_yaml(text, str(path)) or {}).get("folders", {}))
    unknown = set(folders or {}) - set(named)
    if unknown:
        raise ValueError(f"{path} has no folder {', '.join(sorted(unknown))}: its folders are {', '.join(named)}.")
    # a command names folders from where it is given, a study from the top of the checkout, where recipes run
    named |= {name: str(Path(folder).absolute()) for name, folder in (folders or {}).items()}
    places = {**named, "out": str(out.absolute())}
    tree = parse_yaml(_PLACE.sub(lambda match: places.get(match[1], match[0]), text), str(path))
    if not isinstance(tree, CommentedMap):
        raise ValueError(f"{path} is not a mapping of settings.")
    wrong, missing = set(tree) - _KEYS, _REQUIRED - set(tree)
    if wrong or missing:
        what = [f"does not know {', '.join(sorted(wrong))}"] * bool(wrong)
        what += [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        raise ValueError(f"{path} {' and '.join(what)}: a study has the keys {', '.join(sorted(_KEYS))}.")
    task = tree["task"]
    systems = tuple(
        _read_system(name, part or {}, task, tree.get("options") or {}) for name, part in tree["systems"].items()
    )
    for name in (tree["baseline"], *(system.against for system in systems)):
        if name and name not in tree["systems"]:
            raise ValueError(f"{path} has the baseline {name}, but must name one of its systems.")
    recipe = ROOT / tree.get("recipe", f"recipes/{task}/train.py")
    if not recipe.is_file():
        raise FileNotFoundError(f"{path} needs the recipe {recipe}, which is not there.")
    repeated_with = tree.get("repeated_with") or {}
    if not all(isinstance(options, Mapping) and options for options in repeated_with.values()):
        raise ValueError(f"{path} has repeated_with without options: give NAME: {{KEY: VALUE}} for each.")
    tuning = Tuning(**{**tree.get("tuning", {}), "space": tuple(tree.get("tuning", {}).get("space", ()))})
    for part in tuning.space:
        try:
            tune.Range.parse(part)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{path}: {error}") from None
    people = tree.get("people")
    if people is not None and (
        set(people) - {"pattern", "tables", "column"} or bool(people.get("pattern")) == bool(people.get("tables"))
    ):
        raise ValueError(
            f"{path} has people with {', '.join(people)}, but must have a pattern, or tables and a column."
        )
    return Study(
        name=path.stem, title=tree["title"], question=tree["question"], task=task, systems=systems,
        baseline=tree["baseline"], epochs=int(tree["epochs"]),
        measures=tuple(Measure(**part) for part in tree["measures"]), seeds=tuple(tree.get("seeds", (1, 2, 3))),
        repeated_with=repeated_with, tuning=tuning, recipe=recipe,
        items=tree.get("items", task), prepare=tuple(tree.get("prepare", ())),
        shared_data=tree.get("shared_data"), equal_time=tree.get("equal_time", True),
        sizes_within=float(tree.get("sizes_within", 0.03)), length=tree.get("length", "length"),
        length_edges=tuple(tree.get("length_edges", ())), notes=tuple(tree.get("notes", ())),
        people=None if people is None else People(**{**people, "tables": tuple(people.get("tables", ()))}),
        folders=named,
    )  # fmt: skip


def _read_system(name: str, part: Mapping[str, Any], task: str, common: Mapping[str, Any]) -> System:
    wrong = set(part) - {"hparams", "options", "label", "against", "token_ms"}
    if wrong or "hparams" not in part:
        raise ValueError(
            f"The system {name} has the keys {', '.join(part)}, but must have hparams, and may have options, label, "
            "against and token_ms."
        )
    hparams = ROOT / "hparams" / task / f"{part['hparams']}.yaml"
    if not hparams.is_file():
        raise FileNotFoundError(f"The system {name} needs {hparams}, which is not there.")
    options = {**common, **(part.get("options") or {})}
    return System(
        name, hparams, options, part.get("label", name), part.get("against", ""), float(part.get("token_ms", 0))
    )

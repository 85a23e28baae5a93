"""The small trained models that come with the package.

Each is a folder of ``bundled_models/`` beside this file, with what ``from_hparams`` loads, the scores of its test, and
a ``README.md``: its card, whose front matter says what this module tells. ``recipes/bundled`` makes them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

FOLDER = Path(__file__).parent / "bundled_models"
CARD = "README.md"
SCORES = "scores.csv"
"""What the figures of a card are the means of: a row per example of its test."""

FIELDS = ("summary", "limits", "sample_rate", "license", "figures")


@dataclass(frozen=True)
class BundledModel:
    """A model of the package.

    Arguments
    ---------
    name : str
        Its name, which every ``from_hparams`` of the package takes for a source.
    folder : Path
        Its folder.
    summary : str
        What it does, in a sentence.
    limits : str
        What it cannot do, in a sentence for those who use it.
    sample_rate : int
        Samples per second of its audio.
    license : str
        The license of the weights, as the Hub calls it.
    figures : mapping of str to float
        What was measured, by name and unit, such as ``SI-SNRi, dB``.
    """

    name: str
    folder: Path
    summary: str
    limits: str
    sample_rate: int
    license: str
    figures: Mapping[str, float]

    @property
    def card(self) -> Path:
        """The file that tells all about it."""
        return self.folder / CARD


def read_front_matter(card: Path) -> dict[str, Any]:
    """Read the YAML at the top of a card, between two lines ``---``.

    Raises
    ------
    ValueError
        When there is none, it is not valid, or lacks one of ``FIELDS``.

    Example
    -------
    >>> card = getfixture("tmp_path") / "README.md"
    >>> _ = card.write_text("---\\nsummary: Separates\\n---\\n# A model\\n")
    >>> read_front_matter(card)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: The front matter of '...README.md' lacks limits, sample_rate, license, figures.
    """
    opening, *parts = card.read_text(encoding="utf-8").split("---\n", 2)
    if opening or len(parts) != 2:
        raise ValueError(f"'{card}' has no front matter: YAML between two lines '---' at its top.")
    try:
        content = YAML(typ="safe", pure=True).load(parts[0])
    except YAMLError as error:
        raise ValueError(f"The front matter of '{card}' is not valid YAML: {error}") from error
    missing = [field for field in FIELDS if not isinstance(content, Mapping) or field not in content]
    if missing:
        raise ValueError(f"The front matter of '{card}' lacks {', '.join(missing)}.")
    return dict(content)


def bundled_models(folder: Path = FOLDER) -> dict[str, BundledModel]:
    """The models that this version of the package has, by name.

    Example
    -------
    >>> for name, model in bundled_models().items():
    ...     assert name == model.name and model.card.is_file()
    """
    found = {}
    for card in sorted(folder.glob(f"*/{CARD}")):
        content = read_front_matter(card)
        found[card.parent.name] = BundledModel(
            card.parent.name, card.parent, **{field: content[field] for field in FIELDS}
        )
    return found


def find_bundled(name: str, folder: Path = FOLDER) -> Path:
    """The folder of a model of the package.

    Raises
    ------
    FileNotFoundError
        When there is no such model; the message says which there are.

    Example
    -------
    >>> find_bundled("seperator")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: There is no model 'seperator'...
    """
    models = bundled_models(folder)
    if name in models:
        return models[name].folder
    close = difflib.get_close_matches(name, models, 1)
    there = f"the package has {', '.join(models)}" if models else "this version of the package has none"
    advice = f"Did you mean '{close[0]}'?" if close else "Give one of these, a folder, or the id of a model on the Hub."
    raise FileNotFoundError(f"There is no model '{name}': {there}. {advice}")

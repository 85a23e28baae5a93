"""The test items of a run, as a study compares them: one row each, with its length and what was measured."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from quality.study_file import People
from speechbrain_mamba.evaluation.report import UNSCORED
from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words

Row = dict[str, str | float]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none if it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(row: dict[str, str], leave_out: tuple[str, ...]) -> dict[str, float]:
    """The columns of a row that are numbers."""
    found = {}
    for name, text in row.items():
        if name not in leave_out and text:
            try:
                found[name] = float(text)
            except ValueError:
                continue
    return found


def separation_items(folder: Path) -> list[Row]:
    """Mixtures with their seconds and scores. Those without scores have none here either."""
    seconds = {row["ID"]: float(row["duration"]) for row in read_table(folder / "save" / "test.csv")}
    rows: list[Row] = []
    for row in read_table(folder / "test" / "results.csv"):
        scores = {} if row.get(UNSCORED) else numbers(row, ("id", UNSCORED))
        rows.append({"item": row["id"], "length": seconds[row["id"]], **scores})
    return rows


def count_errors(hypothesis: str, reference: str, characters: bool) -> tuple[int, int]:
    """Errors of a transcript and the tokens of its reference, both normalized by
    :func:`~speechbrain_mamba.evaluation.word_errors.normalize_words`.

    Example
    -------
    >>> count_errors("one two", "ONE THREE TWO.", characters=False)
    (1, 3)
    """
    errors = WordErrors(characters=characters)
    errors.add("", normalize_words(hypothesis), normalize_words(reference))
    score = errors.stats.scores[-1]
    return score["num_edits"], score["num_ref_tokens"]


def recognition_items(folder: Path) -> list[Row]:
    """Utterances with the number of their words, and the errors of each search in words and characters.

    The columns are ``words``, ``characters`` and, for a search such as ``greedy``, ``greedy_word_errors`` and
    ``greedy_character_errors``.
    """
    rows: list[Row] = []
    tables = sorted((folder / "test").rglob("results.csv"))
    for path in tables:
        prefix = f"{path.parent.relative_to(folder / 'test')}/" if len(tables) > 1 else ""
        for row in read_table(path):
            searches = [name.removesuffix("_wer") for name in row if name.endswith("_wer")]
            item: Row = {"item": prefix + row["id"]}
            for search in searches:
                errors, words = count_errors(row[search], row["reference"], characters=False)
                character_errors, characters = count_errors(row[search], row["reference"], characters=True)
                item |= {"length": words, "words": words, "characters": characters}
                item |= {f"{search}_word_errors": errors, f"{search}_character_errors": character_errors}
            rows.append(item)
    return rows


def synthesis_items(folder: Path) -> list[Row]:
    """Spoken texts with the number of their words, the errors that a recognizer hears in them and in the recordings of
    the same texts, and the other scores of the report.

    The columns are ``words``, ``word_errors`` and ``reference_word_errors``, ``absolute_duration_error`` in percent
    without its sign, and those of :class:`~speechbrain_mamba.evaluation.synthesis_report.SynthesisReport`. Texts
    without scores have none here either, but where the speech itself is at fault, silent or not finite: then all of its
    words are errors, lest a system gains by the texts that it does not say.
    """
    rows: list[Row] = []
    for row in read_table(folder / "test" / "results.csv"):
        words = len(normalize_words(row["wrd"]).split())
        item: Row = {"item": row["ID"], "length": words}
        if row.get(UNSCORED, "").startswith("the speech is "):
            item |= {"words": words, "word_errors": words}
        elif not row.get(UNSCORED):
            scores = numbers(row, ("ID", "wrd", "hypothesis", UNSCORED))
            item |= scores
            for rate, errors in (("wer", "word_errors"), ("reference_wer", "reference_word_errors")):
                if rate in scores:  # percent of the words
                    item |= {"words": words, errors: round(scores[rate] * words / 100)}
            if "duration_error" in scores:
                item["absolute_duration_error"] = abs(scores["duration_error"])
        rows.append(item)
    return rows


def with_people(rows: Sequence[Mapping[str, str]], people: People | None) -> list[dict[str, str]]:
    """Items with the column ``people``, whose voices they have, where a study can say that; those that have it keep it.

    Example
    -------
    >>> with_people([{"item": "1_anna_ben"}, {"item": "2_ben_anna"}], People(pattern="anna|ben"))[1]
    {'item': '2_ben_anna', 'people': 'anna ben'}
    """
    rows = [dict(row) for row in rows]
    if people is None or all(row.get("people") for row in rows):
        return rows
    if people.pattern:
        return [{**row, "people": " ".join(sorted(set(re.findall(people.pattern, row["item"]))))} for row in rows]
    known = {row["ID"]: row[people.column] for table in people.tables for row in read_table(Path(table))}
    # an item of several tables has the folder of its table before its name
    found = [known.get(row["item"], known.get(row["item"].rpartition("/")[2], "")) for row in rows]
    return [{**row, "people": name} for row, name in zip(rows, found)] if all(found) else rows


READERS: dict[str, Callable[[Path], list[Row]]] = {
    "separation": separation_items,
    "asr": recognition_items,
    "tts": synthesis_items,
}
"""What reads the items of a run in its output folder, by the key ``items`` of a study, which is its task by default."""

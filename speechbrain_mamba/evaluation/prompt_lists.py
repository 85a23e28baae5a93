"""Lists of texts with prompts, by which synthesizers are compared, and their speech."""

from __future__ import annotations

import csv
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.voice_prompts import VoicePrompts
from speechbrain_mamba.evaluation.new_voices import Synthesize
from speechbrain_mamba.evaluation.speaking import COLUMNS, TABLE
from speechbrain_mamba.utils.files import atomic_path, write_csv

logger = logging.getLogger(__name__)

SUFFIXES = (".flac", ".wav")
SAVED_EVERY = 20
"""Texts after which the table is written, so that a run that is killed goes on there."""


@dataclass(frozen=True)
class PromptedText:
    """A text, and the recording in whose voice it is to be said.

    Arguments
    ---------
    name, text : str
        An id, and what is to be said.
    prompt, prompt_text : str
        The path of the recording, and what it says.
    recording : str
        The path of a recording of the text; empty if there is none.
    speaker : str
        Whose voice it is; empty if the list does not say.
    """

    name: str
    text: str
    prompt: str
    prompt_text: str
    recording: str = ""
    speaker: str = ""


def read_prompt_list(path: str | os.PathLike, audio_folder: str | os.PathLike | None = None) -> list[PromptedText]:
    """Read a list of texts with prompts, in one of two forms that are in use.

    Tab-separated lines ``prompt id, its seconds, its text, id, seconds, text`` as in the cross-sentence lists of
    LibriSpeech-PC test-clean (F5-TTS, arXiv 2410.06885): the recordings are LibriSpeech's, found by their ids as
    ``SPEAKER/CHAPTER/ID.flac`` below the audio folder. Or lines ``id|prompt text|prompt path|text``, with the path of a
    recording of the text at the end if there is one, as in Seed-TTS-eval (arXiv 2406.02430): paths are relative to the
    list.

    Arguments
    ---------
    path : str or Path
        The list.
    audio_folder : str or Path, optional
        Where recordings are; by default the folder of the list.

    Raises
    ------
    FileNotFoundError
        When the list or a recording is missing.
    ValueError
        When a line has another form, an id comes twice or the list is empty.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "p.wav").write_bytes(b"")
    >>> _ = (folder / "list.txt").write_text("a|Good morning.|p.wav|Good evening.")
    >>> read_prompt_list(folder / "list.txt")[0].text
    'Good evening.'
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no list '{path}'.")
    folder = path.parent if audio_folder is None else Path(audio_folder)
    found: dict[str, PromptedText] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        tabs, bars = ([field.strip() for field in line.split(sign)] for sign in ("\t", "|"))
        if len(tabs) == 6:
            prompt, _, prompt_text, name, _, text = tabs
            one = PromptedText(
                name, text, _find_utterance(folder, prompt), prompt_text, _find_utterance(folder, name),
                name.partition("-")[0],
            )  # fmt: skip
        elif len(bars) in (4, 5):
            name, prompt_text, prompt, text, *recording = bars
            one = PromptedText(name, text, _find(folder / prompt), prompt_text, *(_find(folder / p) for p in recording))
        else:
            raise ValueError(
                f"Line {number} of '{path}' has {len(tabs)} fields between tabs and {len(bars)} between bars, but must "
                "have 6 between tabs (prompt id, seconds, text, id, seconds, text) or 4 or 5 between bars (id, prompt "
                "text, prompt path, text, path)."
            )
        if found.setdefault(one.name, one) is not one:
            raise ValueError(f"Line {number} of '{path}' has the id '{one.name}' again: ids must be unique.")
    if not found:
        raise ValueError(f"The list '{path}' is empty.")
    return list(found.values())


def _find(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no recording '{path}': give the folder that the list's paths are relative to."
        )
    return str(path)


def _find_utterance(folder: Path, name: str) -> str:
    """A recording by its id: in LibriSpeech's folders, or right in the folder."""
    nested = Path(*name.split("-")[:2]) / name
    for place in (folder / nested, folder / name):
        for suffix in SUFFIXES:
            path = place.with_name(place.name + suffix)
            if path.is_file():
                return str(path)
    raise FileNotFoundError(
        f"There is no recording of '{name}' in '{folder}', neither {nested}{SUFFIXES[0]} nor {name}{SUFFIXES[0]}: give "
        "the folder of the speakers, such as LibriSpeech/test-clean."
    )


def make_prompt_list(
    items: Mapping[str, Mapping[str, Any]],
    seconds: tuple[float, float] = (4.0, 10.0),
    prompt_seconds: tuple[float, float] = (1.0, 3.0),
) -> list[tuple[str, str]]:
    """Choose a prompt for each text of a manifest: another recording of its speaker, always the same one.

    Arguments
    ---------
    items : mapping of str to mapping
        Recordings by id with ``duration`` and ``spk_id``.
    seconds, prompt_seconds : (float, float)
        The shortest and longest recording whose text is said, and that is a prompt.

    Returns
    -------
    list of (str, str)
        The ids of the prompt and of the text.

    Raises
    ------
    ValueError
        When there is no prompt for any text.
    """
    low, high = prompt_seconds
    far = high + 1  # too long for a prompt
    lengths = {name: item["duration"] if item["duration"] >= low else far for name, item in items.items()}
    prompts = VoicePrompts({name: {"spk_id": items[name]["spk_id"], "frames": lengths[name]} for name in items}, high)
    pairs = [
        (prompts.draw(name, fixed=True), name)
        for name in items
        if name in prompts and seconds[0] <= items[name]["duration"] <= seconds[1]
    ]
    if not pairs:
        raise ValueError(
            f"There is no text of {seconds[0]:g} to {seconds[1]:g} s whose speaker has a prompt of {low:g} to "
            f"{high:g} s: give other limits."
        )
    return pairs


def write_prompt_list(
    path: str | os.PathLike, items: Mapping[str, Mapping[str, Any]], pairs: Iterable[tuple[str, str]]
) -> None:
    """Write pairs of :func:`make_prompt_list` as a list between bars, which :func:`read_prompt_list` reads.

    Raises a ValueError for a text with a bar or a line break.
    """
    lines = []
    for prompt, name in pairs:
        row = [name, items[prompt]["wrd"], str(Path(items[prompt]["wav"]).absolute()), items[name]["wrd"]]
        row.append(str(Path(items[name]["wav"]).absolute()))
        wrong = next((field for field in row if set(field) & set("|\r\n\t")), None)
        if wrong is not None:
            raise ValueError(f"'{wrong}' cannot stand in a list: it has a bar, a tab or a line break.")
        lines.append("|".join(row) + "\n")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def speak_prompt_list(
    synthesize: Synthesize, prompted: Sequence[PromptedText], folder: str | os.PathLike, seed: int = 0
) -> list[dict[str, Any]]:
    """Say the texts of a list, and write the table that judges need. What was said before is not said again.

    Arguments
    ---------
    synthesize : callable
        ``SpeechSynthesizer.synthesize``.
    prompted : sequence of PromptedText
        The list.
    folder : str or Path
        Gets ``wavs/ID.wav`` and the ``synthesis.csv`` of
        :func:`~speechbrain_mamba.evaluation.speaking.speak_test_set`.
    seed : int
        Of the first text; each further one has the next.

    Returns
    -------
    list of dict
        The rows of the table. Texts that the synthesizer refuses, such as those with too long a prompt, are named in a
        warning and left out.
    """
    folder, refused = Path(folder), list[str]()
    before = {row["ID"]: row for row in _read_rows(folder / TABLE) if row["wav"] and Path(row["wav"]).is_file()}
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(tqdm(prompted, desc="Speaking", unit="text", dynamic_ncols=True)):
        known = before.get(one.name)
        if known is not None and (known["wrd"], known["prompt"]) == (one.text, one.prompt):
            rows.append(known)
            continue
        start = time.perf_counter()
        try:
            spoken = synthesize(one.text, one.prompt, one.prompt_text, seed=seed + number)
        except ValueError as error:
            refused.append(f"{one.name} ({error})")
            continue
        seconds = time.perf_counter() - start
        path = folder / "wavs" / f"{one.name}.wav"
        finite = bool(spoken.wav.isfinite().all()) and len(spoken.wav) > 0
        if finite:
            write_audio(path, spoken.wav.clamp(-1, 1), spoken.sample_rate)
        others = [other.prompt for other in prompted if one.speaker and other.speaker not in ("", one.speaker)]
        values = [
            one.name, one.speaker, "", one.text, len(spoken.wav) / spoken.sample_rate, spoken.finished, seconds,
            path if finite else "", one.recording, one.prompt, others[number % len(others)] if others else "",
        ]  # fmt: skip
        rows.append(dict(zip(COLUMNS, values)))
        if len(rows) % SAVED_EVERY == 0:
            write_csv(folder / TABLE, rows, COLUMNS)
    if refused:
        logger.warning("%d of %d texts were refused: %s", len(refused), len(prompted), "; ".join(refused[:5]))
    if not rows:
        raise ValueError(f"None of the {len(prompted)} texts could be said: {refused[0]}")
    write_csv(folder / TABLE, rows, COLUMNS)
    return rows


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

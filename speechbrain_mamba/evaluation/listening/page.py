"""The pages of a listening test: static files that any web server, or none, can show."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

from torch import Tensor

from speechbrain_mamba.dataio.audio import audio_info, read_audio, write_audio
from speechbrain_mamba.evaluation.listening.plan import KINDS, Trial
from speechbrain_mamba.evaluation.speaking import TABLE
from speechbrain_mamba.utils.files import atomic_path, check_writable, write_json

KEY = "key.json"
"""Which system is which: not for listeners."""
LEVEL, PEAK = 0.06, 0.95
"""Root mean square that all sounds are brought to, and the highest peak."""
RECORDING = "recording"
"""The name of the human recordings of the same texts as a system."""

CHOICES: dict[str, list[tuple[str, str]]] = {
    "cmos": [
        ("3", "B is much better"), ("2", "B is better"), ("1", "B is slightly better"), ("0", "about the same"),
        ("-1", "B is slightly worse"), ("-2", "B is worse"), ("-3", "B is much worse"),
    ],
    "ab": [("-1", "A"), ("0", "no preference"), ("1", "B")],
}  # fmt: skip
"""Answers by the kind of test: the value, which is that of B against A, and what the page says."""

QUESTIONS = {
    ("cmos", "naturalness"): "How natural is B, compared with A?",
    ("ab", "naturalness"): "Which one is more natural?",
    ("cmos", "similarity"): "How similar is the voice of B to the voice to be imitated, compared with A?",
    ("ab", "similarity"): "Which voice is more similar to the voice to be imitated?",
}
"""What is asked, by the kind of test and the subject."""


@dataclass(frozen=True)
class Spoken:
    """What a system made of a text.

    Arguments
    ---------
    wav : str
        The path of the sound.
    text : str
        What is said.
    prompt : str
        The path of a recording of the voice to be imitated; empty without one.
    """

    wav: str
    text: str = ""
    prompt: str = ""


def read_spoken(folder: str | os.PathLike, recordings: bool = False) -> dict[str, Spoken]:
    """What a test of the synthesis recipe said, by the id of the text.

    Arguments
    ---------
    folder : str or Path
        A folder with the ``synthesis.csv`` of :func:`~speechbrain_mamba.evaluation.speaking.speak_test_set`.
    recordings : bool
        Whether to take the human recordings of the same texts instead.

    Raises
    ------
    FileNotFoundError
        When there is no such table.
    """
    path = Path(folder) / TABLE
    if not path.is_file():
        raise FileNotFoundError(f"'{folder}' has no {TABLE}: give the folder test/ of a run of recipes/tts/train.py.")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {row["ID"]: Spoken(row["reference" if recordings else "wav"], row["wrd"], row["prompt"]) for row in rows}
    return {name: spoken for name, spoken in found.items() if spoken.wav and Path(spoken.wav).is_file()}


def write_pages(
    folder: str | os.PathLike,
    systems: Mapping[str, Mapping[str, Spoken]],
    plan: Sequence[Sequence[Trial]],
    kind: str = "cmos",
    subject: str = "naturalness",
    show_text: bool = True,
) -> str:
    """Write the pages of a listening test, one sheet for each listener.

    The folder ``page`` is for the listeners: ``index.html``, ``sheet_N.html``, and the sounds, all at one level, under
    names that do not tell the system. ``key.json`` beside it says which is which.

    Arguments
    ---------
    folder : str or Path
        Where they go. It must not hold another test.
    systems : mapping of str to mapping
        By the name of the system what it said, by item.
    plan : sequence of sequence of Trial
        The sheets, as returned by :func:`~speechbrain_mamba.evaluation.listening.plan.plan_sheets`.
    kind : str
        ``cmos``, a scale of seven steps, or ``ab``, a preference.
    subject : str
        ``naturalness`` or ``similarity``, for which the prompt is offered too.
    show_text : bool
        Whether the page shows what is said.

    Returns
    -------
    str
        The name of the test, which the answers carry.

    Raises
    ------
    ValueError
        For an unknown kind or subject, when the folder holds another test, and when a sound is silent or lacks a
        prompt that is needed.
    """
    if kind not in KINDS or (kind, subject) not in QUESTIONS:
        subjects = sorted({one for _, one in QUESTIONS})
        raise ValueError(
            f"The test is of kind '{kind}' and subject '{subject}', but must be of {' or '.join(KINDS)}, and of "
            f"{' or '.join(subjects)}."
        )
    folder = Path(folder)
    check_writable(folder)
    sheets = {f"{number:02d}": sheet for number, sheet in enumerate(plan, 1)}
    key: dict[str, Any] = {"kind": kind, "subject": subject, "systems": list(systems)}
    key["sheets"] = {name: [asdict(trial) for trial in sheet] for name, sheet in sheets.items()}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    key = {"page": name, **key}
    if (folder / KEY).exists() and json.loads((folder / KEY).read_text(encoding="utf-8")) != key:
        raise ValueError(f"'{folder}' holds another listening test, whose answers need its {KEY}: give another folder.")
    sounds = _Sounds(folder / "page" / "audio", name)
    for number, sheet in sheets.items():
        trials = []
        for trial in sheet:
            first, second = (systems[system][trial.item] for system in (trial.first, trial.second))
            row = {"a": sounds.copy(first.wav), "b": sounds.copy(second.wav)}
            if subject == "similarity":
                if not first.prompt:
                    raise ValueError(f"'{trial.item}' has no prompt, which a test of similarity needs.")
                row["prompt"] = sounds.copy(first.prompt)
            trials.append(row | ({"text": first.text} if show_text and first.text else {}))
        choices = [(value, name_choice(said, subject)) for value, said in CHOICES[kind]]
        data = {"page": name, "sheet": number, "question": QUESTIONS[kind, subject], "choices": choices}
        _write_text(folder / "page" / f"sheet_{number}.html", _sheet(number, {**data, "trials": trials}))
    links = "\n".join(f'<li><a href="sheet_{number}.html">sheet {number}</a></li>' for number in sheets)
    _write_text(folder / "page" / "index.html", _INDEX.substitute(links=links))
    write_json(folder / KEY, key)
    return name


def name_choice(said: str, subject: str) -> str:
    """What a page says of a choice, by what is asked.

    Example
    -------
    >>> name_choice("B is slightly worse", "similarity"), name_choice("about the same", "similarity")
    ('B is slightly less similar', 'about the same')
    """
    if subject == "similarity":
        said = said.replace("better", "more similar").replace("worse", "less similar")
    return said


_INDEX = Template("""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="robots" content="noindex"><title>Listening test</title></head>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem">
<h1>Listening test</h1>
<p>Each listener fills in one sheet, and sends back the file that the button at its end saves.</p>
<ul>
$links
</ul>
</body>
</html>
""")

_INSTRUCTIONS = (
    "You will hear the same text twice, as A and as B, and say how they compare. There is no right answer: trust your "
    "first impression of the whole sound."
)


def _sheet(number: str, data: Mapping[str, Any]) -> str:
    """A page of HTML with its data, which no text can leave."""
    template = Template((Path(__file__).parent / "sheet.html").read_text(encoding="utf-8"))
    safe = json.dumps(data).replace("<", "\\u003c")
    return template.substitute(sheet=html.escape(number), instructions=html.escape(_INSTRUCTIONS), data=safe)


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class _Sounds:
    """Copies of sounds at one level, each once."""

    def __init__(self, folder: Path, secret: str) -> None:
        self.folder, self.secret, self.done = folder, secret, dict[str, str]()

    def copy(self, source: str) -> str:
        """Copy a sound; returns its address relative to the page."""
        if source not in self.done:
            name = hashlib.sha256(f"{self.secret} {source}".encode()).hexdigest()[:16]
            rate = audio_info(source).sample_rate
            write_audio(self.folder / f"{name}.wav", bring_to_level(read_audio(source, rate), source), rate)
            self.done[source] = f"audio/{name}.wav"
        return self.done[source]


def bring_to_level(wav: Tensor, name: str = "The sound") -> Tensor:
    """Scale a waveform (samples,) to the root mean square ``LEVEL``, or as near as its peak allows.

    Raises a ValueError for silence.

    Example
    -------
    >>> import torch
    >>> bring_to_level(torch.tensor([1.0, -1.0])).abs().max().item() < 0.07
    True
    """
    if not wav.any():
        raise ValueError(f"'{name}' is silent: leave it out of the listening test.")
    return wav * min(LEVEL / float(wav.double().square().mean().sqrt()), PEAK / float(wav.abs().max()))

"""Manifests with every kind of fault, and the sentence that must tell it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

HEADER = "ID,duration,wav,wrd\n"
GOOD = "g,1.5,good.wav,GOOD\n"
ITEM = {"duration": 1.5, "wav": "good.wav", "wrd": "GOOD"}
SECONDS = "must be a number of seconds"
COMMAS = "put texts with commas in quotation marks."
LINE_BREAK = "has a line break (is a quotation mark not closed?): remove that."
NOT_UTF8 = "is not UTF-8: save the file as UTF-8."

NO_FORMAT = soundfile.LibsndfileError(1).error_string


@dataclass(frozen=True)
class BrokenManifest:
    """A manifest: its content, and how the error ends that it must give, where ``{folder}`` is that of the manifest;
    empty if it is good."""

    name: str
    suffix: str
    content: bytes
    message: str
    lists_audio: bool = False
    """Whether the fault is in the audio that it lists."""


def _csv(name: str, text: str | bytes, message: str, **options: bool) -> BrokenManifest:
    return BrokenManifest(name, ".csv", text if isinstance(text, bytes) else text.encode(), message, **options)


def _row(name: str, row: str, message: str, **options: bool) -> BrokenManifest:
    """A CSV file whose third line has a fault."""
    return _csv(name, f"{HEADER}{GOOD}{row}\n", f", line 3{message}", **options)


def _file(name: str, wav: str, message: str) -> BrokenManifest:
    """A CSV file whose third line names a file that cannot be used."""
    text = f", line 3: 'a' cannot be used. The audio file '{{folder}}/{wav}' {message}"
    return _csv(name, f"{HEADER}{GOOD}a,1.5,{wav},A\n", text, lists_audio=True)


def _json(name: str, text: str | bytes, message: str) -> BrokenManifest:
    return BrokenManifest(name, ".json", text if isinstance(text, bytes) else text.encode(), message)


def _item(name: str, message: str, key: str = "a", **values: Any) -> BrokenManifest:
    """A JSON file with an item in its third line that has a fault."""
    items = {"g": ITEM, key: {column: value for column, value in {**ITEM, **values}.items() if value is not ...}}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(item)}" for key, item in items.items())
    return _json(name, f"{{\n{lines}\n}}\n", f", line 3{message}")


MANIFESTS = [
    # those that are good
    _csv("good", HEADER + GOOD, ""),
    _csv("byte order mark", (HEADER + GOOD).encode("utf-8-sig"), ""),
    _csv("windows lines", (HEADER + GOOD).replace("\n", "\r\n"), ""),
    _csv("empty lines", f"{HEADER}\n{GOOD}\n\n", ""),
    _csv("quotation marks", HEADER + 'g,1.5,good.wav,"GOOD, ""DAY"""\n', ""),
    _csv("spaces", "ID, duration, wav, wrd, spk_id\ng, 1.5, good.wav, GOOD  DAY, anna\n", ""),
    _json("good", json.dumps({"g": ITEM}), ""),
    _json("byte order mark", json.dumps({"g": ITEM}).encode("utf-8-sig"), ""),
    _json("more columns", json.dumps({"g": {**ITEM, "chapter": 5, "phones": ["A", {"b": 1}], "language": None}}), ""),
    # the whole file
    _csv("nothing", "", ": it lists nothing: prepare the data again."),
    _csv("only a header", HEADER, ": it lists nothing: prepare the data again."),
    _csv("no ID", "id,duration,wav,wrd\na,1.5,good.wav,A\n",
         ", line 1: there is no column 'ID': it has id, duration, wav, wrd, but needs ID, duration, wav, wrd."),
    _csv("no text", "ID,duration,wav\na,1.5,good.wav\n",
         ", line 1: there is no column 'wrd': it has ID, duration, wav, but needs ID, duration, wav, wrd."),
    _csv("no header", GOOD, ", line 1: there is no column 'ID': it has g, 1.5, good.wav, GOOD, but needs ID, "
         "duration, wav, wrd."),
    _csv("tabs", (HEADER + GOOD).replace(",", "\t"),
         ", line 1: the columns are separated by tabs, but must be separated by commas."),
    _csv("semicolons", (HEADER + GOOD).replace(",", ";"),
         ", line 1: the columns are separated by semicolons, but must be separated by commas."),
    _csv("bars", (HEADER + GOOD).replace(",", "|"),
         ", line 1: the columns are separated by |, but must be separated by commas."),
    _csv("column without a name", f",{HEADER}0,{GOOD}", ", line 1: column 1 has no name: name it, or remove it."),
    _csv("column twice", "ID,duration,wav,wrd,wav\na,1.5,good.wav,A,b.wav\n",
         ", line 1, column 'wav': there are two such columns: remove one."),
    _csv("UTF-16", (HEADER + GOOD).encode("utf-16"), ", line 1: it is encoded as UTF-16: save it as UTF-8."),
    _csv("Latin-1", f"{HEADER}{GOOD}a,1.5,good.wav,GRÜN\n".encode("latin-1"),
         f", line 3, column 'wrd': the byte 0xDC {NOT_UTF8}"),
    _csv("Latin-1 header", f"Ü,{HEADER}".encode("latin-1"), f", line 1: the byte 0xDC {NOT_UTF8}"),
    _csv("quotation mark not closed", f'{HEADER}{GOOD}a,1.5,good.wav,"GOOD\n{GOOD * 20000}',
         ", line 3: field larger than field limit (131072) (is a quotation mark not closed?)."),
    # ids
    _row("id twice", GOOD.strip(), ", column 'ID': the id 'g' occurs twice, first in line 2: ids must be unique."),
    _row("empty id", " ,1.5,good.wav,A", ", column 'ID': the id is empty: give each row an id of its own."),
    _row("long id", f"{'ä' * 101},1.5,good.wav,A",
         f", column 'ID': the id '{'ä' * 59}... has more than 200 bytes, but files are called after it: shorten it."),
    _row("id upwards", "../a,1.5,good.wav,A",
         ", column 'ID': the id '../a' must not begin with '/' or contain '..', since files are called after it."),
    _row("absolute id", "/a,1.5,good.wav,A",
         ", column 'ID': the id '/a' must not begin with '/' or contain '..', since files are called after it."),
    _row("tab in id", '"a\tb",1.5,good.wav,A',
         ", column 'ID': the id 'a\\tb' has a control character: remove that."),
    # durations
    _row("duration in words", "a,long,good.wav,A", f", column 'duration': 'long' {SECONDS}."),
    _row("duration with a comma", 'a,"1,5",good.wav,A', f", column 'duration': '1,5' {SECONDS}."),
    _row("duration as in code", "a,1_0,good.wav,A", f", column 'duration': '1_0' {SECONDS}."),
    _row("duration of a clock", "a,00:01.5,good.wav,A", f", column 'duration': '00:01.5' {SECONDS}."),
    _row("no duration", "a,,good.wav,A", f", column 'duration': '' {SECONDS}."),
    _row("NaN duration", "a,nan,good.wav,A", f", column 'duration': 'nan' {SECONDS} above 0."),
    _row("infinite duration", "a,1e999,good.wav,A", f", column 'duration': '1e999' {SECONDS} above 0."),
    _row("negative duration", "a,-1.5,good.wav,A", f", column 'duration': '-1.5' {SECONDS} above 0."),
    _row("zero duration", "a,0.0,good.wav,A", f", column 'duration': '0.0' {SECONDS} above 0."),
    # other values
    _row("no path", "a,1.5,,A", ", column 'wav': the path is empty: give an audio file."),
    _row("placeholder", "a,1.5,$data_root/a.wav,A",
         ", column 'wav': the path has $data_root: set data_root to that folder."),
    _row("other placeholder", "a,1.5,{data_root}/a.wav,A",
         ", column 'wav': the path has {data_root}: set data_root to that folder."),
    _row("short row", "a,1.5,good.wav", ", column 'wrd': the row has 3 values, but there are 4 columns."),
    _row("long row", "a,1.5,good.wav,GOOD, DAY", f": 'a' has more values (5) than there are columns (4): {COMMAS}"),
    _row("line break", 'a,1.5,good.wav,"GOOD\nDAY"', f", column 'wrd': the value 'GOOD\\nDAY' {LINE_BREAK}"),
    _row("open quotation mark", f'a,1.5,good.wav,"GOOD\n{GOOD}',
         f", column 'wrd': the value 'GOOD\\ng,1.5,good.wav,GOOD\\n\\n' {LINE_BREAK}"),
    _row("NUL", "a,1.5,good.wav,A\0B", ": there is a NUL character: write the file again, as text."),
    _row("control character", "a,1.5,good.wav,A\x0bB",
         ", column 'wrd': the value of 'a' has a control character: remove that."),
    # JSON
    _json("empty", "{}", ": it lists nothing: prepare the data again."),
    _json("list", "[1]", ", line 1: it must map each id to a mapping from column to value."),
    _json("number", "5", ", line 1: it must map each id to a mapping from column to value."),
    _json("cut", '{\n"a": {', ", line 2: it is not valid JSON: Expecting property name enclosed in double quotes: "
          "line 2 column 7 (char 8)."),
    _json("nested too deeply", "[" * 100000, ", line 1: it is not valid JSON: it is nested too deeply."),
    _json("rows that are no mappings", '{\n"a": 1}', ", line 2: 1 for 'a' must be a mapping from column to value."),
    _json("id twice", '{"a": {"duration": 1.5, "wav": "good.wav", "wrd": "A"},\n"a": {}}',
          ", line 2, column 'ID': the id 'a' occurs twice."),
    _json("column twice", '{\n"a": {"wav": "good.wav",\n"wav": "b.wav"}}', ", line 2, column 'wav': 'a' has it twice."),
    _json("UTF-16", json.dumps({"g": ITEM}).encode("utf-16"), ", line 1: it is encoded as UTF-16: save it as UTF-8."),
    _json("Latin-1", '{\n"a": "Ü"}'.encode("latin-1"), f", line 2: the byte 0xDC {NOT_UTF8}"),
    _item("no duration", ", column 'duration': 'a' has no value for it: needed are duration, wav, wrd.", duration=...),
    _item("no path", ", column 'wav': 'a' has no value for it: needed are duration, wav, wrd.", wav=None),
    _item("list of durations", f", column 'duration': [1] {SECONDS}.", duration=[1]),
    _item("true duration", f", column 'duration': true {SECONDS}.", duration=True),
    _item("huge duration", f", column 'duration': 1{'0' * 59}... {SECONDS}.", duration=10**400),
    _item("NaN duration", f", column 'duration': NaN {SECONDS} above 0.", duration=float("nan")),
    _item("negative duration", f", column 'duration': -2 {SECONDS} above 0.", duration=-2),
    _item("number as text", ", column 'wrd': 7 for 'a' must be text: put it in quotation marks.", wrd=7),
    _item("list as text", ", column 'wrd': [\"A\", \"B\"] for 'a' must be text: put it in quotation marks.",
          wrd=["A", "B"]),
    _item("number of a speaker", ", column 'spk_id': 19 for 'a' must be text: put it in quotation marks.", spk_id=19),
    _item("number as path", ", column 'wav': 3 must be the path of an audio file.", wav=3),
    _item("line break", f", column 'wrd': the value of 'a' {LINE_BREAK}", wrd="A\nB"),
    _item("half a character", ", column 'wrd': the value of 'a' has half a character: remove that.", wrd="A\ud83c"),
    _item("half a character in id", ", column 'ID': the id 'a\\ud83c' has half a character: remove that.",
          key="a\ud83c"),
    _item("NUL", ", column 'wav': the value of 'a' has a control character: remove that.", wav="a\0.wav"),
    _item("empty id", ", column 'ID': the id is empty: give each row an id of its own.", key=""),
    # the audio
    _row("milliseconds", "a,1500,good.wav,A", ": the duration of 'a' is 1500 s, but its audio has 1.5 s: give it in "
         "seconds, not in milliseconds.", lists_audio=True),
    _row("samples", "a,12000,good.wav,A", ": the duration of 'a' is 12000 s, but its audio has 1.5 s: give it in "
         "seconds, not in samples.", lists_audio=True),
    _row("wrong duration", "a,2.5,good.wav,A",
         ": the duration of 'a' is 2.5 s, but its audio has 1.5 s: correct it.", lists_audio=True),
    _file("missing file", "gone.wav", "does not exist."),
    _file("dangling link", "link.wav", "is a link to 'gone.wav', which does not exist."),
    _file("other rate", "fast.wav", "has a sample rate of 16000 Hz, but 8000 Hz are wanted: resample it, or change "
          "sample_rate."),
    _file("stereo", "stereo.wav", "has 2 channels, but must be mono: convert it first."),
    _file("cut file", "cut.wav", "is cut short: its header promises 1000 more bytes; replace it."),
    _file("no audio", "text.wav", f"cannot be read ({NO_FORMAT}): replace it by a WAV or FLAC file."),
]  # fmt: skip


def write_manifests(folder: Path, kinds: Sequence[BrokenManifest] = MANIFESTS) -> dict[Path, BrokenManifest]:
    """Write some manifests to a new folder, and the few audio files that they list."""
    folder.mkdir(parents=True)
    rates = {"good": (8000, 1), "fast": (16000, 1), "stereo": (8000, 2), "cut": (8000, 1)}
    for name, (rate, channels) in rates.items():
        soundfile.write(folder / f"{name}.wav", np.zeros((rate * 3 // 2, channels)), rate)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:-1000])
    (folder / "link.wav").symlink_to("gone.wav")
    (folder / "text.wav").write_text("This is not audio.")
    written = {folder / f"{number:02d} {kind.name}{kind.suffix}": kind for number, kind in enumerate(kinds)}
    for path, kind in written.items():
        path.write_bytes(kind.content)
    return written

"""The report on synthetic speech, with judges that know the answers."""

import csv
import json
import math
import re

import jiwer
import pytest
import torch

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.evaluation.speaking import COLUMNS, TABLE
from speechbrain_mamba.evaluation.synthesis_report import judge_speech
from speechbrain_mamba.evaluation.synthesis_scores import mel_cepstral_distortion
from speechbrain_mamba.evaluation.word_errors import normalize_words
from speechbrain_mamba.utils.files import write_csv

RATE = 8000
REPORT = "speechbrain_mamba.evaluation.synthesis_report"


def tone(path, pitch, seconds, rate=RATE):
    write_audio(path, 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(round(seconds * rate)) / rate), rate)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two utterances, of which the second has the voice of another speaker, no recording, and nothing was said in the
    third."""
    low, high = tone(tmp_path / "low.wav", 200, 1.0), tone(tmp_path / "high.wav", 2000, 1.0)
    common = {"spk_id": "x", "language": "", "prompt": low, "other_prompt": high}
    rows = [
        {"ID": "a", "wrd": "ONE TWO", "finished": True, "wav": tone(tmp_path / "a.wav", 200, 1.5), "duration": 1.5,
         "reference": low, "seconds": 3.0, **common},
        {"ID": "b", "wrd": "three four", "finished": False, "wav": tone(tmp_path / "b.wav", 2000, 1.0),
         "duration": 1.0, "reference": "", "seconds": 1.0, **common},
        {"ID": "c", "wrd": "FIVE", "finished": True, "wav": tone(tmp_path / "c.wav", 200, 0), "duration": 0.0,
         "reference": "", "seconds": 1.0, **common},
    ]  # fmt: skip
    write_csv(tmp_path / TABLE, rows, COLUMNS)
    return tmp_path


def recognize(wav, rate):
    return "one, two." if len(wav) == 1.5 * RATE else "Three"


def embed(wav, rate):
    spectrum = torch.fft.rfft(wav[: rate // 2]).abs()
    return torch.stack([spectrum[: len(spectrum) // 4].sum(), spectrum[len(spectrum) // 4 :].sum()])


def test_speech_is_scored(folder):
    summary = judge_speech(folder, recognize, embed, n_examples=2)
    assert (summary["utterances"], summary["unscored"], summary["finished"]) == (3, 1, 50)
    assert summary["wer"] == pytest.approx(100 * 1 / 4)  # "four" is missing
    assert summary["reference_wer"] == 100.0  # of the one recording, which the judge hears as "three"
    assert summary["right_speaker"] == 50.0
    assert summary["duration_error"] == pytest.approx(50)
    assert summary["rtf"] == pytest.approx(1.5)
    with open(folder / "results.csv", newline="") as file:
        rows = {row["ID"]: row for row in csv.DictReader(file)}
    assert (
        rows["a"]["hypothesis"] == "ONE TWO" and float(rows["a"]["wer"]) == 0 and float(rows["a"]["similarity"]) > 0.9
    )
    assert rows["b"]["mcd"] == "" and float(rows["b"]["wer"]) == 50 and rows["c"]["similarity"] == ""
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert "ONE" in (folder / "wer.txt").read_text()
    assert {path.name for path in (folder / "examples").iterdir()} == {"a.png", "b.png"}
    assert (folder / "similarity.png").stat().st_size > 1000


def test_without_judges_what_can_be_measured_is(folder):
    summary = judge_speech(folder, n_examples=0)
    assert "wer" not in summary and "right_speaker" not in summary and summary["rtf"] == pytest.approx(1.5)
    assert not (folder / "wer.txt").exists() and not (folder / "similarity.png").exists()


def test_recordings_that_are_gone_are_named_and_left_out(folder, caplog):
    (folder / "low.wav").unlink()
    summary = judge_speech(folder, recognize, embed)
    assert "reference_wer" not in summary and "similarity" not in summary and summary["wer"] == pytest.approx(25)
    assert "1 recordings to compare with are not there any more" in caplog.text


def test_a_folder_without_speech_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no synthesis\.csv: train\.py writes it"):
        judge_speech(tmp_path)
    write_csv(tmp_path / TABLE, [], COLUMNS)
    with pytest.raises(ValueError, match="lists no utterance"):
        judge_speech(tmp_path)


WORDS = {"a": "One two, three four!", "b": "five", "c": "it's six seven", "d": "eight nine ten", "e": "zero", "f": "oh"}
HEARD = {"a": "one too three. four", "b": "five five", "c": "IT'S SEVEN", "d": "Eight, nine ten", "f": "no"}
"""By utterance: what was to be said, and what the recognizer hears."""
HEARD_IN_REFERENCE = {"a": "one two three", "b": "five", "d": "eight nine, eleven twelve", "f": ""}
PITCH = {"a": 500, "b": 1400, "c": 800, "d": 800, "f": 800}
SECONDS = {"a": 1.5, "b": 0.75, "c": 1.0, "d": 0.5, "e": 0.0, "f": 0.05}
REFERENCES = {"a": (600, 1.2, RATE), "b": (1000, 1.25, RATE), "d": (700, 0.8, 2 * RATE), "f": (800, 0.2, RATE)}
"""By utterance: the pitch, seconds and rate of the recording of the same text."""
COMPUTED = {"a": 3.0, "b": 0.3, "c": 0.7, "d": 0.1, "e": 5.0, "f": 0.01}


@pytest.fixture
def speech(tmp_path):
    """Six utterances: longer than its recording; with the other voice; without recording; without the prompt of
    another speaker and with a recording at another rate; without a sound; too short to be compared."""
    prompt, other = tone(tmp_path / "prompt.wav", 500, 1.1), tone(tmp_path / "other.wav", 1500, 1.1)
    rows = []
    for name, words in WORDS.items():
        wav = tone(tmp_path / f"{name}.wav", PITCH.get(name, 100), SECONDS[name])
        reference = tone(tmp_path / f"{name}_ref.wav", *REFERENCES[name]) if name in REFERENCES else ""
        row = {"ID": name, "spk_id": "x", "language": "", "wrd": words, "duration": SECONDS[name], "wav": wav}
        row |= {"finished": name in "bcdf", "seconds": COMPUTED[name], "reference": reference, "prompt": prompt}
        rows.append(row | {"other_prompt": "" if name == "d" else other})
    write_csv(tmp_path / TABLE, rows, COLUMNS)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """What would be drawn, by file name."""
    pictures = {}

    def draw(path, signals, *arguments, **options):
        pictures[path.name] = (signals, *arguments, options)

    monkeypatch.setattr(f"{REPORT}.plot_spectrograms", draw)
    monkeypatch.setattr(f"{REPORT}.plot_pairs", draw)
    return pictures


def listen(wav, rate):
    """Know an utterance by its length and rate."""
    texts = {(round(SECONDS[name] * RATE), RATE): HEARD[name] for name in HEARD}
    texts |= {(round(REFERENCES[name][1] * REFERENCES[name][2]), REFERENCES[name][2]): text
              for name, text in HEARD_IN_REFERENCE.items()}  # fmt: skip
    return texts[len(wav), rate]


def voice(wav, rate):
    """An embedding whose angle is the pitch in kHz, and whose length does not matter."""
    pitch = torch.fft.rfft(wav).abs().argmax() * rate / len(wav)
    return len(wav) * torch.stack([torch.cos(pitch / 1000), torch.sin(pitch / 1000)])


def test_a_row_has_the_scores_of_its_utterance(speech, drawn):
    judge_speech(speech, listen, voice)
    with open(speech / "results.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = {row["ID"]: row for row in reader}
    assert reader.fieldnames == [
        "ID", "wer", "reference_wer", "similarity", "other_similarity", "mos", "reference_mos", "mcd",
        "duration_error", "rtf", "wrd", "hypothesis", "unscored",
    ]  # fmt: skip
    assert list(rows) == list(WORDS)
    expected = {
        "wer": {"a": 25, "b": 100, "c": 100 / 3, "d": 0, "f": 100},
        "reference_wer": {"a": 25, "b": 0, "d": 200 / 3, "f": 100},
        "similarity": {"a": 1, "b": math.cos(0.9), "c": math.cos(0.3), "d": math.cos(0.3)},
        "other_similarity": {"a": math.cos(1), "b": math.cos(0.1), "c": math.cos(0.7)},
        "mcd": {
            name: mel_cepstral_distortion(*(read_audio(speech / f"{name}{end}.wav") for end in ("", "_ref")), RATE)
            for name in "ab"
        },
        "duration_error": {"a": 25, "b": -40, "d": -37.5, "f": -75},
        "rtf": {"a": 2, "b": 0.4, "c": 0.7, "d": 0.2, "f": 0.2},
    }
    for score, values in expected.items():
        found = {name: float(row[score]) for name, row in rows.items() if row[score] != ""}
        assert found == pytest.approx(values, abs=2e-3), score
    assert all(value > 1 for value in expected["mcd"].values())
    assert {name: row["wrd"] for name, row in rows.items()} == WORDS
    assert {name: row["hypothesis"] for name, row in rows.items()} == {
        "a": "ONE TOO THREE FOUR", "b": "FIVE FIVE", "c": "IT'S SEVEN", "d": "EIGHT NINE TEN", "e": "", "f": "NO",
    }  # fmt: skip


def test_the_summary_has_totals_of_words_and_means_of_what_is_there(speech, drawn):
    summary = judge_speech(speech, listen, voice)
    references = {name: normalize_words(text) for name, text in WORDS.items()}
    wer, reference_wer = (
        100 * jiwer.wer([references[name] for name in heard], [normalize_words(text) for text in heard.values()])
        for heard in (HEARD, HEARD_IN_REFERENCE)
    )
    mcds = (
        mel_cepstral_distortion(*(read_audio(speech / f"{name}{end}.wav") for end in ("", "_ref")), RATE)
        for name in "ab"
    )
    assert summary.pop("normalization") == "words"
    assert summary == pytest.approx(
        {
            "utterances": 6,
            "unscored": 1,
            "finished": 100 * 4 / 5,
            "wer": wer,
            "reference_wer": reference_wer,
            "right_speaker": 100 * 2 / 3,
            "similarity": (1 + math.cos(0.9) + 2 * math.cos(0.3)) / 4,
            "other_similarity": (math.cos(1) + math.cos(0.1) + math.cos(0.7)) / 3,
            "mcd": sum(mcds) / 2,
            "duration_error": (25 + 40 + 37.5 + 75) / 4,
            "rtf": (2 + 0.4 + 0.7 + 0.2 + 0.2) / 5,
        },
        abs=2e-3,
    )
    assert json.loads((speech / "summary.json").read_text()) == {**summary, "normalization": "words"}


def test_alignments_are_of_the_speech_and_its_normalized_text(speech, drawn):
    judge_speech(speech, listen, voice)
    text = (speech / "wer.txt").read_text(encoding="utf-8")
    counts = map(int, re.search(r"%WER [\d.]+ \[ (\d+) / (\d+), (\d+) ins, (\d+) del, (\d+) sub \]", text).groups())
    assert list(counts) == [4, 12, 1, 1, 2]
    assert re.findall(r"^(\w), %WER", text, re.MULTILINE) == list(HEARD)


def test_a_folder_is_judged_again_as_if_for_the_first_time(speech, drawn):
    judge_speech(speech, listen, voice)
    with open(speech / TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    write_csv(speech / TABLE, rows[1:], COLUMNS)
    results = []
    for _ in range(2):
        summary = judge_speech(speech, listen, voice)
        results.append((summary, (speech / "results.csv").read_text(), (speech / "wer.txt").read_text()))
        assert summary["utterances"] == len(rows) - 1
        for name in ("summary.json", "results.csv", "wer.txt"):
            (speech / name).unlink()
    assert results[0] == results[1]


def test_the_right_speaker_is_the_nearer_one(speech, drawn):
    """A voice that is as far from both is not the right one."""
    summary = judge_speech(speech, embed=lambda wav, rate: torch.ones(3))
    assert summary["right_speaker"] == 0 and summary["similarity"] == pytest.approx(1)


def test_the_first_utterances_are_drawn_below_their_recordings(speech, drawn):
    judge_speech(speech, listen, voice, n_examples=5)
    pairs, labels, _ = drawn.pop("similarity.png")
    angles = [(0, 1), (0.9, 0.1), (0.3, 0.7)]
    assert pairs == [pytest.approx([math.cos(own), math.cos(other)], abs=2e-3) for own, other in angles]
    assert labels == ["similarity to the prompt", "similarity to another speaker"]
    assert set(drawn) == {f"{name}.png" for name in "abcd"}  # e says nothing, and f is the sixth
    for name in "abcd":
        signals, rate, options = drawn[f"{name}.png"]
        titles = ["recording"] * (name in "ab") + [f"{name}: {WORDS[name]}"]
        assert (list(signals), rate, options) == (titles, RATE, {"n_mels": 40})
        assert torch.equal(signals[titles[-1]], read_audio(speech / f"{name}.wav"))
        assert name not in "ab" or torch.equal(signals["recording"], read_audio(speech / f"{name}_ref.wav"))


def test_eight_utterances_are_drawn_unless_it_is_said_how_many(tmp_path, drawn):
    wav = tone(tmp_path / "a.wav", 500, 0.1)
    row = {"wrd": "X", "finished": True, "duration": 0.1, "seconds": 1, "wav": wav, "reference": "", "prompt": ""}
    write_csv(tmp_path / TABLE, [{"ID": f"u{i}", **row} for i in range(10)], COLUMNS)
    judge_speech(tmp_path)
    assert set(drawn) == {f"u{i}.png" for i in range(8)}


BROKEN = {
    "speech": "the speech is silent",
    "reference": "the recording is silent",
    "prompt": "the prompt is silent",
    "other_prompt": "the other prompt cannot be read: The audio file",
    "voice": "similarity is nan, other_similarity is nan",
    "": "the speech is not finite",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_silent_or_broken_is_named_and_counts_nowhere(speech, drawn, caplog, what):
    """Utterance a, whose speech, recording, prompt or embedding is made useless; the means are those of the others."""
    with open(speech / TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    write_csv(speech / TABLE, rows[1:], COLUMNS)
    expected = judge_speech(speech, listen, voice)
    path = speech / "broken.wav"
    if what == "other_prompt":
        path.write_bytes(b"RIFF")
    else:
        write_audio(path, torch.zeros(12000), RATE)
    column = {"speech": "wav", "": "wav"}.get(what, what)
    if column in rows[0]:
        rows[0][column] = path if what else ""
    write_csv(speech / TABLE, rows, COLUMNS)

    def sometimes(wav, rate):
        broken = what == "voice" and len(wav) == SECONDS["a"] * RATE
        return voice(wav, rate) * (float("nan") if broken else 1)

    summary = judge_speech(speech, listen, sometimes)
    assert summary == expected | {"utterances": 6, "unscored": 2}
    with open(speech / "results.csv", newline="", encoding="utf-8") as file:
        reasons = {row["ID"]: row["unscored"] for row in csv.DictReader(file)}
    assert reasons["a"].startswith(BROKEN[what]) and reasons["e"] == "the speech is empty"
    assert not any(reasons[name] for name in "bcdf")
    assert "2 of 6 utterances have no usable score and are left out of the means: a (" in caplog.text


def test_a_recognizer_is_given_no_sound_shorter_than_a_window(tmp_path, drawn):
    wav, heard = tone(tmp_path / "a.wav", 500, 0.01), []
    row = {"ID": "a", "wrd": "X", "finished": True, "duration": 0.01, "seconds": 1, "wav": wav, "reference": wav}
    write_csv(tmp_path / TABLE, [row], COLUMNS)
    judge_speech(tmp_path, lambda wav, rate: heard.append(len(wav)) or "x")
    assert heard == [400, 400]

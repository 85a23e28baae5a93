"""The report on synthetic speech, with judges that know the answers."""

import csv
import json

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.evaluation.synthesis_report import SynthesisReport, normalize_words
from speechbrain_mamba.evaluation.synthesis_test import COLUMNS, TABLE
from speechbrain_mamba.utils.files import write_csv

RATE = 8000


def tone(path, pitch, seconds):
    write_audio(path, 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(int(seconds * RATE)) / RATE), RATE)
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
    summary = SynthesisReport(recognize, embed, n_examples=2).write(folder)
    assert summary["utterances"] == 3 and summary["finished"] == pytest.approx(200 / 3)
    assert summary["wer"] == pytest.approx(100 * 2 / 5)  # "four" and "five" are missing
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
    summary = SynthesisReport(n_examples=0).write(folder)
    assert "wer" not in summary and "right_speaker" not in summary and summary["rtf"] == pytest.approx(1.5)
    assert not (folder / "wer.txt").exists() and not (folder / "similarity.png").exists()


def test_recordings_that_are_gone_are_named_and_left_out(folder, caplog):
    (folder / "low.wav").unlink()
    summary = SynthesisReport(recognize, embed).write(folder)
    assert "reference_wer" not in summary and "similarity" not in summary and summary["wer"] == pytest.approx(40)
    assert "1 recordings to compare with are not there any more" in caplog.text


def test_a_folder_without_speech_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no synthesis\.csv: train\.py writes it"):
        SynthesisReport().write(tmp_path)
    write_csv(tmp_path / TABLE, [], COLUMNS)
    with pytest.raises(ValueError, match="lists no utterance"):
        SynthesisReport().write(tmp_path)


def test_punctuation_and_case_do_not_count():
    assert normalize_words(" «Ça va?» It’s 5. ") == "ÇA VA IT’S 5"

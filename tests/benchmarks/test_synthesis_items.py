"""Items of studies of synthesis, and the files of those studies."""

from __future__ import annotations

import pytest

from quality.items import READERS
from quality.study_file import find_study, read_study
from speechbrain_mamba.utils.files import write_csv


def test_items_of_synthesis_have_errors_and_scores(tmp_path):
    columns = [
        "ID",
        "wer",
        "reference_wer",
        "similarity",
        "mcd",
        "duration_error",
        "rtf",
        "wrd",
        "hypothesis",
        "unscored",
    ]
    rows = [
        {"ID": "a", "wer": 200 / 3, "reference_wer": 0.0, "similarity": 0.5, "mcd": 3.0, "duration_error": -20.0,
         "rtf": 0.1, "wrd": "one, two three", "hypothesis": "ONE", "unscored": ""},
        {"ID": "b", "wrd": "four", "unscored": "the speech is silent"},
        {"ID": "c", "rtf": 0.2, "wrd": "five six"},
    ]  # fmt: skip
    write_csv(tmp_path / "test" / "results.csv", rows, columns)
    first, silent, unheard = READERS["tts"](tmp_path)
    assert first["item"] == "a" and first["length"] == first["words"] == 3
    assert (first["word_errors"], first["reference_word_errors"]) == (2, 0)
    assert first["absolute_duration_error"] == 20 and first["mcd"] == 3
    assert silent == {"item": "b", "length": 1, "words": 1, "word_errors": 1}  # nothing is said: all is wrong
    assert unheard == {"item": "c", "length": 2, "rtf": 0.2}


@pytest.mark.parametrize("name", ["decoders", "synthesis", "codec_rate"])
def test_files_of_studies_are_read(name, tmp_path):
    study = read_study(find_study(name), tmp_path)
    assert study.baseline in [system.name for system in study.systems]
    options = {(system.hparams, *sorted(map(str, system.options.items()))) for system in study.systems}
    assert len(options) == len(study.systems)

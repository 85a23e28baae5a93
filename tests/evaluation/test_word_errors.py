"""Word error rates, against jiwer."""

import jiwer
import pytest

from speechbrain_mamba.evaluation.word_errors import WordErrors, normalize_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" «Ça va?» It’s 5. ", "ÇA VA IT’S 5"),
        ("rock'n'roll, 'quoted' dogs'", "ROCK'N'ROLL QUOTED DOGS"),
        ("well-known — straße\n", "WELL KNOWN STRASSE"),
        ("...", ""),
    ],
)
def test_punctuation_and_case_do_not_count(text, words):
    assert normalize_words(text) == words


def test_errors_are_counted_over_all_utterances(tmp_path):
    pairs = {"a": ("ONE TWO THREE", "ONE THREE  FOUR"), "b": ("FIVE", ""), "c": ("ZERO OH", "ZERO OH")}
    references, hypotheses = zip(*((reference, " ".join(text.split())) for reference, text in pairs.values()))
    for errors, rate in ((WordErrors(), jiwer.wer), (WordErrors(characters=True), jiwer.cer)):
        assert errors.rate() is None
        for name, (reference, hypothesis) in pairs.items():
            expected = 100 * rate(reference, " ".join(hypothesis.split()))
            assert errors.add(name, hypothesis, reference) == pytest.approx(expected)
        assert errors.rate() == pytest.approx(100 * rate(list(references), list(hypotheses)))


def test_alignments_are_those_of_all_utterances_so_far(tmp_path):
    errors = WordErrors()
    for count, name in enumerate("ab", start=1):
        errors.add(name, "ONE", "ONE TWO")
        errors.write_alignments(tmp_path / "wer.txt")
        text = (tmp_path / "wer.txt").read_text(encoding="utf-8")
        assert f"[ {count} / {2 * count}, 0 ins, {count} del, 0 sub ]" in text

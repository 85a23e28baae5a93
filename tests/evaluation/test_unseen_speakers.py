"""Scores over mixtures of people who were in no training."""

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.evaluation.unseen_speakers import by_pair, digit_mixtures, score_mixtures, summarize


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdd")
    generator = torch.Generator().manual_seed(0)
    for speaker in ("anna", "ben", "carl"):
        for take in (0, 5, 10):
            signal = 0.1 * torch.randn(2000, generator=generator)
            write_audio(folder / f"recordings/3_{speaker}_{take}.wav", signal, 8000)
    return folder


def test_mixtures_are_of_two_speakers_and_always_the_same(fsdd):
    first, again = (list(digit_mixtures(fsdd, 6, 0.5)) for _ in range(2))
    assert len(first) == 6
    assert len({mixture.speakers for mixture in first}) > 1
    for one, other in zip(first, again):
        assert len(one.mix) == 4000 and len(set(one.speakers)) == 2
        assert torch.equal(one.mix, other.mix)
    assert len(next(iter(digit_mixtures(fsdd, 1))).mix) == 16000


def test_only_takes_of_the_test_are_heard(fsdd, tmp_path):
    before = [mixture.mix for mixture in digit_mixtures(fsdd, 3, 0.5)]
    for path in (fsdd / "recordings").glob("*_0.wav"):
        write_audio(tmp_path / "recordings" / path.name, torch.zeros(1), 8000)
        (tmp_path / "recordings" / path.name).write_bytes(path.read_bytes())
    after = [mixture.mix for mixture in digit_mixtures(tmp_path, 3, 0.5)]
    assert all(torch.equal(one, other) for one, other in zip(before, after))


def test_a_perfect_separator_gains_and_a_useless_one_does_not(fsdd):
    mixtures = list(digit_mixtures(fsdd, 3, 0.5))
    known = {mixture.mix.sum().item(): mixture.sources.T for mixture in mixtures}
    perfect = score_mixtures(
        lambda mix: known[mix.sum().item()].flip(1)[None] + 1e-4 * torch.randn(1, len(mix[0]), 2), mixtures
    )
    useless = score_mixtures(lambda mix: mix[..., None].expand(-1, -1, 2), mixtures)
    assert all(row["si_snr_i"] > 20 and row["sdr_i"] > 20 for row in perfect)
    assert all(row["si_snr_i"] == pytest.approx(0, abs=1e-3) for row in useless)
    assert [row["speakers"] for row in perfect] == [" and ".join(sorted(m.speakers)) for m in mixtures]


def test_pairs_are_summed_up_one_by_one():
    rows = [("a and b", 4), ("a and b", -2), ("b and c", 3)]
    rows = [{"speakers": pair, "si_snr_i": gain, "sdr_i": gain + 1} for pair, gain in rows]
    found = by_pair(rows)
    assert list(found) == ["b and c", "a and b"]
    assert found["a and b"] == {"mixtures": 2, "si_snr_i": 1, "sdr_i": 2, "worse": 50}
    assert summarize(rows) == {
        "si_snr_i": pytest.approx(5 / 3),
        "sdr_i": pytest.approx(8 / 3),
        "worse": pytest.approx(100 / 3),
    }

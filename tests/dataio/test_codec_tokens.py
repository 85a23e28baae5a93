"""Codec tokens on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechbrain_mamba.dataio.codec_tokens import TokenFacts, read_tokens, token_dataset, write_tokens

FACTS = TokenFacts("codec", sample_rate=8000, frame_rate=50.0, n_codebooks=3, codebook_size=1024)


@pytest.fixture
def utterances() -> list[dict]:
    """Utterances of different lengths, one of them without a frame."""
    rng = np.random.default_rng(0)
    return [
        {
            "ID": f"utterance-{i}",
            "spk_id": "speaker, first",
            "wrd": "a text, with a comma",
            "phonemes": rng.integers(40, size=5).tolist(),
            "codes": rng.integers(1024, size=(frames, 3)),
        }
        for i, frames in enumerate((7, 0, 100))
    ]


def test_what_is_written_is_read(utterances, tmp_path):
    assert write_tokens(tmp_path, "train", utterances, FACTS) == 3
    items, codes, facts = read_tokens(tmp_path, "train")
    assert facts == FACTS
    for utterance, example in zip(utterances, token_dataset(items, codes)):
        assert example["id"] == utterance["ID"]
        assert example["phonemes"].tolist() == utterance["phonemes"]
        assert torch.equal(example["codes"], torch.as_tensor(utterance["codes"]))
        assert items[utterance["ID"]]["wrd"] == utterance["wrd"]
        assert items[utterance["ID"]]["duration"] == len(utterance["codes"]) / 50
    assert (tmp_path / "train.codes.bin").stat().st_size == 107 * 3 * 2
    assert len(list(tmp_path.iterdir())) == 3


def test_damaged_files_are_named(utterances, tmp_path):
    write_tokens(tmp_path, "train", utterances, FACTS)
    path = tmp_path / "train.codes.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="641 bytes instead of 642, it was cut off"):
        read_tokens(tmp_path, "train")
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(ValueError, match="its checksum differs"):
        read_tokens(tmp_path, "train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="prepare the data first"):
        read_tokens(tmp_path, "train")


@pytest.mark.parametrize("codes", [np.zeros((4, 2), int), np.full((4, 3), 1024), np.zeros(3, int)])
def test_codes_that_do_not_fit_leave_nothing_behind(utterances, tmp_path, codes):
    utterances[2]["codes"] = codes
    with pytest.raises(ValueError, match="The codes of 'utterance-2'"):
        write_tokens(tmp_path, "train", utterances, FACTS)
    assert list(tmp_path.iterdir()) == []


def test_another_codec_is_named():
    FACTS.check(FACTS)
    other = TokenFacts("other", sample_rate=8000, frame_rate=75.0, n_codebooks=3, codebook_size=1024)
    with pytest.raises(ValueError, match=r"frame_rate of 50\.0, but the codec given has 75\.0"):
        FACTS.check(other)

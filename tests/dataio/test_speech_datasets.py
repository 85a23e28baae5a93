"""Datasets of speech."""

import pytest
import torch

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.dataio.speech_datasets import piece_dataset, recognition_dataset, recognition_example
from speechbrain_mamba.text.tokenizer import FILE_NAME, train_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return train_tokenizer(tmp_path / FILE_NAME, ["ABBA", "ABAB"], vocab_size=6, token_type="char")


@pytest.mark.parametrize(("speed", "samples"), [(2, 800), (1, 800), (-1, 1600)])
def test_a_signal_too_short_for_its_transcript_is_not_made_faster(tokenizer, tmp_path, speed, samples):
    """From a manifest and from a shard."""
    signal, asked = torch.arange(800) / 1000, []
    write_audio(tmp_path / "a.wav", signal, sample_rate=8000)
    item = {"duration": 0.1, "wav": str(tmp_path / "a.wav"), "wrd": "AB"}

    def perturb(signal):
        return signal[:, ::speed] if speed > 0 else signal.repeat(1, 2)

    def has_room(samples, tokens):
        asked.append((samples, tokens))
        return False

    (example,) = recognition_dataset({"a": item}, tokenizer, 8000, speed_perturb=perturb, has_room=has_room)
    of_shard = recognition_example(
        tokenizer, 1, 2, perturb, lambda facts: None, {**item, "id": "a"}, lambda: signal, has_room=has_room
    )
    assert len(example["sig"]) == len(of_shard["sig"]) == samples
    assert asked == ([(400, tokenizer.encode("AB"))] * 2 if speed == 2 else [])


def test_dataset(tokenizer, tmp_path):
    write_audio(tmp_path / "a.wav", torch.arange(800) / 1000, sample_rate=8000)
    item = {"duration": 0.1, "wav": str(tmp_path / "a.wav"), "wrd": "AB"}
    dataset = recognition_dataset({"a": item}, tokenizer, 8000, speed_perturb=lambda signal: signal[:, ::2])
    example = dataset[0]
    assert set(example) == {"id", "sig", "wrd", "tokens", "tokens_bos", "tokens_eos"}
    assert example["sig"].shape == (400,) and example["wrd"] == "AB" and example["id"] == "a"
    assert tokenizer.decode(example["tokens"].tolist()) == "AB"
    assert example["tokens_bos"].tolist() == [1, *example["tokens"].tolist()]
    assert example["tokens_eos"].tolist() == [*example["tokens"].tolist(), 2]
    whole = recognition_dataset({"a": item}, tokenizer, 8000, bos_index=4, eos_index=5)[0]
    assert torch.equal(whole["sig"][::2], example["sig"]) and len(whole["sig"]) == 800
    assert whole["tokens"].tolist() == example["tokens"].tolist()
    assert whole["tokens_bos"].tolist() == [4, *whole["tokens"].tolist()]
    assert whole["tokens_eos"].tolist() == [*whole["tokens"].tolist(), 5]


def test_datasets_take_no_file_of_another_rate(tokenizer, tmp_path):
    write_audio(tmp_path / "a.wav", torch.zeros(800), sample_rate=8000)
    items = {"a": {"duration": 0.1, "wav": str(tmp_path / "a.wav"), "wrd": "AB"}}
    for dataset in (recognition_dataset(items, tokenizer, 16000), piece_dataset(items, 16000)):
        with pytest.raises(ValueError, match="a sample rate of 8000 Hz, but 16000 Hz are wanted"):
            dataset[0]


@pytest.fixture
def sounds(tmp_path):
    """Two sounds whose samples count up, at 1000 Hz."""
    items = {}
    for name, length, speaker in (("short", 50, "anna"), ("long", 60, "ben")):
        write_audio(tmp_path / f"{name}.wav", torch.arange(length, dtype=torch.int16), 1000)
        items[name] = {"wav": tmp_path / f"{name}.wav", "spk_id": speaker, "wrd": "hello"}
    return items


def test_whole_sounds_are_as_they_are(sounds):
    for dataset in (piece_dataset(sounds, 1000), piece_dataset(sounds, 1000, seconds=0.06)):
        examples = list(dataset)
        assert [set(example) for example in examples] == [{"id", "sig"}] * 2
        assert [example["id"] for example in examples] == ["short", "long"]
        for example, length in zip(examples, (50, 60)):
            assert torch.equal(example["sig"] * 32768, torch.arange(length).float())


def test_pieces_are_of_one_length_from_any_place(sounds):
    dataset = piece_dataset(sounds, 1000, seconds=0.0554, keys=["spk_id", "wrd"])
    assert dataset[0]["spk_id"] == "anna" and dataset[1]["wrd"] == "hello"
    assert len(dataset[0]["sig"]) == 50
    pieces = [dataset[1]["sig"] * 32768 for _ in range(80)]
    assert all(torch.equal(piece, piece[0] + torch.arange(55.0)) for piece in pieces)
    assert {int(piece[0]) for piece in pieces} == {0, 1, 2, 3, 4, 5}

"""Codec tokens on disk."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from speechbrain_mamba.dataio import codec_tokens as module
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


def test_every_column_and_fact_is_kept(tmp_path):
    facts = TokenFacts("folder of the codec", sample_rate=24000, frame_rate=12.5, n_codebooks=2, codebook_size=65536)
    utterances = [
        {
            "ID": "first",
            "duration": 0.23,
            "spk_id": "Zoë",
            "language": "de",
            "wrd": 'sagt "fünf"',
            "wav": "$data_root/a, b.wav",
            "phonemes": [],
            "codes": [[1, 65535], [256, 0], [2, 7]],
        },
        {"ID": "second", "spk_id": 7, "wrd": "", "phonemes": [3, 12], "codes": np.array([[9, 8]], np.uint16)},
    ]
    assert write_tokens(tmp_path / "new" / "folder", "test", utterances, facts) == 2
    items, codes, read = read_tokens(tmp_path / "new" / "folder", "test")
    assert read == facts
    assert codes.tolist() == [[1, 65535], [256, 0], [2, 7], [9, 8]]
    kept = {name: value for name, value in utterances[0].items() if name not in ("ID", "codes")}
    assert items["first"] == {**kept, "first_frame": 0, "frames": 3}
    assert items["second"] == {
        "duration": 0.08, "spk_id": "7", "language": "", "wrd": "", "wav": "", "phonemes": [3, 12], "first_frame": 3,
        "frames": 1,
    }  # fmt: skip
    assert list(items) == ["first", "second"]


def test_codes_are_sixteen_bits_each_frame_after_frame(utterances, tmp_path):
    write_tokens(tmp_path, "train", utterances, FACTS)
    stored = np.fromfile(tmp_path / "train.codes.bin", "<u2")
    assert stored.tolist() == np.concatenate([utterance["codes"].ravel() for utterance in utterances]).tolist()


def test_any_part_of_the_items_is_a_dataset(utterances, tmp_path):
    write_tokens(tmp_path, "train", utterances, FACTS)
    items, codes, _ = read_tokens(tmp_path, "train")
    dataset = token_dataset({"utterance-2": items["utterance-2"]}, codes)
    assert len(dataset) == 1 and dataset.data["utterance-2"]["frames"] == 100
    example = dataset[0]
    assert set(example) == {"id", "phonemes", "codes"}
    assert example["codes"].dtype == example["phonemes"].dtype == torch.int64
    assert example["codes"].tolist() == utterances[2]["codes"].tolist()
    example["codes"].zero_()
    assert dataset[0]["codes"].tolist() == utterances[2]["codes"].tolist()


@pytest.mark.parametrize("count", [0, 1])
def test_a_split_without_frames_is_read(count, utterances, tmp_path):
    write_tokens(tmp_path, "test", utterances[1 : 1 + count], FACTS)
    items, codes, facts = read_tokens(tmp_path, "test")
    assert len(items) == count and codes.shape == (0, 3) and facts == FACTS


def test_splits_lie_beside_each_other_and_are_written_anew(utterances, tmp_path):
    for split, chosen in (("train", utterances), ("valid", utterances[2:]), ("train", utterances[:1])):
        write_tokens(tmp_path, split, chosen, FACTS)
    assert read_tokens(tmp_path, "valid")[1].tolist() == utterances[2]["codes"].tolist()
    assert read_tokens(tmp_path, "train")[1].tolist() == utterances[0]["codes"].tolist()
    assert list(read_tokens(tmp_path, "train")[0]) == ["utterance-0"]


def test_damaged_codes_are_named(utterances, tmp_path):
    write_tokens(tmp_path, "train", utterances, FACTS)
    path = tmp_path / "train.codes.bin"
    data = path.read_bytes()
    read_tokens(tmp_path, "train")
    for other, size in ((data[:-1], 641), (data + data[:6], 648)):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=rf"train\.codes\.bin' has {size} bytes instead of 642, it was cut off"):
            read_tokens(tmp_path, "train")
    for position in (0, 300, 641):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(ValueError, match=r"train\.codes\.bin' was changed after writing, its checksum differs"):
            read_tokens(tmp_path, "train")


def rewrite_facts(folder, **changes):
    """Change numbers in the file of facts; None removes one."""
    path = folder / "train.json"
    facts = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))


def test_damaged_tables_are_named(utterances, tmp_path):
    write_tokens(tmp_path, "train", utterances, FACTS)
    path = tmp_path / "train.csv"
    text = path.read_text()
    for other in (text[:-1], text + text.splitlines()[-1] + "\n", text.replace("comma", "colon", 1), ""):
        path.write_text(other)
        with pytest.raises(ValueError, match=r"train\.csv' was cut off or changed .* checksum differs: prepare"):
            read_tokens(tmp_path, "train")


def test_tables_without_a_checksum_have_to_go_with_the_codes(utterances, tmp_path):
    """As earlier versions wrote them."""
    write_tokens(tmp_path, "train", utterances, FACTS)
    rewrite_facts(tmp_path, table_crc32=None, rows=None)
    path = tmp_path / "train.csv"
    text = path.read_text()
    assert len(read_tokens(tmp_path, "train")[0]) == len(utterances)
    lines = text.splitlines(keepends=True)
    for other, words in (
        ("".join(lines[:-1]), "lists 7 frames, but 107 were written"),
        ("".join([*lines[:1], lines[-1], *lines[1:-1]]), "at frame 7, but the rows before it end at 0"),
        (text.replace("first_frame", "frame"), "has a row that is not of an utterance"),
        (text[:-4], "has a row that is not of an utterance"),
    ):
        path.write_text(other)
        with pytest.raises(ValueError, match=words):
            read_tokens(tmp_path, "train")


def test_an_id_that_occurs_twice_is_named(utterances, tmp_path):
    write_tokens(tmp_path, "train", [utterances[0], utterances[2], utterances[0]], FACTS)
    with pytest.raises(ValueError, match=r"train\.csv' has ids that occur twice"):
        read_tokens(tmp_path, "train")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"codec": "a"}', '{"frames": 1}'])
def test_damaged_facts_are_named(utterances, tmp_path, text):
    write_tokens(tmp_path, "train", utterances, FACTS)
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=r"train\.json' does not describe tokens .*: prepare the data again"):
        read_tokens(tmp_path, "train")


def test_codes_with_the_facts_of_others_are_named(utterances, tmp_path):
    write_tokens(tmp_path, "train", utterances, FACTS)
    write_tokens(tmp_path, "valid", utterances[:1], FACTS)
    (tmp_path / "valid.json").rename(tmp_path / "train.json")
    with pytest.raises(ValueError, match="642 bytes instead of 42"):
        read_tokens(tmp_path, "train")


@pytest.mark.parametrize("suffix", ["codes.bin", "csv", "json"])
def test_a_missing_file_is_named(utterances, tmp_path, suffix):
    write_tokens(tmp_path, "train", utterances, FACTS)
    (tmp_path / f"train.{suffix}").unlink()
    with pytest.raises(FileNotFoundError, match=rf"train\.{suffix}': prepare the data first"):
        read_tokens(tmp_path, "train")


def test_a_killed_writer_leaves_no_table(utterances, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    def killed_while_encoding():
        yield utterances[0]
        killed()

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path, "train", killed_while_encoding(), FACTS)
    assert list(tmp_path.iterdir()) == []
    for function in ("file_crc32", "write_json") * 2:  # later times over an earlier split
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, function, killed)
            write_tokens(tmp_path, "train", utterances, FACTS)
        assert {path.name for path in tmp_path.iterdir()} <= {"train.codes.bin", "train.json"}
        with pytest.raises(FileNotFoundError, match=r"train\.(csv|json)"):
            read_tokens(tmp_path, "train")
        write_tokens(tmp_path, "train", utterances[:1], FACTS)
    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path, "train", killed_while_encoding(), FACTS)
    assert len(read_tokens(tmp_path, "train")[0]) == 1


@pytest.mark.parametrize(
    "codes",
    [np.zeros((4, 2), int), np.zeros((4, 4), int), np.full((4, 3), 1024), np.full((4, 3), -1), np.zeros(3, int)],
)
def test_codes_that_do_not_fit_leave_nothing_behind(utterances, tmp_path, codes):
    utterances[2]["codes"] = codes
    with pytest.raises(ValueError, match=r"The codes of 'utterance-2' .* \(frames, 3\) and from 0 to 1023"):
        write_tokens(tmp_path, "train", utterances, FACTS)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_code_fits(utterances, tmp_path):
    utterances[2]["codes"] = np.array([[0, 1023, 5]])
    assert write_tokens(tmp_path, "train", utterances, FACTS) == 3


@pytest.mark.parametrize(
    ("name", "value"), [("sample_rate", 16000), ("frame_rate", 75.0), ("n_codebooks", 2), ("codebook_size", 512)]
)
def test_another_codec_is_named(name, value):
    FACTS.check(dataclasses.replace(FACTS, codec="the same by another name"))
    with pytest.raises(ValueError, match=f"made by 'codec' with a {name} of .*{getattr(FACTS, name)}.* has {value}"):
        FACTS.check(dataclasses.replace(FACTS, **{name: value}))

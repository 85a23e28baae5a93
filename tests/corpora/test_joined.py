"""Joined utterances: which ones, their sound and their words."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from speechbrain_mamba.corpora.joined import choose_groups, prepare_joined
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.manifests import SPLITS, read_manifest, write_manifest

COLUMNS = ("duration", "wav", "wrd", "spk_id")


@pytest.fixture
def manifests(tmp_path):
    """Manifests of two speakers with five and three utterances, each of another level and length."""
    level = 0
    for split in SPLITS:
        rows = []
        for speaker, count in (("anna", 5), ("ben", 3)):
            for i in range(count):
                level += 1
                path = tmp_path / "wavs" / f"{split}_{speaker}{i}.wav"
                write_audio(path, torch.full((800 + 8 * level,), level / 100), 8000)
                rows.append(
                    {"ID": path.stem, "duration": (800 + 8 * level) / 8000, "wav": path, "wrd": f"W{level}",
                     "spk_id": speaker}
                )  # fmt: skip
        write_manifest(tmp_path / f"{split}.csv", rows)
    return tmp_path


def test_recordings_are_joined_with_their_words(manifests):
    found = prepare_joined(manifests, manifests / "out", train=[1, 2], test=[1, 3])
    assert list(found) == ["train", "valid", "test_1", "test_3"]
    singles = read_manifest(manifests / "test.csv", columns=COLUMNS)
    joined = read_manifest(found["test_3"], columns=COLUMNS)
    assert Counter(item["spk_id"] for item in joined.values()) == {"anna": 1, "ben": 1}
    for name, item in joined.items():
        parts = [singles[part] for part in name.split("+")]
        assert len(parts) == 3 and item["wrd"] == " ".join(part["wrd"] for part in parts)
        wav = torch.cat([read_audio(part["wav"]) for part in parts])
        assert torch.equal(read_audio(item["wav"]), wav) and item["duration"] == len(wav) / 8000
        assert {part["spk_id"] for part in parts} == {item["spk_id"]}
    for name, item in read_manifest(found["test_1"], columns=COLUMNS).items():
        assert {key: item[key] for key in COLUMNS} == {key: singles[name][key] for key in COLUMNS}
    assert Counter(item["joined"] for item in read_manifest(found["train"]).values()) == {"1": 8, "2": 3}


def test_the_number_of_utterances_is_limited_and_all_speakers_talk(manifests):
    found = prepare_joined(manifests, manifests / "out", train_utterances=4, test_utterances=2, test=[1, 2])
    counts = {name: len(read_manifest(path)) for name, path in found.items()}
    assert counts == {"train": 4 + 2, "valid": 2 + 1, "test_1": 2, "test_2": 1}
    assert {item["spk_id"] for item in read_manifest(found["test_1"]).values()} == {"anna", "ben"}


def test_groups_depend_on_the_seed_alone_and_use_each_utterance_once():
    items = {f"{speaker}{i}": {"spk_id": speaker} for speaker in "abc" for i in range(7)}
    for size in (1, 2, 3):
        groups = choose_groups(items, size)
        assert groups == choose_groups(items, size)
        used = [name for group in groups for name in group]
        assert len(used) == len(set(used)) == 3 * (7 // size) * size
    assert choose_groups(items, 2) != choose_groups(items, 2, seed=1)
    assert {name for group in choose_groups(items, 4, 12) for name in group} == {
        name for name in [group for pair in choose_groups(items, 2, 12) for group in pair]
    }  # the same utterances, in longer recordings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": []}, "train is \\[\\], but must be different numbers"),
        ({"test": [2, 2]}, "test is \\[2, 2\\]"),
        ({"test": [0]}, "at least 1"),
        ({"test": [9]}, "No speaker of '.*test.csv' has 9 utterances"),
    ],
)
def test_numbers_that_cannot_be_joined_are_an_error(manifests, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_joined(manifests, manifests / "out", **options)

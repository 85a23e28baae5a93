"""Transcribed speech to tokens."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import torchaudio.functional

from speechbrain_mamba.codecs import token_shards
from speechbrain_mamba.codecs import tokenize_speech as module
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.codec_tokens import read_tokens
from speechbrain_mamba.dataio.manifests import write_manifest
from speechbrain_mamba.text.espeak import espeak_available, phonemes
from speechbrain_mamba.text.phonemes import TextTokenizer, split_phonemes
from speechbrain_mamba.utils.files import write_csv

needs_espeak = pytest.mark.skipif(not espeak_available(), reason="espeak-ng is not installed")

TEXTS = {"a": "one", "b": "two", "c": "one two", "d": "eleven", "e": "..."}


@pytest.fixture
def codec():
    """A small codec."""
    pytest.importorskip("encodec", reason="the package encodec is not installed")
    from speechbrain_mamba.codecs import EnCodec

    torch.manual_seed(0)
    codec = EnCodec(8000, (5, 4, 4), n_codebooks=2, codebook_size=16, dimension=8, n_filters=2)
    codec(torch.randn(4, 4000))
    return codec.eval()


@pytest.fixture
def manifests(tmp_path) -> dict:
    """Utterances of different lengths: one at another rate, and for the test a word and no word."""
    rows = []
    for index, name in enumerate(TEXTS):
        wav, rate = 0.1 * torch.randn(2000 + 700 * index), 16000 if name == "b" else 8000
        write_audio(tmp_path / f"{name}.wav", wav, rate)
        row = {"ID": name, "duration": len(wav) / rate, "wav": tmp_path / f"{name}.wav", "wrd": TEXTS[name]}
        rows.append(row | {"spk_id": f"speaker {name}"})
    write_manifest(tmp_path / "train.csv", rows[:3])
    write_manifest(tmp_path / "test.csv", rows[1:])
    return {split: tmp_path / f"{split}.csv" for split in ("train", "test")}


def test_tokens_are_those_of_each_utterance_alone(manifests, codec, tmp_path):
    counts = module.tokenize_speech(manifests, tmp_path / "tokens", codec, "small", kind="characters")
    assert counts == {"train": 3, "test": 2}  # letters of eleven, and dots, are not in the training texts
    items, codes, facts = read_tokens(tmp_path / "tokens", "train")
    assert (facts.codec, facts.frame_rate) == ("small", 100.0)
    assert items["c"]["spk_id"] == "speaker c" and items["c"]["wrd"] == "one two"
    for name in "abc":
        wav = read_audio(tmp_path / f"{name}.wav", 16000 if name == "b" else 8000)
        wav = torchaudio.functional.resample(wav, 16000, 8000) if name == "b" else wav
        expected, _ = codec.encode(wav[None])
        first, frames = items[name]["first_frame"], items[name]["frames"]
        assert (codes[first : first + frames] == expected[0].numpy()).all()


def test_a_killed_run_goes_on_and_a_completed_one_is_found_done(manifests, codec, tmp_path, monkeypatch):
    monkeypatch.setattr(token_shards, "SHARD", 1)
    whole, folder = tmp_path / "whole", tmp_path / "tokens"
    module.tokenize_speech(manifests, whole, codec, "small", kind="characters")
    encoded, encode = [], codec.encode

    def dies_at_the_third(*arguments):
        encoded.append(1)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(codec, "encode", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        module.tokenize_speech(manifests, folder, codec, "small", kind="characters")
    assert not (folder / "train.csv").exists()
    module.tokenize_speech(manifests, folder, codec, "small", kind="characters")
    assert len(encoded) == 3 + 5  # two were kept, one is new, and the four of the test
    module.tokenize_speech(manifests, folder, codec, "small", kind="characters")
    assert len(encoded) == 8
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in folder.iterdir())
    for name in names:
        assert (whole / name).read_bytes() == (folder / name).read_bytes()


def test_what_cannot_be_read_is_left_out(manifests, codec, tmp_path, caplog):
    (tmp_path / "b.wav").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"b\.wav"):
        read_audio(tmp_path / "b.wav", 8000)
    counts = module.tokenize_speech(manifests, tmp_path / "tokens", codec, "small", kind="characters")
    assert counts == {"train": 2, "test": 1}
    assert "b is left out" in caplog.text


def test_a_file_that_is_missing_stops_it(manifests, codec, tmp_path):
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match=r"train\.csv', line 2: 'a' cannot be used\. .*a\.wav' does not exist"):
        module.tokenize_speech(manifests, tmp_path / "tokens", codec, "small", kind="characters")


class Loudness(torch.nn.Module):
    """A codec of the test: each frame of 10 ms of an utterance is how loud it is, in thousandths, and the book."""

    sample_rate, frame_rate, n_codebooks, codebook_size = 8000, 100.0, 3, 1024

    def __init__(self, offset=0):
        super().__init__()
        self.offset, self.batches, self.devices = offset, [], []

    def to(self, device):
        self.devices.append(device)
        return super().to(device)

    def encode(self, wavs, lengths):
        assert not self.training
        assert wavs.shape == (len(lengths), max(lengths)) and lengths.dtype == torch.int64
        assert all(wav[length - 1] and not wav[length:].any() for wav, length in zip(wavs, lengths))
        self.batches.append(lengths.tolist())
        frames = -(-lengths // (self.sample_rate // 100))
        codes = (wavs[:, 200:201] * 1000).round().long()[..., None] + torch.arange(self.n_codebooks) + self.offset
        codes = codes.repeat(1, int(frames.max()), 1)
        return codes.masked_fill(torch.arange(codes.shape[1])[:, None] >= frames[:, None, None], 9), frames


def write_speech(folder, utterances, split="train"):
    """Write a manifest of (name, seconds, text, language): the n-th utterance is 10 n thousandths loud, from 1."""
    rows = []
    for number, (name, seconds, text, language) in enumerate(utterances, start=1):
        write_audio(folder / f"{split}-{name}.wav", torch.full((round(8000 * seconds),), number / 100), 8000)
        wav = f"$data_root/{split}-{name}.wav"
        rows.append({"ID": name, "duration": seconds, "wav": wav, "wrd": text, "spk_id": "s", "language": language})
    write_csv(folder / f"{split}.csv", rows, list(rows[0]))
    return {split: folder / f"{split}.csv"}


UTTERANCES = [("a", 0.5, "one", ""), ("b", 0.2, "two", ""), ("c", 1.505, "one two", ""), ("d", 0.3, "two", "")]
UTTERANCES += [("e", 0.5, "two one", ""), ("f", 0.25, "one", "")]


def tokenize(tmp_path, codec, name="loudness", kind="characters", **options):
    manifests = {path.stem: path for path in sorted(tmp_path.glob("*.csv"), reverse=True)}
    options = {"data_root": tmp_path, **options}
    return module.tokenize_speech(manifests, tmp_path / "tokens", codec, name, kind, **options)


def test_batches_are_of_like_lengths_and_limited_with_their_padding(tmp_path, monkeypatch):
    monkeypatch.setattr(token_shards, "_BATCH_SECONDS", 1)
    write_speech(tmp_path, UTTERANCES)
    codec = Loudness()
    assert tokenize(tmp_path, codec, device="cpu:0") == {"train": 6}
    assert codec.batches == [[1600, 2000, 2400], [4000, 4000], [12040]]
    assert codec.devices == ["cpu:0"]
    items, codes, facts = read_tokens(tmp_path / "tokens", "train")
    assert list(items) == list("abcdef")
    assert [item["frames"] for item in items.values()] == [50, 20, 151, 30, 50, 25]
    assert [item["duration"] for item in items.values()] == [0.5, 0.2, 1.505, 0.3, 0.5, 0.25]
    for number, item in enumerate(items.values(), start=1):
        first = item["first_frame"]
        assert (
            codes[first : first + item["frames"]].tolist()
            == [[10 * number + book for book in range(3)]] * item["frames"]
        )
    assert (facts.codec, facts.sample_rate, facts.frame_rate) == ("loudness", 8000, 100.0)
    assert (facts.n_codebooks, facts.codebook_size) == (3, 1024)


def test_batches_are_large_unless_they_are_told_not_to_be(tmp_path):
    write_speech(tmp_path, [(str(number), 4, "one", "") for number in range(11)])
    codec = Loudness()
    tokenize(tmp_path, codec)
    assert [len(batch) for batch in codec.batches] == [10, 1]


def test_shards_are_parts_of_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(token_shards, "SHARD", 4)
    write_speech(tmp_path, UTTERANCES)
    codec = Loudness()
    tokenize(tmp_path, codec)
    assert codec.batches == [[1600, 2400, 4000, 12040], [2000, 4000]]
    assert list(read_tokens(tmp_path / "tokens", "train")[0]) == list("abcdef")
    names = {path.name for path in (tmp_path / "tokens").iterdir()}
    assert names == {"prepared.json", "text.json", "train.codes.bin", "train.csv", "train.json"}


def test_the_inventory_is_that_of_the_training_texts(tmp_path, caplog):
    write_speech(tmp_path, UTTERANCES)
    texts = {"x0": "on", "x1": "was", "x2": "ten", "x3": "zwo", "x4": "net"}
    write_speech(tmp_path, [(name, 0.1, text, "") for name, text in texts.items()], "test")
    assert tokenize(tmp_path, Loudness(), language="de") == {"train": 6, "test": 3}
    inventory = TextTokenizer.load(tmp_path / "tokens" / "text.json")
    assert (inventory.kind, inventory.language, inventory.symbols) == ("characters", "de", list(" enotw"))
    items, _, _ = read_tokens(tmp_path / "tokens", "test")
    assert {name: item["phonemes"] for name, item in items.items()} == {"x0": [3, 2], "x2": [4, 1, 2], "x4": [2, 1, 4]}
    assert all(item["wrd"] == texts[name] for name, item in items.items())
    (message,) = caplog.messages
    assert message.startswith("2 of 5 texts for test are left out. x1: ") and " x3: " in message


def test_of_the_texts_that_are_left_out_five_are_named(tmp_path, caplog):
    write_speech(tmp_path, UTTERANCES)
    write_speech(tmp_path, [("good", 0.1, "one", ""), *((f"x{number}", 0.1, "a", "") for number in range(6))], "test")
    assert tokenize(tmp_path, Loudness()) == {"train": 6, "test": 1}
    (message,) = caplog.messages
    assert message.startswith("6 of 7 texts for test are left out. x0: ") and "x4: " in message and "x5" not in message


@needs_espeak
def test_texts_are_spoken_in_their_own_language_or_the_one_of_all(tmp_path):
    utterances = [("plain", 0.2, "nine", ""), ("german", 0.3, "nine", "de"), ("american", 0.1, "bath", "en-us")]
    write_speech(tmp_path, utterances)
    tokenize(tmp_path, Loudness(), kind="ipa", language="en-gb-x-rp")
    inventory = TextTokenizer.load(tmp_path / "tokens" / "text.json")
    assert (inventory.kind, inventory.language) == ("ipa", "en-gb-x-rp")
    items, _, _ = read_tokens(tmp_path / "tokens", "train")
    for name, _, text, language in utterances:
        symbols = [inventory.symbols[phoneme] for phoneme in items[name]["phonemes"]]
        assert symbols == split_phonemes(phonemes(text, language or "en-gb-x-rp"))
        assert items[name]["language"] == language
    write_speech(tmp_path, utterances)
    monolingual = Loudness()
    module.tokenize_speech({"train": tmp_path / "train.csv"}, tmp_path / "us", monolingual, "", data_root=tmp_path)
    default = TextTokenizer.load(tmp_path / "us" / "text.json")
    assert (default.kind, default.language) == ("ipa", "en-us")


@pytest.mark.parametrize(
    "change",
    [
        "codec_name",
        "kind",
        "language",
        "manifest",
        "split",
        "sample_rate",
        "frame_rate",
        "n_codebooks",
        "codebook_size",
        "weights",
        "data_root",
    ],
)
def test_any_other_setting_makes_the_tokens_anew(tmp_path, change):
    write_speech(tmp_path, UTTERANCES)
    options = {"language": "de"}
    first = tokenize(tmp_path, Loudness(), **options)
    codec = Loudness(offset=100)
    assert tokenize(tmp_path, codec, **options) == first == {"train": 6}
    assert codec.batches == []
    if change == "codec_name":
        options["name"] = "another"
    elif change in ("kind", "language"):
        options[change] = {"kind": "bpe", "language": "fr"}[change]
    elif change == "weights":
        codec.weight = torch.nn.Parameter(torch.ones(3))
    elif change == "data_root":
        shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("*.csv", "tokens"))
        options["data_root"] = tmp_path / "moved"
    elif change == "manifest":
        write_speech(tmp_path, [*UTTERANCES, ("g", 0.1, "one", "")])
    elif change == "split":
        write_speech(tmp_path, UTTERANCES[:1], "valid")
    else:
        setattr(codec, change, getattr(codec, change) // 2)
    counts = tokenize(tmp_path, codec, **options)
    assert counts == {"train": 7 if change == "manifest" else 6} | ({"valid": 1} if change == "split" else {})
    _, codes, facts = read_tokens(tmp_path / "tokens", "train")
    assert codes[0].tolist() == [110, 111, 112][: codec.n_codebooks]
    assert facts.codec == options.get("name", "loudness")
    assert all(getattr(facts, name) == getattr(codec, name) for name in ("sample_rate", "frame_rate", "codebook_size"))
    inventory = TextTokenizer.load(tmp_path / "tokens" / "text.json")
    assert (inventory.kind, inventory.language) == (options.get("kind", "characters"), options["language"])
    codec.batches.clear()
    assert tokenize(tmp_path, codec, **options) == counts
    assert codec.batches == []
    (tmp_path / "tokens" / "train.csv").unlink()
    assert tokenize(tmp_path, codec, **options) == counts
    assert codec.batches


def test_a_killed_run_with_other_settings_leaves_no_codes_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(token_shards, "SHARD", 2)
    write_speech(tmp_path, UTTERANCES)

    class Dies(Loudness):
        def encode(self, wavs, lengths):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().encode(wavs, lengths)

    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path, Dies(), "first")
    second = Loudness(offset=100)
    tokenize(tmp_path, second, "second")
    assert len(second.batches) == 3
    assert read_tokens(tmp_path / "tokens", "train")[1].min() == 110


def test_a_run_that_was_killed_before_its_end_is_not_taken_for_done(tmp_path):
    write_speech(tmp_path, UTTERANCES)
    tokenize(tmp_path, Loudness())
    stamp = tmp_path / "tokens" / "prepared.json"
    content = json.loads(stamp.read_text())
    assert content["counts"] == {"train": 6}
    stamp.write_text(json.dumps({"settings": content["settings"]}))
    codec = Loudness(offset=100)
    assert tokenize(tmp_path, codec) == {"train": 6}
    assert len(codec.batches) == 1


def test_sounds_that_cannot_be_read_are_left_out_of_their_batches(tmp_path, caplog, monkeypatch):
    """One of two in the first batch, and all of the second."""
    monkeypatch.setattr(token_shards, "SHARD", 2)
    write_speech(tmp_path, UTTERANCES)
    for name in "bcd":
        (tmp_path / f"train-{name}.wav").write_bytes(b"nothing")
    codec = Loudness()
    assert tokenize(tmp_path, codec) == {"train": 3}
    assert codec.batches == [[4000], [2000, 4000]]
    items, codes, _ = read_tokens(tmp_path / "tokens", "train")
    assert [(name, codes[item["first_frame"]].tolist()) for name, item in items.items()] == [
        ("a", [10, 11, 12]),
        ("e", [50, 51, 52]),
        ("f", [60, 61, 62]),
    ]
    *messages, summary = caplog.messages
    assert [message[:13] for message in messages] == [f"{name} is left out" for name in "bdc"]
    assert summary == "3 of 6 utterances for train are left out, as their sound cannot be read: b, c, d."


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("parts", [1, 3, 9])
def test_parts_are_merged_to_the_files_of_one_run(manifests, codec, tmp_path, monkeypatch, parts):
    """Seven shards; of nine parts two have none."""
    monkeypatch.setattr(token_shards, "SHARD", 1)
    whole, merged = tmp_path / "whole", tmp_path / "merged"
    counts = module.tokenize_speech(manifests, whole, codec, "small", kind="characters")
    shards = [
        module.tokenize_speech(manifests, merged, codec, "small", kind="characters", part=(part, parts))["shards"]
        for part in reversed(range(1, parts + 1))
    ]
    assert sum(shards) == 7 and max(shards) - min(shards) <= 1
    assert [path.name for path in merged.iterdir()] == [".parts"]
    monkeypatch.setattr(codec, "encode", None)  # nothing is left to encode
    assert module.tokenize_speech(manifests, merged, codec, "small", kind="characters", merge=True) == counts
    assert files(merged) == files(whole)


def test_a_part_resumes_and_is_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(token_shards, "SHARD", 1)
    write_speech(tmp_path, UTTERANCES)

    class Dies(Loudness):
        def encode(self, wavs, lengths):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().encode(wavs, lengths)

    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path, Dies(), part=(1, 2))
    first = Loudness()
    for _ in range(2):
        assert tokenize(tmp_path, first, part=(1, 2)) == {"shards": 3}
        assert first.batches == [[4000]]  # e, the third of a, c and e
    second = Loudness()
    tokenize(tmp_path, second, part=(2, 3))
    tokenize(tmp_path, second, part=(2, 2))
    assert second.batches == [[1600], [2400], [2000]]  # b, and e is there; then d and f
    assert tokenize(tmp_path, Loudness(offset=0), merge=True) == {"train": 6}


def test_a_merge_names_what_is_missing_damaged_or_of_others(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(token_shards, "SHARD", 2)
    write_speech(tmp_path, UTTERANCES)
    tokenize(tmp_path, Loudness(), part=(1, 2))
    with pytest.raises(ValueError, match=r"1 of 3 shards .* missing or damaged .*: train-00000002\. Give the commands"):
        tokenize(tmp_path, Loudness(), merge=True)
    tokenize(tmp_path, Loudness(), part=(2, 2))
    shard = next((tmp_path / "tokens" / ".parts").glob("*/train-00000004.npz"))
    for damaged in (shard.read_bytes()[:-40], b"", bytes(len(shard.read_bytes()))):
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"1 of 3 shards .* train-00000004\."):
            tokenize(tmp_path, Loudness(), merge=True)
        assert "npz' is damaged" in caplog.text
    with pytest.raises(ValueError, match=r"3 of 3 shards .* Some were made with other settings"):
        tokenize(tmp_path, Loudness(), "another codec", merge=True)
    assert {path.name for path in (tmp_path / "tokens").iterdir()} == {".parts"}  # nothing half-written
    codec = Loudness()
    assert tokenize(tmp_path, codec) == {"train": 6}  # encodes the damaged one itself
    assert codec.batches == [[2000, 4000]]


@pytest.mark.parametrize("options", [{"part": (0, 2)}, {"part": (3, 2)}, {"part": (1, 2), "merge": True}])
def test_a_part_that_is_none_is_named(tmp_path, options):
    write_speech(tmp_path, UTTERANCES)
    with pytest.raises(ValueError, match="cannot be encoded: give 1/N to N/N"):
        tokenize(tmp_path, Loudness(), **options)


@pytest.mark.parametrize("name", ["train.codes.bin", "train.csv", "train.json", "text.json"])
def test_damaged_tokens_are_made_again(tmp_path, name):
    write_speech(tmp_path, UTTERANCES)
    tokenize(tmp_path, Loudness())
    whole, path = files(tmp_path / "tokens"), tmp_path / "tokens" / name
    other = b"1" if whole[name][-7:-6] != b"1" else b"2"
    path.write_bytes(whole[name][:-7] + other + whole[name][-6:])
    codec = Loudness()
    assert tokenize(tmp_path, codec) == {"train": 6}
    assert codec.batches and files(tmp_path / "tokens") == whole


def test_ids_may_be_any_text(tmp_path):
    write_speech(tmp_path, [(name, 0.2, "one", "") for name in ("file", "a.npy", "a", "0")])
    assert tokenize(tmp_path, Loudness()) == {"train": 4}
    assert list(read_tokens(tmp_path / "tokens", "train")[0]) == ["file", "a.npy", "a", "0"]


def test_what_stands_done_is_said(tmp_path, caplog):
    write_speech(tmp_path, UTTERANCES)
    with caplog.at_level("INFO"):
        tokenize(tmp_path, Loudness())
        assert not caplog.messages
        tokenize(tmp_path, Loudness())
    assert "Prepared already, with the same settings" in caplog.text and "prepared.json" in caplog.text

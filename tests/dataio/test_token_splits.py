"""The splits of a token folder: what can be used of them, and in which batches."""

from __future__ import annotations

import shutil

import pytest
import torch

from speechbrain_mamba.dataio.codec_tokens import (
    TokenFacts,
    file_crc32,
    read_tokens,
    token_dataset,
    token_sums,
    write_tokens,
)
from speechbrain_mamba.dataio.token_splits import (
    batch_sampler,
    check_preparation,
    load_tokenizer,
    make_dataset,
    read_split,
)
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.hparams import load_hparams
from speechbrain_mamba.utils.stamps import Stamp
from tests.conftest import HPARAMS
from tests.recipes.tts_spies import make_predictable_speech

TINY = {
    "n_phonemes": 12, "n_codebooks": 3, "codebook_size": 16, "num_layers": 1, "d_model": 32, "d_ffn": 32, "nhead": 2,
    "num_buckets": 1, "max_batch_frames": 200,
}  # fmt: skip


@pytest.fixture
def tokens(tmp_path):
    """Speech that says each phoneme for three frames."""
    return make_predictable_speech(tmp_path / "tokens")


def test_speech_goes_behind_other_speech_of_its_speaker(tokens):
    hparams = load_hparams(HPARAMS / "tts" / "mini_vallm.yaml", {**TINY, "token_folder": str(tokens)})
    tokenizer = load_tokenizer(hparams)
    dataset, *_ = make_dataset(hparams, "valid", tokenizer)
    items, codes, _ = read_tokens(tokens, "valid")
    alone = {example["id"]: example for example in token_dataset(items, codes)}
    for example in dataset:
        own = alone[example["id"]]
        assert all(torch.equal(example[key], own[key]) for key in ("codes", "phonemes"))
        prompt = [other for other in alone.values() if torch.equal(other["codes"], example["prompt_codes"])]
        assert items[prompt[0]["id"]]["spk_id"] == items[example["id"]]["spk_id"]
        assert torch.equal(example["prompt_phonemes"], prompt[0]["phonemes"])


def test_a_share_of_the_training_stands_alone(tokens):
    hparams = load_hparams(HPARAMS / "tts" / "mini_vallm.yaml", {**TINY, "token_folder": str(tokens)})
    tokenizer = load_tokenizer(hparams)
    train, prompts, _ = make_dataset(hparams, "train", tokenizer)
    items, codes, _ = read_tokens(tokens, "train")
    alone = {example["id"]: example for example in token_dataset(items, codes)}
    torch.manual_seed(0)
    assert all(len(example["prompt_codes"]) for example in train)
    prompts.share = 0.5
    examples = list(train)
    without = [example for example in examples if len(example["prompt_codes"]) == 0]
    assert 0 < len(without) < len(examples)
    assert not any(len(example["prompt_phonemes"]) for example in without)
    for key in ("codes", "phonemes"):
        assert all(torch.equal(example[key], alone[example["id"]][key]) for example in examples)
    valid, *_ = make_dataset(hparams, "valid", tokenizer)
    assert all(len(example["prompt_codes"]) for example in valid)


def test_short_speech_comes_first(tokens):
    hparams = load_hparams(HPARAMS / "tts" / "mini_vallm.yaml", {**TINY, "token_folder": str(tokens)})
    dataset, *_ = make_dataset(hparams, "train", load_tokenizer(hparams))
    sampler = batch_sampler(
        dataset, {**hparams, "num_buckets": 8, "max_batch_frames": 16}, first_length=6, curriculum_epochs=2
    )
    longest, batches = {}, {}
    for epoch in range(1, 5):
        sampler.set_epoch(epoch)
        batches[epoch] = list(sampler)
        longest[epoch] = max(max(sampler.get_durations(batch)) for batch in batches[epoch])
    assert longest[1] == 6 and 6 < longest[2] < 15 and longest[3] == 15
    assert len({len(epoch) for epoch in batches.values()}) == 1
    assert batches[3] != batches[4]


FRAMES = {"a1": 1, "a2": 2, "a3": 10, "a4": 11, "mute": 5, "b1": 9, "b2": 12, "c1": 7, "c2": 6}
READING = {"n_codebooks": 1, "codebook_size": 8, "max_seconds": 0.2, "prompt_seconds": 0.14, "prompts": "utterance"}


@pytest.fixture
def mixed(tmp_path):
    """Utterances of one frame to more than max_seconds, one of them without text, as training and as test."""
    facts = TokenFacts("made up", sample_rate=8000, frame_rate=50.0, n_codebooks=1, codebook_size=8)
    for split in ("train", "test"):
        utterances = [
            {
                "ID": name,
                "spk_id": name[0],
                "wrd": "",
                "phonemes": [] if name == "mute" else [1],
                "codes": [[3]] * frames,
            }
            for name, frames in FRAMES.items()
        ]
        write_tokens(tmp_path / "mixed", split, utterances, facts)
    return {**READING, "token_folder": tmp_path / "mixed"}


def test_what_is_too_short_or_mute_is_left_out_and_of_the_training_what_is_too_long(mixed, caplog):
    items, prompts, codes, facts = read_split(mixed, "train")
    assert set(items) == set(FRAMES) - {"a1", "a4", "mute", "b2"}
    assert (len(codes), facts.n_codebooks) == (sum(FRAMES.values()), 1)
    assert "4 of 9 utterances for train are left out" in caplog.text and "a1, a4, mute, b2." in caplog.text
    assert prompts.items == items
    items, *_ = read_split(mixed, "test")
    assert set(items) == set(FRAMES) - {"a1", "mute"}
    caplog.clear()
    read_split({**mixed, "max_seconds": 0.02 * 2}, "train")
    assert "8 of 9" in caplog.text and "a1, a3, a4, mute, b1, ..." in caplog.text
    with pytest.raises(ValueError, match="None of the 9 utterances for train"):
        read_split({**mixed, "max_seconds": 0.02}, "train")


def test_behind_other_speech_goes_what_its_speaker_says_more_of(mixed):
    """A prompt has at most 7 frames: a2, c1 or c2; a longer utterance may stand behind one."""
    items, prompts, *_ = read_split({**mixed, "prompts": "speaker"}, "test")
    assert set(items) == {"a3", "a4", "c1", "c2"}
    assert {prompts.draw(name) for name in items} == {"a2", "c1", "c2"}
    items, prompts, *_ = read_split({**mixed, "prompts": "speaker", "prompt_seconds": 0.12}, "test")
    assert set(items) == {"a3", "a4", "c1"}


def test_nothing_is_said_of_data_that_can_all_be_used(tokens, caplog):
    hparams = load_hparams(HPARAMS / "tts" / "vallm.yaml", {**TINY, "token_folder": str(tokens)})
    assert len(read_split(hparams, "train")[0]) == 40
    assert "left out" not in caplog.text
    assert len(load_tokenizer({**hparams, "n_phonemes": 10})) == 10


def test_batches_follow_from_seed_and_epoch(tokens):
    hparams = load_hparams(HPARAMS / "tts" / "vallm.yaml", {**TINY, "token_folder": str(tokens), "num_buckets": 4})
    dataset, *_ = make_dataset(hparams, "train", load_tokenizer(hparams))

    def batches(seed, epoch):
        sampler = batch_sampler(dataset, {**hparams, "seed": seed, "max_batch_ex": 3})
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 5) == batches(1, 5) != batches(2, 5)
    assert sorted(map(sorted, batches(1, 5))) != sorted(map(sorted, batches(1, 6)))
    assert max(map(len, batches(1, 5))) == 3


@pytest.fixture
def prepared(tokens):
    """The token folder with the stamp of a preparation that wrote it."""
    stamp = Stamp(tokens / "prepared.json", {"codec": "made up", "weights": "5a"})
    stamp.begin()
    sums = {split: token_sums(tokens, split) for split in ("train", "valid", "test")}
    stamp.finish(counts={}, sums=sums, inventory=file_crc32(tokens / "text.json"))
    return tokens


def test_the_files_of_one_preparation_belong_together(prepared, tmp_path):
    assert check_preparation(prepared) == {"codec": "made up", "weights": "5a"}
    items, codes, facts = read_tokens(prepared, "valid")
    utterances = [
        {**item, "ID": name, "codes": codes[item["first_frame"] :][: item["frames"]]} for name, item in items.items()
    ]
    for other in ("codes", "wrd"):  # of another preparation, which has another codec or other texts
        utterances[0][other] = utterances[0]["codes"] * 0 if other == "codes" else "another"
        write_tokens(prepared, "valid", utterances, facts)
        assert read_tokens(prepared, "valid")
        with pytest.raises(ValueError, match=r"The tokens for valid .* of another preparation than prepared\.json"):
            check_preparation(prepared)


def test_an_inventory_of_another_preparation_is_named(prepared):
    TextTokenizer(list("abcdefghik"), "characters").save(prepared / "text.json")
    with pytest.raises(ValueError, match=r"text\.json' was changed, or is of another preparation"):
        check_preparation(prepared)


def test_a_preparation_has_to_be_finished(prepared):
    Stamp(prepared / "prepared.json", {"codec": "made up"}).begin()
    with pytest.raises(ValueError, match=r"was not finished: give its command again"):
        check_preparation(prepared)
    for text in ("", "{", "[]", '{"settings": 3}'):
        (prepared / "prepared.json").write_text(text)
        with pytest.raises(ValueError, match=r"prepared\.json' is damaged .*: prepare the tokens again"):
            check_preparation(prepared)


def test_tokens_without_a_stamp_and_with_an_earlier_one_are_taken_as_they_are(tokens, tmp_path):
    assert check_preparation(tokens) == {}
    Stamp(tokens / "prepared.json", {"kind": "ipa"}).finish(counts={"train": 40})
    assert check_preparation(tokens) == {"kind": "ipa"}
    shutil.rmtree(tokens)
    with pytest.raises(FileNotFoundError, match="There is no token folder"):
        check_preparation(tokens)


def test_phonemes_that_the_inventory_does_not_have_are_named(tokens):
    hparams = load_hparams(HPARAMS / "tts" / "vallm.yaml", {**TINY, "token_folder": str(tokens)})
    few = TextTokenizer(list("abcdef"), "characters")
    with pytest.raises(ValueError, match=r"phonemes of '\w+' for train run from \d to \d, but text\.json .* 0 to 5"):
        make_dataset(hparams, "train", few)


def test_very_different_lengths_are_batched_within_their_limits(tmp_path):
    facts = TokenFacts("made up", sample_rate=8000, frame_rate=50.0, n_codebooks=1, codebook_size=8)
    frames = [2, 999, 3, 2, 500, 4, 1000, 2]
    utterances = [
        {"ID": f"u{i}", "spk_id": "s", "wrd": "", "phonemes": [1] * (1 + i % 2 * 300), "codes": [[3]] * count}
        for i, count in enumerate(frames)
    ]
    write_tokens(tmp_path, "train", utterances, facts)
    TextTokenizer(list("abc"), "characters").save(tmp_path / "text.json")
    hparams = READING | {"token_folder": tmp_path, "n_phonemes": 3, "max_seconds": 100, "seed": 0}
    hparams |= {"num_buckets": 9, "max_batch_frames": 600, "max_batch_ex": 99}
    dataset, *_ = make_dataset(hparams, "train", load_tokenizer(hparams))
    batches = list(batch_sampler(dataset, hparams, shuffle=False))
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    for batch in batches:
        assert len(batch) == 1 or max(frames[index] for index in batch) * len(batch) <= 600

"""The splits of a token folder: what can be used of them, and in which batches."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba.dataio.codec_tokens import TokenFacts, read_tokens, token_dataset, write_tokens
from speechbrain_mamba.dataio.token_splits import batch_sampler, load_tokenizer, make_dataset, read_split
from speechbrain_mamba.utils.hparams import load_hparams
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

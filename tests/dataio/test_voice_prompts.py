"""Prompts by the speaker of an utterance."""

import numpy as np
import pytest
import torch

from speechbrain_mamba.dataio.prompted_batch import PromptedBatch
from speechbrain_mamba.dataio.voice_prompts import VoicePrompts, prompted_dataset
from speechbrain_mamba.text.phonemes import TextTokenizer

ITEMS = {
    "a1": {"spk_id": "a", "frames": 5},
    "a2": {"spk_id": "a", "frames": 50},
    "a3": {"spk_id": "a", "frames": 10},
    "b1": {"spk_id": "b", "frames": 6},
    "c1": {"spk_id": "c", "frames": 11},
    "c2": {"spk_id": "c", "frames": 12},
    "d1": {"spk_id": "d", "frames": 30},
    "d2": {"spk_id": "d", "frames": 9},
}


def test_prompts_are_short_and_never_the_utterance_itself():
    prompts = VoicePrompts(ITEMS, max_frames=10)
    assert {name for name in ITEMS if name in prompts} == {"a1", "a2", "a3", "d1"}
    assert {prompts.draw("a1") for _ in range(20)} == {"a3"}
    assert {prompts.draw("a2") for _ in range(60)} == {"a1", "a3"}
    assert prompts.draw("d1") == "d2"
    assert prompts.items is ITEMS


def test_without_a_limit_all_others_of_the_speaker_are_prompts():
    prompts = VoicePrompts(ITEMS)
    assert {name for name in ITEMS if name not in prompts} == {"b1"}
    assert {prompts.draw("a3") for _ in range(60)} == {"a1", "a2"}


@pytest.fixture
def many() -> VoicePrompts:
    return VoicePrompts({f"{speaker}{i}": {"spk_id": speaker, "frames": 5} for speaker in "abc" for i in range(20)})


def test_prompts_are_drawn_anew_by_the_seed_of_torch(many):
    def draw(seed):
        torch.manual_seed(seed)
        return [many.draw("b7") for _ in range(30)]

    assert draw(1) == draw(1) != draw(2)
    assert len(set(draw(1))) > 10
    assert set().union(*map(draw, range(10))) == {f"b{i}" for i in range(20) if i != 7}


def test_fixed_prompts_stay_the_same_and_differ_by_utterance(many):
    fixed = {name: many.draw(name, fixed=True) for name in many.items}
    again = VoicePrompts(dict(many.items))
    state = torch.get_rng_state()
    for name, prompt in fixed.items():
        assert prompt != name and prompt[0] == name[0]
        assert many.draw(name, fixed=True) == again.draw(name, fixed=True) == prompt
    assert torch.equal(torch.get_rng_state(), state)
    assert len({prompt for name, prompt in fixed.items() if name[0] == "b"}) > 5


def test_wrong_speakers_are_others_with_a_short_utterance(many):
    prompts = VoicePrompts(ITEMS, max_frames=10)
    assert prompts.draw_other_speaker("d2") in {"a1", "a3", "b1"}
    assert {prompts.draw_other_speaker("c1")} == {prompts.draw_other_speaker("c1") for _ in range(5)}
    assert VoicePrompts({"b1": ITEMS["b1"]}).draw_other_speaker("b1") is None
    assert VoicePrompts({name: ITEMS[name] for name in ("b1", "c1")}, 10).draw_other_speaker("b1") is None
    drawn = {name: many.draw_other_speaker(name) for name in many.items}
    assert all(other[0] != name[0] for name, other in drawn.items())
    assert {other[0] for name, other in drawn.items() if name[0] == "a"} == {"b", "c"}
    assert len(set(drawn.values())) > 15
    backwards = VoicePrompts(dict(reversed(many.items.items())))
    assert all(backwards.draw_other_speaker(name)[0] == other[0] for name, other in drawn.items())


@pytest.fixture
def prompted():
    """Three utterances of one speaker and two of another; the codes and phonemes say whose they are."""
    lengths = {"a1": 2, "a2": 3, "a3": 1, "b1": 2, "b2": 4}
    items, first = {}, 0
    for index, (name, frames) in enumerate(lengths.items()):
        phonemes = [1 + index] * (index + 1)
        items[name] = {"spk_id": name[0], "first_frame": first, "frames": frames, "phonemes": phonemes}
        first += frames
    owner = np.repeat(np.arange(len(items)), list(lengths.values()))
    codes = np.stack([owner, 10 + np.arange(first)], axis=1)
    prompts, tokenizer = VoicePrompts(items), TextTokenizer(" 12345", "characters")
    return items, codes, prompts, lambda *fixed: prompted_dataset(items, codes, tokenizer, prompts, *fixed)


def test_a_prompt_stands_beside_its_utterance(prompted):
    items, codes, _, make = prompted
    names = list(items)

    def of(name):
        item = items[name]
        return item["phonemes"], codes[item["first_frame"] : item["first_frame"] + item["frames"]].tolist()

    seen = set()
    for example in [*make(), *make(), *make()]:
        name, prompt = example["id"], names[int(example["prompt_codes"][0, 0])]
        assert prompt != name and prompt[0] == name[0]
        seen.add((name, prompt))
        (phonemes, codes_of_name), (before, codes_before) = of(name), of(prompt)
        assert example["codes"].tolist() == codes_of_name and example["prompt_codes"].tolist() == codes_before
        assert example["phonemes"].tolist() == phonemes and example["prompt_phonemes"].tolist() == [*before, 0]
        assert set(example) == {"id", "phonemes", "codes", "prompt_phonemes", "prompt_codes"}
    assert len(seen) > 5
    assert make().data["b2"]["frames"] == 4


def test_prompts_are_drawn_each_time_unless_they_are_fixed(prompted):
    items, _, prompts, make = prompted
    for options in ((), (False,), (True,)):
        dataset = make(*options)
        drawn = {tuple(len(example["prompt_codes"]) for example in dataset) for _ in range(20)}
        assert (len(drawn) == 1) == (options == (True,))
        torch.manual_seed(3)
        lengths = [items[prompts.draw(name, *options)]["frames"] for name in items]
        torch.manual_seed(3)
        assert [len(example["prompt_codes"]) for example in dataset] == lengths


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_a_share_of_the_utterances_has_a_prompt(prompted, share):
    """The share is that of the moment, as a training changes it after the dataset is made."""
    items, _, prompts, make = prompted
    dataset = make()
    assert prompts.share == 1
    prompts.share = share
    alone = 0
    for example in (dataset[index] for index in [0, 1, 2, 3, 4] * 40):
        assert (len(example["prompt_codes"]) == 0) == (len(example["prompt_phonemes"]) == 0)
        alone += len(example["prompt_codes"]) == 0
        item = items[example["id"]]
        assert example["phonemes"].tolist() == item["phonemes"] and len(example["codes"]) == item["frames"]
    assert alone / 200 == pytest.approx(1 - share, abs=0.1 if 0 < share < 1 else 0)
    prompts.share = 1.0
    assert all(len(example["prompt_codes"]) for example in dataset)


def test_without_prompts_every_utterance_stands_alone(prompted):
    items, codes, *_ = prompted
    for example in prompted_dataset(items, codes, TextTokenizer(" 12345", "characters")):
        assert len(example["prompt_phonemes"]) == len(example["prompt_codes"]) == 0
        assert example["phonemes"].tolist() == items[example["id"]]["phonemes"]


def test_a_batch_has_prompts_and_speech_apart(prompted):
    items, _, prompts, make = prompted
    for prompts.share in (1.0, 0.5, 0.0):
        examples = list(make())
        batch = PromptedBatch.collate(examples)
        assert batch.id == list(items) and len(batch) == 5
        columns = dict(zip(("prompt_phonemes", "prompt_codes", "phonemes", "codes"), (*batch.prompt, *batch.speech)))
        for name, (values, lengths) in columns.items():
            for row, length, example in zip(values, lengths.tolist(), examples):
                assert torch.equal(row[:length], example[name]) and not row[length:].any()
        meta = batch.to("meta")
        assert meta.id == batch.id and all(
            part.is_meta for utterances in (meta.prompt, meta.speech) for x in utterances for part in x
        )

"""Prompts by the speaker of an utterance."""

import pytest

from speechbrain_mamba.dataio.phonemes import TextTokenizer
from speechbrain_mamba.dataio.voice_prompts import VoicePrompts

ITEMS = {
    "a1": {"spk_id": "a", "frames": 5},
    "a2": {"spk_id": "a", "frames": 50},
    "a3": {"spk_id": "a", "frames": 7},
    "b1": {"spk_id": "b", "frames": 6},
}


def test_prompts_are_short_and_never_the_utterance_itself():
    prompts = VoicePrompts(ITEMS, max_frames=10)
    assert {name for name in ITEMS if name in prompts} == {"a1", "a2", "a3"}
    assert {prompts.draw("a1") for _ in range(20)} == {"a3"}
    assert {prompts.draw("a2") for _ in range(60)} == {"a1", "a3"}


def test_fixed_prompts_stay_the_same():
    prompts = VoicePrompts(ITEMS)
    assert {prompts.draw("a1", fixed=True) for _ in range(20)} == {VoicePrompts(dict(ITEMS)).draw("a1", fixed=True)}


def test_wrong_speakers():
    prompts = VoicePrompts(ITEMS, max_frames=10)
    assert prompts.draw_other_speaker("a1") == "b1"
    assert {prompts.draw_other_speaker("b1") for _ in range(5)} <= {"a1", "a3"}
    assert VoicePrompts({"b1": ITEMS["b1"]}).draw_other_speaker("b1") is None


@pytest.mark.parametrize(("kind", "joined"), [("characters", "ab c"), ("bpe", "abc")])
def test_texts_are_joined_as_the_inventory_has_it(kind, joined):
    tokenizer = TextTokenizer(list("abc "), kind)
    assert "".join(tokenizer.symbols[token] for token in tokenizer.join([0, 1], [2])) == joined

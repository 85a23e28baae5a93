"""Texts said in the voices of recordings."""

from types import SimpleNamespace

import pytest
import torch

from speechbrain_mamba.evaluation.new_voices import say_in_voices


def speech(name, speaker, seconds):
    return {"spk_id": speaker, "duration": seconds, "wav": f"{name}.wav", "wrd": name.upper()}


def items(**lengths):
    """Recordings by names such as ``a1``, whose first letter is the speaker."""
    return {name: speech(name, name[0], seconds) for name, seconds in lengths.items()}


@pytest.fixture
def calls():
    return []


@pytest.fixture
def synthesize(calls):
    def synthesize(text, prompt, prompt_text, *, seed):
        calls.append((text, prompt, prompt_text, seed))
        return SimpleNamespace(wav=torch.zeros(4000), sample_rate=16000, finished=seed != 1)

    return synthesize


def test_each_text_is_said_in_the_voice_of_another_recording_of_its_speaker(synthesize, calls):
    listed = items(a1=2.0, a2=2.0, b1=2.0, b2=2.0)
    said = list(say_in_voices(synthesize, listed, 9, 3.0))
    assert [one.name for one in said] == list(listed)
    assert calls == [("A1", "a2.wav", "A2", 0), ("A2", "a1.wav", "A1", 1), ("B1", "b2.wav", "B2", 2),
                     ("B2", "b1.wav", "B1", 3)]  # fmt: skip
    assert [one.finished for one in said] == [True, False, True, True]
    first = said[0]
    assert first.recording is listed["a1"] and first.prompt is listed["a2"] and first.seconds == 0.25
    assert first.computing >= 0


def test_prompts_are_neither_too_short_nor_too_long(synthesize, calls):
    list(say_in_voices(synthesize, items(a1=0.9, a2=3.1, a3=2.0, b1=0.5, b2=0.5), 9, 3.0))
    assert [(text, prompt) for text, prompt, *_ in calls] == [("A1", "a3.wav"), ("A2", "a3.wav")]


def test_a_few_texts_are_of_the_whole_manifest(synthesize):
    listed = items(**{f"{letter}{number}": 2.0 for letter in "abcd" for number in range(5)})
    assert [one.name[0] for one in say_in_voices(synthesize, listed, 4, 3.0)] == list("abcd")


def test_recordings_without_a_prompt_are_refused(synthesize):
    with pytest.raises(ValueError, match=r"give a manifest of speakers with several recordings of 1 to 3 s\."):
        list(say_in_voices(synthesize, items(a1=2.0, b1=2.0, c1=0.5, c2=0.5), 9, 3.0))

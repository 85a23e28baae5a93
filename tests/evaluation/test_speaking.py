"""Speaking a test set, with a model that says its texts as numbers."""

from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from speechbrain_mamba.dataio.audio import audio_info, read_audio
from speechbrain_mamba.dataio.voice_prompts import VoicePrompts
from speechbrain_mamba.evaluation.speaking import speak_test_set
from speechbrain_mamba.evaluation.synthesis_report import judge_speech
from speechbrain_mamba.lobes.models.synthesis import GeneratedCodes
from speechbrain_mamba.text.phonemes import TextTokenizer

COLUMNS = [
    "ID", "spk_id", "language", "wrd", "duration", "finished", "seconds", "wav", "reference", "prompt", "other_prompt"
]  # fmt: skip
TEXTS = {"a1": "no", "a2": "one", "a3": "on", "b1": "ten", "b2": "neon", "c1": "tone", "c2": "not"}
FRAMES = {"a1": 9, "a2": 4, "a3": 30, "b1": 7, "b2": 12, "c1": 3, "c2": 5}
SAID = ["a2", "c1", "b2", "a1", "c2"]
"""What is to be said; by frames c1, a2, c2, a1, b2."""


class Model(nn.Module):
    """Says each text in as many frames as it has symbols, unless they run out; keeps what it was asked."""

    n_codebooks = 2
    broken: ClassVar[list[list[int]]] = []
    """Texts for which it predicts what is not finite, padded as in their batch."""

    def __init__(self):
        super().__init__()
        self.ar = SimpleNamespace(codebook_size=50)
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls = []

    def generate(self, prompt, phonemes, max_frames, sampler):
        said, text, sound = (
            [row[:length] for row, length in zip(values, lengths.tolist())]
            for values, lengths in (prompt.phonemes, phonemes, prompt.codes)
        )
        self.calls.append([(*map(torch.Tensor.tolist, texts), codes) for *texts, codes in zip(said, text, sound)])
        self.options = max_frames, sampler
        codes, lengths = phonemes.values[..., None].repeat(1, 1, 2), phonemes.lengths
        broken = torch.tensor([text in self.broken for text in phonemes.values.tolist()])
        return GeneratedCodes(codes, lengths.clamp(max=max_frames), lengths <= max_frames, broken)


class Codec:
    """Ten samples a frame, louder than full scale, with noise behind the end."""

    n_codebooks, codebook_size, sample_rate = 2, 50, 8000

    def decode(self, codes, lengths):
        wavs = torch.cat([torch.tensor([3.0, -3.0]), 0.5 * torch.rand(998)]).repeat(len(codes), 1)
        return wavs, 10 * lengths


@pytest.fixture
def speak(tmp_path, monkeypatch):
    """Say the test set; what the model was asked and the rows are returned."""
    tokenizer = TextTokenizer.train(["one ten"], "characters")
    items = {
        name: {
            "spk_id": name[0], "frames": FRAMES[name], "phonemes": tokenizer.encode(text), "wrd": text.upper(),
            "wav": f"/speech/{name}.flac", "language": {"a": "de", "b": "fr"}.get(name[0], ""),
        }
        for name, text in TEXTS.items()
    }  # fmt: skip
    clock = iter([0.0, 3.0, 10.0, 14.0, 20.0, 26.0, 30.0, 40.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))

    def call(speakers="abc", **options):
        known = {name: item for name, item in items.items() if name[0] in speakers}
        prompts = VoicePrompts(known, max_frames=20)  # a3 is too long
        codes = {name: torch.randint(50, (FRAMES[name], 2)) for name in known}
        model = Model()
        said = {name: known[name] for name in SAID if name in known}
        options = {"max_frames": 3, "sampler": "sampler", "batch_size": 2, **options}
        rows = speak_test_set(model, Codec(), said, codes, tokenizer, prompts, tmp_path, **options)
        return SimpleNamespace(
            model=model, rows={row["ID"]: row for row in rows}, items=known, codes=codes, tokenizer=tokenizer
        )

    return call


def test_each_text_follows_another_utterance_of_its_speaker(speak):
    result = speak()
    asked = [call for batch in result.model.calls for call in batch]
    order = ["c1", "a2", "c2", "a1", "b2"]
    assert [len(batch) for batch in result.model.calls] == [2, 2, 1]
    for name, (said, text, prompt) in zip(order, asked):
        other = {"a1": "a2", "a2": "a1", "b2": "b1", "c1": "c2", "c2": "c1"}[name]
        assert said == result.tokenizer.encode(f"{TEXTS[other]} ")
        assert text == result.tokenizer.encode(TEXTS[name])
        assert torch.equal(prompt, result.codes[other])
        assert result.rows[name]["prompt"] == f"/speech/{other}.flac"


@pytest.mark.parametrize(("max_frames", "sampler"), [(3, None), (40, "greedy")])
def test_the_model_gets_the_sampler_and_the_frames_to_make(speak, max_frames, sampler):
    result = speak(max_frames=max_frames, sampler=sampler)
    assert result.model.options == (max_frames, sampler)
    assert {name: row["finished"] for name, row in result.rows.items()} == {
        name: len(TEXTS[name]) <= max_frames for name in SAID
    }


def test_a_row_tells_of_its_utterance(speak, tmp_path):
    rows = speak().rows
    assert list(rows) == ["c1", "a2", "c2", "a1", "b2"]
    assert rows["a2"] == {
        "ID": "a2", "spk_id": "a", "language": "de", "wrd": "ONE", "duration": 30 / 8000, "finished": True,
        "seconds": 1.5, "wav": tmp_path / "wavs" / "a2.wav", "reference": "/speech/a2.flac",
        "prompt": "/speech/a1.flac", "other_prompt": rows["a2"]["other_prompt"],
    }  # fmt: skip
    assert rows["b2"]["duration"] == 30 / 8000 and not rows["b2"]["finished"]
    assert rows["a1"]["duration"] == 20 / 8000 and rows["c1"]["language"] == ""
    seconds = {"c1": 1.5, "a2": 1.5, "c2": 2.0, "a1": 2.0, "b2": 6.0}
    assert {name: row["seconds"] for name, row in rows.items()} == seconds
    for name, row in rows.items():
        assert row["other_prompt"] in {f"/speech/{other}.flac" for other in FRAMES if other[0] != name[0]} - {
            "/speech/a3.flac"
        }


def test_the_table_is_what_is_returned(speak, tmp_path):
    rows = speak().rows
    with open(tmp_path / "synthesis.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        written = list(reader)
    assert reader.fieldnames == COLUMNS
    assert written == [{column: str(row[column]) for column in COLUMNS} for row in rows.values()]


def test_speech_is_written_up_to_its_end_and_to_full_scale(speak, tmp_path):
    speak()
    for name in SAID:
        path = tmp_path / "wavs" / f"{name}.wav"
        wav = read_audio(path)
        assert len(wav) == 10 * min(3, len(TEXTS[name])) and audio_info(path).sample_rate == 8000
        assert wav[:2].tolist() == pytest.approx([1, -1], abs=1e-4)
        assert 0 < wav[2:].abs().max() < 0.6


def test_without_other_speakers_and_recordings_their_columns_are_empty(speak, tmp_path):
    assert {row["other_prompt"] for row in speak(speakers="a").rows.values()} == {""}
    items = {name: {"spk_id": "x", "frames": 3, "phonemes": [0]} for name in ("x1", "x2")}
    codes = {name: torch.zeros(3, 2, dtype=torch.long) for name in items}
    tokenizer = TextTokenizer(["a"], "characters")
    rows = speak_test_set(Model(), Codec(), items, codes, tokenizer, VoicePrompts(items), tmp_path, max_frames=9)
    assert [len(rows), *(rows[0][key] for key in ("wrd", "language", "reference", "prompt"))] == [2, "", "", "", ""]


def test_sixteen_are_said_at_a_time_unless_it_is_said_how_many(tmp_path):
    items = {f"x{i}": {"spk_id": "x", "frames": 3, "phonemes": [0]} for i in range(20)}
    codes = {name: torch.zeros(3, 2, dtype=torch.long) for name in items}
    model = Model()
    speak_test_set(
        model, Codec(), items, codes, TextTokenizer(["a"], "characters"), VoicePrompts(items), tmp_path, max_frames=9
    )
    assert [len(batch) for batch in model.calls] == [16, 4]
    assert model.options == (9, None)


def test_the_prompt_of_an_utterance_is_the_same_one_each_time(tmp_path):
    items = {f"x{i}": {"spk_id": "x", "frames": 3, "phonemes": [i]} for i in range(12)}
    codes = {name: torch.zeros(3, 2, dtype=torch.long) for name in items}
    tokenizer, texts = TextTokenizer(list("abcdefghijkl"), "characters"), []
    for seed in range(2):
        torch.manual_seed(seed)
        model = Model()
        speak_test_set(model, Codec(), items, codes, tokenizer, VoicePrompts(items), tmp_path, max_frames=9)
        texts.append([said for said, _, _ in model.calls[0]])
    assert texts[0] == texts[1]
    assert len({text[0] for text in texts[0]}) > 3


def test_speech_that_is_not_finite_has_no_file_and_does_not_end_the_test(speak, tmp_path, monkeypatch):
    speak()
    decode = Codec.decode

    def broken(codec, codes, lengths):
        wavs, lengths = decode(codec, codes, lengths)
        wavs[0, 5], wavs[1:, 900] = float("nan"), float("inf")  # within the first one, behind the end of others
        return wavs, lengths

    monkeypatch.setattr(Codec, "decode", broken)
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    rows = speak().rows
    broken = {"c1", "c2", "b2"}  # the first of each batch
    assert {name for name, row in rows.items() if not row["wav"]} == broken
    assert {path.stem for path in (tmp_path / "wavs").iterdir()} == set(SAID) - broken


def test_an_utterance_that_a_model_cannot_predict_is_not_scored_and_the_others_are(speak, tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "broken", [TextTokenizer.train(["one ten"], "characters").encode("not")])  # c2
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    rows = speak(batch_size=1).rows
    assert [name for name, row in rows.items() if not row["wav"]] == ["c2"]
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: path.write_bytes(b""))
    assert judge_speech(tmp_path).items() >= {"utterances": 5, "unscored": 1}.items()
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        reasons = {row["ID"]: row["unscored"] for row in csv.DictReader(file)}
    assert reasons == {name: "the speech is not finite" if name == "c2" else "" for name in SAID}

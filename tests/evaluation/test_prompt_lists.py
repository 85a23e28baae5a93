"""Lists of prompted texts: both forms, those made of a manifest, and their speech."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.evaluation.prompt_lists import (
    PromptedText,
    make_prompt_list,
    read_prompt_list,
    speak_prompt_list,
    write_prompt_list,
)
from speechbrain_mamba.evaluation.synthesis_report import judge_speech


@pytest.fixture
def folder(tmp_path):
    """LibriSpeech's folders with two utterances of each of two speakers."""
    for speaker in ("12", "34"):
        for i in range(2):
            write_audio(tmp_path / speaker / "9" / f"{speaker}-9-000{i}.flac", 0.1 * torch.randn(800), 8000)
    return tmp_path


def lines(folder, *rows, name="list.lst"):
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / name


def test_lists_of_librispeech_pc_name_recordings_by_their_ids(folder):
    path = lines(folder, "12-9-0000\t2.5\tGood day.\t12-9-0001\t3.0\tHow are you, then?", "")
    (one,) = read_prompt_list(path)
    assert one == PromptedText(
        "12-9-0001", "How are you, then?", str(folder / "12/9/12-9-0000.flac"), "Good day.",
        str(folder / "12/9/12-9-0001.flac"), "12",
    )  # fmt: skip
    (folder / "elsewhere").mkdir()
    moved = lines(folder / "elsewhere", path.read_text())
    with pytest.raises(FileNotFoundError, match=r"no recording of '12-9-0000' in .*LibriSpeech/test-clean"):
        read_prompt_list(moved)
    assert read_prompt_list(moved, folder) == [one]


def test_lists_of_seed_tts_eval_have_paths(folder):
    prompt = "12/9/12-9-0000.flac"
    path = lines(folder, f"a|Good day.|{prompt}|Hello.", f"b|Good day.|{prompt}|Bye.|34/9/34-9-0001.flac")
    first, second = read_prompt_list(path)
    assert (first.text, first.prompt, first.recording) == ("Hello.", str(folder / prompt), "")
    assert second.recording == str(folder / "34/9/34-9-0001.flac")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (["a|b|c"], ValueError, "Line 1 of '.*' has 1 fields between tabs and 3 between bars"),
        ([], ValueError, "is empty"),
        (2 * ["a|b|12/9/12-9-0000.flac|c"], ValueError, "Line 2 of .* has the id 'a' again"),
        (["a|b|none.wav|c"], FileNotFoundError, r"no recording '.*none\.wav'"),
    ],
)
def test_lines_that_cannot_be_are_named(folder, rows, error, message):
    with pytest.raises(error, match=message):
        read_prompt_list(lines(folder, *rows))


def test_a_list_is_made_of_a_manifest(folder):
    items = {
        name: {
            "duration": seconds,
            "spk_id": name[:2],
            "wrd": f"text of {name}",
            "wav": folder / name[:2] / f"9/{name}.flac",
        }
        for name, seconds in {"12-9-0000": 2.0, "12-9-0001": 5.0, "34-9-0000": 0.5, "34-9-0001": 6.0}.items()
    }
    pairs = make_prompt_list(items)
    assert pairs == [("12-9-0000", "12-9-0001")]  # the other speaker has no prompt that is long enough
    write_prompt_list(folder / "made.lst", items, pairs)
    (one,) = read_prompt_list(folder / "made.lst")
    assert (one.text, one.prompt_text) == ("text of 12-9-0001", "text of 12-9-0000")
    with pytest.raises(ValueError, match="no text of 7 to 9 s whose speaker has a prompt of 1 to 3 s"):
        make_prompt_list(items, seconds=(7, 9))
    with pytest.raises(ValueError, match="cannot stand in a list"):
        write_prompt_list(folder / "bad.lst", {**items, "12-9-0000": {**items["12-9-0000"], "wrd": "a|b"}}, pairs)


def test_texts_are_said_once_and_can_be_judged(folder, caplog):
    rows = ["12-9-0000\t1\tA.\t12-9-0001\t1\tONE", "34-9-0000\t1\tB.\t34-9-0001\t1\tTWO"]
    prompted = read_prompt_list(lines(folder, *rows, "12-9-0001\t1\tA.\t12-9-0000\t1\tTOO LONG"))
    said = []

    def synthesize(text, prompt, prompt_text, seed):
        if text == "TOO LONG":
            raise ValueError("The prompt is too long.")
        said.append((text, prompt, prompt_text, seed))
        return SimpleNamespace(wav=0.1 * torch.randn(1600), sample_rate=8000, finished=True)

    rows = speak_prompt_list(synthesize, prompted, folder / "out", seed=5)
    assert [(text, seed) for text, _, _, seed in said] == [("ONE", 5), ("TWO", 6)]
    assert "1 of 3 texts were refused: 12-9-0000 (The prompt is too long.)" in caplog.text
    assert rows[0]["other_prompt"] == prompted[1].prompt and rows[0]["reference"] == prompted[0].recording
    assert len(read_audio(folder / "out" / "wavs" / "12-9-0001.wav")) == 1600
    (folder / "out" / "wavs" / "34-9-0001.wav").unlink()
    speak_prompt_list(synthesize, prompted, folder / "out", seed=5)
    assert [text for text, *_ in said] == ["ONE", "TWO", "TWO"]
    with open(folder / "out" / "synthesis.csv", newline="", encoding="utf-8") as file:
        assert [row["ID"] for row in csv.DictReader(file)] == ["12-9-0001", "34-9-0001"]
    summary = judge_speech(
        folder / "out", lambda wav, rate: "ONE", lambda wav, rate: torch.ones(3), n_examples=0,
        rate_naturalness=lambda wav, rate: len(wav) / 800,
    )  # fmt: skip
    assert summary["wer"] == 50 and summary["similarity"] == pytest.approx(1)
    assert summary["mos"] == 2 and summary["reference_mos"] == 1
    with pytest.raises(ValueError, match="None of the 1 texts could be said"):
        speak_prompt_list(synthesize, prompted[2:], folder / "none")

"""Pages of listening tests: what listeners get, and what they do not."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import subprocess

import pytest
import torch

from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.evaluation.listening.answers import read_answers
from speechbrain_mamba.evaluation.listening.page import CHOICES, Spoken, read_spoken, write_pages
from speechbrain_mamba.evaluation.listening.plan import Trial
from speechbrain_mamba.utils.files import write_csv

TEXT = "</script><b>ONE & TWO</b>"
PLAN = [[Trial("i", "old", "new"), Trial("i", "new", "new")], [Trial("i", "new", "old"), Trial("i", "old", "old")]]


@pytest.fixture
def systems(tmp_path):
    """Two systems that said one text at different levels, with a prompt."""
    found = {}
    for name, level in (("old", 0.5), ("new", 0.001), ("prompt", 0.1)):
        write_audio(tmp_path / f"{name}.wav", level * torch.randn(800).clamp(-1.5, 1.5), 8000, "FLOAT")
        if name != "prompt":
            found[name] = {"i": Spoken(str(tmp_path / f"{name}.wav"), TEXT, str(tmp_path / "prompt.wav"))}
    return found


def data_of(page):
    """The data of a sheet."""
    return json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])


def test_sheets_have_sounds_of_one_level_and_do_not_name_systems(systems, tmp_path):
    name = write_pages(tmp_path / "out", systems, PLAN)
    page = tmp_path / "out" / "page"
    assert sorted(path.name for path in page.iterdir()) == ["audio", "index.html", "sheet_01.html", "sheet_02.html"]
    for path in page.rglob("*"):
        assert not re.search("old|new", path.name)
        if path.suffix == ".html":
            assert not re.search(r"\b(old|new)\b", path.read_text(encoding="utf-8").replace("new Blob", ""))
    sheet = data_of(page / "sheet_01.html")
    assert sheet["page"] == name and sheet["sheet"] == "01" and len(sheet["trials"]) == 2
    assert sheet["trials"][0]["text"] == TEXT and "prompt" not in sheet["trials"][0]
    assert sheet["choices"] == [list(choice) for choice in CHOICES["cmos"]]
    first, check = sheet["trials"]
    assert first["a"] != first["b"] == check["a"] == check["b"]
    for address in (first["a"], first["b"]):
        assert read_audio(page / address).square().mean().sqrt() == pytest.approx(0.06, rel=0.01)
    other = data_of(page / "sheet_02.html")["trials"][0]
    assert (other["a"], other["b"]) == (first["b"], first["a"])


def test_a_test_of_similarity_offers_the_prompt(systems, tmp_path):
    write_pages(tmp_path / "out", systems, PLAN, "ab", "similarity", show_text=False)
    sheet = data_of(tmp_path / "out" / "page" / "sheet_01.html")
    assert "text" not in sheet["trials"][0] and "voice" in sheet["question"]
    prompt = read_audio(tmp_path / "out" / "page" / sheet["trials"][0]["prompt"])
    assert len(prompt) == 800
    write_pages(tmp_path / "scale", systems, PLAN, "cmos", "similarity")
    scale = dict(data_of(tmp_path / "scale" / "page" / "sheet_01.html")["choices"])
    assert scale["3"] == "B is much more similar" and scale["-1"] == "B is slightly less similar"
    bare = {name: {"i": Spoken(spoken["i"].wav)} for name, spoken in systems.items()}
    with pytest.raises(ValueError, match="'i' has no prompt, which a test of similarity needs"):
        write_pages(tmp_path / "bare", bare, PLAN, "ab", "similarity")


def test_another_test_is_not_overwritten(systems, tmp_path):
    write_pages(tmp_path / "out", systems, PLAN)
    write_pages(tmp_path / "out", systems, PLAN)
    with pytest.raises(ValueError, match=r"holds another listening test, whose answers need its key\.json"):
        write_pages(tmp_path / "out", systems, PLAN[:1])
    with pytest.raises(ValueError, match="of kind 'mos' and subject 'naturalness', but must be of cmos or ab"):
        write_pages(tmp_path / "two", systems, PLAN, "mos")


def test_silence_is_named(systems, tmp_path):
    write_audio(tmp_path / "new.wav", torch.zeros(800), 8000)
    with pytest.raises(ValueError, match=r"new\.wav' is silent: leave it out"):
        write_pages(tmp_path / "out", systems, PLAN)


def test_what_a_test_of_the_recipe_said_is_found(tmp_path):
    write_audio(tmp_path / "a.wav", torch.randn(80).clamp(-1, 1), 8000)
    rows = [
        {"ID": "a", "wav": tmp_path / "a.wav", "wrd": "ONE", "prompt": "p.wav", "reference": tmp_path / "r.wav"},
        {"ID": "broken", "wav": "", "wrd": "TWO", "prompt": "", "reference": ""},
    ]
    write_csv(tmp_path / "synthesis.csv", rows, list(rows[0]))
    assert read_spoken(tmp_path) == {"a": Spoken(str(tmp_path / "a.wav"), "ONE", "p.wav")}
    assert read_spoken(tmp_path, recordings=True) == {}
    with pytest.raises(FileNotFoundError, match=r"has no synthesis\.csv"):
        read_spoken(tmp_path / "none")


FILLED = """<script>
let saved = null;
URL.createObjectURL = blob => { saved = blob; return "#"; };
window.confirm = () => true;
document.querySelectorAll("audio").forEach(audio => audio.dispatchEvent(new Event("ended")));
document.getElementById("listener").value = "anna, \\"1\\"";
const choices = document.querySelectorAll("fieldset");
choices[0].querySelector("input[value='-3']").click();
choices[1].querySelector("input[value='0']").click();
document.getElementById("save").click();
saved.text().then(text => { document.title = "saved"; document.body.dataset.saved = btoa(text); });
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
def test_a_browser_saves_what_a_listener_answers(systems, tmp_path):
    write_pages(tmp_path / "out", systems, PLAN)
    sheet = tmp_path / "out" / "page" / "sheet_01.html"
    filled = sheet.with_name("filled.html")
    filled.write_text(sheet.read_text(encoding="utf-8").replace("</body>", FILLED), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [*command, "--virtual-time-budget=4000", "--dump-dom", filled.as_uri()], capture_output=True, text=True,
        timeout=120,
    ).stdout  # fmt: skip
    encoded = re.search(r'data-saved="([^"]*)"', shown)[1]
    answers = tmp_path / "answers.csv"
    answers.write_bytes(base64.b64decode(encoded))
    first, second = read_answers(tmp_path / "out", [answers])
    assert (first.value, second.value) == (-3, 0) and first.listener == '01 anna, "1"'
    assert (first.trial, second.trial) == tuple(PLAN[0])
    assert "2 of 2 answered" in shown and "<b>ONE" not in shown
    with open(answers, newline="") as file:
        assert len(list(csv.DictReader(file))) == 2

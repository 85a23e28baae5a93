"""What a command line names, and what the outputs are called."""

import errno
import os
from pathlib import Path

import pytest

from speechbrain_mamba.cli.sources import Source, find_sources, plan_outputs
from tests.odd_recordings import IGNORED, write_odd_recordings


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"audio")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make(
        tmp_path, "b.wav", "in/a.wav", "in/x/a.FLAC", "in/x/a.m4a", "in/.hidden.wav", "in/notes.txt", "c[1].wav"
    )


def found(*given):
    return [(source.path, source.place) for source in find_sources(given) if source.error is None]


def test_files_folders_and_patterns(here):
    inside = [("in/a.wav", "a.wav"), ("in/x/a.FLAC", "x/a.FLAC"), ("in/x/a.m4a", "x/a.m4a")]
    assert found("b.wav") == [("b.wav", "b.wav")]
    assert found("in") == found("in/") == [(p.replace("in/", g, 1), n) for g in ("in/",) for p, n in inside]
    assert found("in/**/a.*") == inside
    assert found("in/*") == [inside[0], ("in/notes.txt", "notes.txt"), *inside[1:]]  # as the shell does
    assert found(str(here / "i*" / "x" / "*.m4a")) == [(str(here / "in/x/a.m4a"), "in/x/a.m4a")]
    assert found("c[1].wav") == [("c[1].wav", "c[1].wav")]  # a name, not a pattern
    assert found("in/notes.txt") == [("in/notes.txt", "notes.txt")]
    assert found("in/x/a.m4a", "in", "./in/a.wav") == [("in/x/a.m4a", "a.m4a"), *inside[:2]]
    assert found("-") == [("-", "stdin")]


def test_what_is_not_there_does_not_stop_the_others(here):
    (here / "empty").mkdir()
    sources = find_sources(["gone.wav", "b.wav", "empty", "no*.wav", "two\nlines.wav"])
    assert [source.error and str(source.error) for source in sources] == [
        "The audio file 'gone.wav' does not exist.",
        None,
        "The folder 'empty' holds no audio files (WAV, FLAC, MP3, M4A and others).",
        "No file matches 'no*.wav'.",
        "The audio file 'two\\nlines.wav' does not exist.",
    ]
    with pytest.raises(ValueError, match="'-' is standard input, which cannot be given together"):
        find_sources(["b.wav", "-"])


def test_the_odd_recordings_are_found_once_and_their_outputs_differ(tmp_path):
    odd = write_odd_recordings(tmp_path / "odd")
    sources = find_sources([str(tmp_path / "odd")])
    assert {source.path for source in sources} == {str(file.path) for file in odd if file.fate != IGNORED}
    tasks = plan_outputs(sources, str(tmp_path / "out"), ["_speaker1.wav", "_speaker2.wav"])
    outputs = [output for task in tasks for output in task.outputs]
    assert len({output.casefold() for output in outputs}) == len(outputs) == 2 * len(sources)
    assert not any(task.error for task in tasks)
    for output in outputs:
        assert (tmp_path / "out") in Path(output).parents and ".." not in output
        assert len(os.fsencode(os.path.basename(output))) <= 255
    names = {os.path.relpath(output, tmp_path / "out") for output in outputs}
    assert {"first/same.wav_speaker1.wav", "first/same.flac_speaker1.wav", "second/same_speaker2.wav"} <= names


def plan(paths, out=None, endings=(".txt",), **options):
    sources = [Source(path, path, os.path.basename(path)) for path in paths]
    return [list(task.outputs) for task in plan_outputs(sources, out, list(endings), **options)]


@pytest.mark.parametrize(
    ("paths", "stems"),
    [
        (["x/a.wav", "x/b.wav"], ["a", "b"]),
        (["x/a.wav", "x/a.flac"], ["a.wav", "a.flac"]),
        (["x/a.wav", "y/a.wav", "y/b.wav"], ["x/a", "y/a", "b"]),
        (["x/a.wav", "x/A.wav"], ["a.wav", "A.wav-2"]),
        (["x/a.wav", "y/a.wav", "y/a.flac"], ["x/a", "y/a.wav", "y/a.flac"]),
        (["x/a.wav", "x/a.flac", "x/a.wav.mp3"], ["a.wav", "a.flac", "a.wav.mp3"]),
        (["/p/x/a.wav", "/q/a.wav"], ["p/x/a", "q/a"]),
        (["-"], ["-"]),
    ],
)
def test_two_recordings_never_share_an_output(paths, stems):
    assert plan(paths, "out") == [[f"out/{stem}.txt"] for stem in stems]


def test_out_is_a_folder_a_file_or_standard_output(here):
    two = ["_1.wav", "_2.wav"]
    assert plan(["b.wav"], None, [".txt"], default="texts") == [["texts/b.txt"]]
    assert plan(["b.wav"], None) == [["b.txt"]]
    assert plan(["b.wav"], "some.folder") == [["some.folder/b.txt"]]
    assert plan(["b.wav"], "x/said.txt") == [["x/said.txt"]]
    assert plan(["b.wav"], "-") == [["-"]]
    assert plan(["b.wav"], "x/c.flac", two) == [["x/c_1.flac", "x/c_2.flac"]]
    assert plan(["b.wav"], "x/said.txt", [".txt", ".srt"]) == [["x/said.txt", "x/said.srt"]]
    (here / "odd.wav").mkdir()
    assert plan(["b.wav"], "odd.wav", two) == [["odd.wav/b_1.wav", "odd.wav/b_2.wav"]]
    for out, paths, endings, words in (
        ("-", ["b.wav"], two, "writes one file to standard output, but there are 1 recordings with 2 outputs each"),
        ("-", ["b.wav", "c.wav"], [".txt"], "but there are 2 recordings"),
        (
            "c.wav",
            ["b.wav", "d.wav"],
            two,
            "'c.wav' is the name of one file, but there are 2 recordings: give a folder",
        ),
        ("said.srt", ["b.wav"], [".txt"], "'said.srt' is the name of another kind of file than .txt"),
        ("in/notes.txt", ["b.wav"], two, "'in/notes.txt' is the name of another kind of file than .wav"),
    ):
        with pytest.raises(ValueError, match=words):
            plan(paths, out, endings)
    make(here, "taken")
    with pytest.raises(NotADirectoryError, match="--out 'taken' is a file, but must be a folder"):
        plan(["b.wav"], "taken")


def test_nothing_is_replaced(here):
    make(here, "out/b.txt", "b_1.wav")
    (here / "out" / "a.txt").mkdir()
    sources = find_sources(["b.wav", "in/a.wav"])
    for force, words in ((False, "'out/b.txt' exists: choose another --out, or replace it with --force"), (True, "")):
        tasks = plan_outputs(sources, "out", [".txt"], force=force)
        assert words in str(tasks[0].error or "") and bool(words) == bool(tasks[0].error)
        assert "'out/a.txt' would be written, but is a folder" in str(tasks[1].error)
    tasks = plan_outputs(find_sources(["b.wav", "b_1.wav"]), None, ["_1.wav"], force=True)
    assert [str(task.error) for task in tasks] == [
        "'b_1.wav' would be written, but is one of the recordings: choose another --out.", "None"
    ]  # fmt: skip
    os.symlink("b.wav", "link.wav")
    tasks = plan_outputs(find_sources(["b.wav"]), "link.wav", [".wav"], force=True)
    assert "is one of the recordings" in str(tasks[0].error)
    tasks = plan_outputs([Source("p/a", "p/a", "a"), Source("p/a_1", "p/a_1", "a_1")], "out", ["_1.txt", "_1_1.txt"])
    assert [str(task.error) for task in tasks] == [
        "None", "'out/a_1_1.txt' would be written for two recordings: give each of them its own --out."
    ]  # fmt: skip


@pytest.mark.parametrize("out", [None, "out", "out/said.txt"])
def test_a_folder_that_takes_no_files_is_named_before_the_work(here, monkeypatch, out):
    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    folder = "separated" if out is None else "out"
    with pytest.raises(OSError, match=f"^Nothing can be written to '{folder}' .Read-only file system.: choose another"):
        plan(["b.wav"], out, default="separated")
    assert plan(["b.wav"], "-") == [["-"]]


def test_an_error_of_a_source_is_kept(here):
    tasks = plan_outputs(find_sources(["gone.wav", "b.wav"]), "out", [".txt"])
    assert [type(task.error) for task in tasks] == [FileNotFoundError, type(None)]


def test_what_a_command_made_is_not_taken_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("talk.wav", "made/talk_speaker1.wav", "made/deep/b.wav", "other/c.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    for given in (".", "**/*.wav", str(tmp_path)):
        assert sorted(source.place for source in find_sources([given], "made")) == ["other/c.wav", "talk.wav"]
        assert len(find_sources([given])) == 4
    assert [source.place for source in find_sources(["made/talk_speaker1.wav"], "made")] == ["talk_speaker1.wav"]
    assert len(find_sources(["made"], "made")) == len(find_sources(["made/*.wav", "made/deep"], "made")) == 2

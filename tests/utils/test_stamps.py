"""Stamps of preparations."""

import json
import logging

import pytest

from speechbrain_mamba.utils.stamps import Stamp

SETTINGS = {"seconds": (1.0, 2.5), "counts": (1, 2), "level": None, "seed": 3}  # tuples, as settings have them


@pytest.fixture
def stamp(tmp_path):
    return Stamp(tmp_path / "out" / "prepared.json", SETTINGS)


def again(stamp, **changed):
    """The stamp of another call, with other settings."""
    return Stamp(str(stamp.path), {**SETTINGS, **changed})


def test_a_preparation_is_begun_and_then_done(stamp):
    assert not stamp.is_begun() and not stamp.is_done() and not stamp.path.parent.exists()
    stamp.begin()
    assert again(stamp).is_begun() and not again(stamp).is_done()
    stamp.finish()
    assert again(stamp).is_begun() and again(stamp).is_done()
    stamp.begin()
    assert stamp.is_begun() and not stamp.is_done()


def test_the_file_shows_the_settings_and_the_facts(stamp):
    stamp.begin()
    settings = {"seconds": [1.0, 2.5], "counts": [1, 2], "level": None, "seed": 3}
    assert json.loads(stamp.path.read_text()) == {"settings": settings, "done": False}
    assert stamp.facts() == {}
    stamp.finish(hours=2, speakers=["anna"])
    assert again(stamp, seed=4).facts() == {"hours": 2, "speakers": ["anna"]}
    assert json.loads(stamp.path.read_text()) == {
        "settings": settings, "done": True, "hours": 2, "speakers": ["anna"]
    }  # fmt: skip


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_another_preparation(stamp, finished):
    stamp.finish() if finished else stamp.begin()
    for other in (again(stamp, level=0.1), again(stamp, more=None), again(stamp, seconds=(1.0, 2.6))):
        assert not other.is_begun() and not other.is_done()
    assert again(stamp, seconds=[1.0, 2.5]).is_begun()
    fewer = Stamp(stamp.path, {"seed": 3})
    assert not fewer.is_begun()
    fewer.begin()
    assert fewer.is_begun() and not stamp.is_begun()


def test_differences_are_told_by_name(stamp):
    assert stamp.differences() == ["it has no settings"]
    stamp.begin()
    assert stamp.differences() == []
    assert again(stamp, seed=4, level=0.1, more=None).differences() == [
        "level is None, not 0.1", "seed is 3, not 4", "more is None, not None"
    ]  # fmt: skip
    assert Stamp(stamp.path, {"seed": 3, "level": None}).differences() == [
        "seconds is [1.0, 2.5], not None", "counts is [1, 2], not None"
    ]  # fmt: skip


def test_a_preparation_is_done_while_its_files_are_there(stamp):
    files = [stamp.path.with_name(name) for name in ("train.csv", "test.csv")]
    stamp.finish()
    for file in files:
        file.touch()
        assert stamp.is_done(files) == (file == files[-1])
    files[0].unlink()
    assert not stamp.is_done(iter(files)) and stamp.is_done()


def test_what_is_done_is_logged(stamp, caplog):
    with caplog.at_level(logging.INFO):
        stamp.begin()
        stamp.is_done()
        assert not caplog.messages
        stamp.finish()
        stamp.is_done(["missing"])
        assert not caplog.messages
        stamp.is_done()
    assert caplog.messages == [f"Prepared already, with the same settings: '{stamp.path}'."]


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", '{"seed": 3}', '{"settings": [3], "done": true}'])
def test_what_is_not_a_stamp_is_replaced(stamp, text):
    stamp.path.parent.mkdir()
    stamp.path.write_text(text)
    assert not stamp.is_begun() and not stamp.is_done()
    assert stamp.differences() == ["it has no settings"]
    stamp.begin()
    assert stamp.is_begun()


def test_settings_must_be_values_for_json(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        Stamp(tmp_path / "prepared.json", {"folder": tmp_path})


def test_settings_are_those_of_the_call(tmp_path):
    settings = {"counts": [1]}
    stamp = Stamp(tmp_path / "prepared.json", settings)
    settings["counts"].append(2)
    assert stamp.settings == {"counts": [1]}


def test_a_folder_of_others_is_refused(stamp):
    folder = stamp.path.parent
    stamp.check_folder()
    folder.mkdir()
    stamp.check_folder()
    (folder / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"out' is not empty and was not written by .* no prepared\.json: choose"):
        stamp.check_folder()
    stamp.begin()
    again(stamp, seed=4).check_folder()


def test_a_file_is_not_a_folder(stamp):
    stamp.path.parent.touch()
    assert not stamp.is_begun() and not stamp.is_done()
    with pytest.raises(ValueError, match="choose another folder"):
        stamp.check_folder()

"""One process at a time makes what several want to use."""

import threading

import pytest

from speechbrain_mamba.utils import waiting
from speechbrain_mamba.utils.locks import FolderLock
from speechbrain_mamba.utils.waiting import one_at_a_time


def test_another_one_waits_until_the_first_is_done(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "_SECONDS", 0.01)
    happened, begun = [], threading.Event()

    def make(name):
        with one_at_a_time(tmp_path / "corpus"):
            happened.append(f"{name} begins")
            if name == "first":
                begun.set()
                while "Waiting until another process has made" not in caplog.text:
                    pass
            happened.append(f"{name} ends")

    first = threading.Thread(target=make, args=["first"])
    first.start()
    begun.wait(60)
    make("second")
    first.join()
    assert happened == ["first begins", "first ends", "second begins", "second ends"]
    assert caplog.text.count("Waiting until another process has made") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".corpus.tmp-0123456789ab/a.wav", ".corpus_16k.tmp-0123456789ab/a.wav", ".corpus.mine/a.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with one_at_a_time(tmp_path / "corpus"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            ".corpus.making", ".corpus.mine", ".corpus_16k.tmp-0123456789ab"
        ]  # fmt: skip


def test_an_error_gives_the_lock_back(tmp_path):
    with pytest.raises(KeyError), one_at_a_time(tmp_path / "corpus"):
        raise KeyError
    with one_at_a_time(tmp_path / "corpus"):
        assert (tmp_path / ".corpus.making/.lock").is_file()


def test_the_lock_may_vanish_while_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "_SECONDS", 0)
    errors, acquire = [FileNotFoundError()], FolderLock.acquire
    monkeypatch.setattr(FolderLock, "acquire", lambda self: acquire(self) if not errors else _raise(errors.pop()))
    with one_at_a_time(tmp_path / "corpus"):
        assert not errors


def _raise(error):
    raise error

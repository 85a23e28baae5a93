"""Files are there whole or not at all."""

import errno
import os
import resource
from pathlib import Path

import pytest

from speechbrain_mamba.utils.files import (
    atomic_path,
    check_writable,
    remove_temporaries,
    sync_path,
    write_csv,
    write_json,
)
from speechbrain_mamba.utils.stamps import Stamp


def test_the_temporary_name_is_beside_hidden_and_free(tmp_path):
    target = tmp_path / "new" / "folder" / "speech.v2.wav"
    with atomic_path(str(target)) as one, atomic_path(target) as other:
        for temporary in (one, other):
            assert temporary.parent == target.parent
            assert temporary.name.startswith(".") and temporary.suffix == ".wav"
            assert not temporary.exists()
        assert one != other
        one.write_text("one")
        other.write_text("other")
        assert not target.exists()
    assert target.read_text() == "one"  # that context ends last
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOENT])
def test_a_folder_that_takes_no_files_is_named(tmp_path, monkeypatch, number):
    def refuse(dir):
        assert dir == tmp_path
        raise OSError(number, os.strerror(number), str(dir))

    check_writable(tmp_path / "new" / "folder")
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    words = rf"^Nothing can be written to '.*folder' \({os.strerror(number)}\): choose another folder\.$"
    with pytest.raises(OSError, match=words):
        check_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file' is a file: nothing can be written below it"):
        check_writable(tmp_path / "file" / "folder")
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_before_anything_is_written_is_the_error_that_shows(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt"):
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass  # nothing to give the name to
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_removed_hides_no_error(tmp_path, monkeypatch):
    def unlink(*args, **kwargs):
        raise OSError("busy")

    with pytest.raises(RuntimeError, match="the cause"), atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "a.txt").write_text("a")
        monkeypatch.setattr(os, "unlink", unlink)
        raise RuntimeError("the cause")


def test_a_folder_with_files_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old.txt").write_text("old")
    with pytest.raises(OSError, match="folder"), atomic_path(tmp_path / "folder") as temporary:
        (temporary / "below").mkdir(parents=True)
        (temporary / "below" / "new.txt").write_text("new")
    assert list(tmp_path.rglob("*")) == [tmp_path / "folder", tmp_path / "folder" / "old.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with atomic_path(tmp_path / "new" / "folder") as temporary:
        temporary.mkdir()
        (temporary / "a.txt").write_text("a")
        assert not (tmp_path / "new" / "folder").exists()
    assert (tmp_path / "new" / "folder" / "a.txt").read_text() == "a"
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "other") as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_row_that_does_not_fit_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="extra"):
        write_csv(tmp_path / "a.csv", [{"ID": 1}, {"extra": 2}], ["ID"])
    assert list(tmp_path.iterdir()) == []


def test_a_table_has_its_columns_in_order_and_the_same_bytes_everywhere(tmp_path):
    rows = [{"wav": "ä,b.wav", "ID": 'a"1'}, {"ID": "b"}, {"ID": "c", "wav": 1.5}]
    write_csv(tmp_path / "new" / "a.csv", iter(rows), ["ID", "wav"])
    expected = 'ID,wav\n"a""1","ä,b.wav"\nb,\nc,1.5\n'
    assert (tmp_path / "new" / "a.csv").read_bytes() == expected.encode()


def test_json_is_indented_and_keeps_letters(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"name": "ä", "levels": [1, None]})
    expected = '{\n  "name": "ä",\n  "levels": [\n    1,\n    null\n  ]\n}\n'
    assert (tmp_path / "new" / "a.json").read_bytes() == expected.encode()
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "a.json", {"path": tmp_path})
    assert (tmp_path / "new" / "a.json").read_bytes() == expected.encode()
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.fixture
def events(monkeypatch):
    """What is synced and renamed, in order."""
    noted, sync, replace = [], os.fsync, os.replace

    def fsync(descriptor):
        noted.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def rename(source, target):
        noted.append((Path(source), Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    return noted


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, events):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")
    assert events == [temporary, (temporary, tmp_path / "a.txt"), tmp_path]


def test_a_folder_is_on_the_disk_with_all_its_files(tmp_path, events):
    with atomic_path(tmp_path / "folder") as temporary:
        (temporary / "below").mkdir(parents=True)
        (temporary / "a.txt").write_text("a")
        (temporary / "below" / "b.txt").write_text("b")
    inside = {temporary, temporary / "a.txt", temporary / "below", temporary / "below" / "b.txt"}
    assert set(events[:4]) == inside and events[4:] == [(temporary, tmp_path / "folder"), tmp_path]


def test_many_files_need_not_wait_for_the_disk(tmp_path, events):
    with atomic_path(tmp_path / "a.txt", durable=False) as temporary:
        temporary.write_text("a")
    assert events == [(temporary, tmp_path / "a.txt")]


def test_a_stamp_waits_for_the_files_of_its_preparation(tmp_path, monkeypatch, events):
    monkeypatch.setattr("speechbrain_mamba.utils.stamps.flush_disks", lambda: events.append("all"))
    Stamp(tmp_path / "done.json", {}).finish()
    assert events[0] == "all" and events[-1] == tmp_path


@pytest.mark.parametrize("code, raised", [(errno.EINVAL, False), (errno.ENOSPC, True), (errno.EIO, True)])
def test_file_systems_that_cannot_sync_are_left_alone(tmp_path, monkeypatch, code, raised):
    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    if raised:
        with pytest.raises(OSError, match=os.strerror(code)):
            sync_path(tmp_path)
    else:
        sync_path(tmp_path)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", ["old"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_json(tmp_path / "a.json", list(range(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.json").read_text() == '[\n  "old"\n]\n'
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    left = []
    for name in ("a.txt", "deep/b.tar.gz", "folder"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("speechbrain_mamba.utils.files._remove", left.append)  # a kill cleans nothing up
            with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / name) as temporary:
                if name == "folder":
                    temporary.mkdir()
                    (temporary / "inside.txt").touch()
                else:
                    temporary.touch()
                raise KeyboardInterrupt
    kept = [".hidden", ".a.tmp-123.txt", "a.tmp-0123456789ab.txt", ".a.0123456789ab.txt", "deep/mine.txt"]
    for name in kept:
        (tmp_path / name).touch()
    assert sorted(remove_temporaries(tmp_path)) == sorted(left)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(tmp_path / name for name in kept)
    assert remove_temporaries(tmp_path / "missing") == []

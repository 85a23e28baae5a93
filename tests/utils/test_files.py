"""Files are there whole or not at all."""

import pytest

from speechbrain_mamba.utils.files import atomic_path, write_csv


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

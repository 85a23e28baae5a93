"""Checkpoints of a run that is killed while it saves or deletes them."""

import contextlib
import inspect
import os
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from speechbrain.utils.checkpoints import Checkpointer, mark_as_loader, mark_as_saver, register_checkpoint_hooks

from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from tests.processes import process_group


@register_checkpoint_hooks
class Counter:
    """A recoverable that can be made to fail while it is saved."""

    def __init__(self, value):
        self.value, self.killed = value, False

    @mark_as_saver
    def save(self, path):
        """Save."""
        path.write_text(str(self.value))
        if self.killed:
            raise KeyboardInterrupt

    @mark_as_loader
    def load(self, path, end_of_epoch=False):
        """Load."""
        self.value = int(path.read_text())


@contextlib.contextmanager
def nothing_is_cleaned():
    """A kill runs no code that cleans up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        yield


def values(folder):
    """The counters in the checkpoints that are whole."""
    paths = [checkpoint.paramfiles["counter"] for checkpoint in AtomicCheckpointer(folder).list_checkpoints()]
    return sorted(int(path.read_text()) for path in paths)


def test_killed_while_saving(tmp_path):
    counter = Counter(1)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": torch.nn.Linear(2, 2), "counter": counter})
    checkpointer.save_checkpoint()
    counter.value, counter.killed = 2, True
    with nothing_is_cleaned(), pytest.raises(KeyboardInterrupt):
        checkpointer.save_checkpoint()
    assert len(list(tmp_path.iterdir())) == 2 and values(tmp_path) == [1]

    counter.killed = False
    checkpointer.recover_if_possible()
    assert counter.value == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_killed_while_deleting(tmp_path):
    counter = Counter(1)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": counter})
    checkpointer.save_checkpoint(meta={"loss": 0.0})
    for counter.value in (2, 3):
        with nothing_is_cleaned():
            checkpointer.save_and_keep_only(meta={"loss": 1.0})
    assert len(list(tmp_path.iterdir())) == 3 and values(tmp_path) == [2, 3]
    counter.value = 0
    checkpointer.recover_if_possible(min_key="loss")
    assert counter.value == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_what_version_0_1_left_behind_is_removed(tmp_path):
    (tmp_path / "CKPT+half").mkdir()
    (tmp_path / "CKPT+half" / ".CKPT.yaml").touch()
    AtomicCheckpointer(tmp_path, {"counter": Counter(1)}).save_checkpoint()
    assert not (tmp_path / "CKPT+half").exists()


def test_folders_of_the_user_stay(tmp_path):
    for name in ("CKPT+notes", "CKPT-old", "mine", "DAMAGED", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious.txt").touch()
    before = sorted(tmp_path.iterdir())
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": Counter(1)})
    for _ in range(3):
        checkpointer.save_and_keep_only()
    assert checkpointer.recover_if_possible() is not None
    checkpointer.check_all()
    assert set(before) < set(tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == len(before) + 2
    assert all((folder / "precious.txt").exists() for folder in before)


def test_a_name_is_used_again(tmp_path):
    counter = Counter(1)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": counter})
    for counter.value in (1, 2):
        checkpoint = checkpointer.save_checkpoint(name="best")
    assert checkpoint.path == tmp_path / "CKPT+best" and values(tmp_path) == [2]
    assert checkpoint.paramfiles == {"counter": tmp_path / "CKPT+best" / "counter.ckpt"}


@pytest.mark.parametrize("end_of_epoch", [True, False])
def test_a_checkpoint_is_as_speechbrain_makes_it_and_lists_its_files(tmp_path, end_of_epoch):
    options = {"meta": {"loss": 0.25}, "end_of_epoch": end_of_epoch, "name": "mine"}
    own = AtomicCheckpointer(tmp_path / "own", {"counter": Counter(3), "layer": torch.nn.Linear(2, 2)})
    theirs = Checkpointer(tmp_path / "theirs", {"counter": Counter(3), "layer": torch.nn.Linear(2, 2)})
    saved, expected = own.save_checkpoint(**options), theirs.save_checkpoint(**options)
    assert saved.path.name == expected.path.name
    assert sorted(path.name for path in saved.path.iterdir()) == ["CKPT.yaml", "counter.ckpt", "layer.ckpt"]
    meta, plain = (yaml.safe_load((checkpoint.path / "CKPT.yaml").read_text()) for checkpoint in (saved, expected))
    sizes = {name: facts["bytes"] for name, facts in meta.pop("files").items()}
    assert sizes == {path.name: path.stat().st_size for path in saved.paramfiles.values()}
    assert meta.keys() == plain.keys()
    assert {key: meta[key] for key in ("loss", "end-of-epoch")} == {"loss": 0.25, "end-of-epoch": end_of_epoch}
    assert own.find_checkpoint(min_key="loss").path == saved.path


def test_checkpoints_of_speechbrain_are_found_and_stay(tmp_path):
    Checkpointer(tmp_path, {"counter": Counter(3)}).save_checkpoint(meta={"loss": 0.5})
    (tmp_path / "train.csv").write_text("mine")
    counter = Counter(0)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": counter})
    checkpointer.save_checkpoint(meta={"loss": 1.0})
    checkpointer.recover_if_possible(min_key="loss")
    assert counter.value == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_the_main_process_alone_removes_and_names(tmp_path, monkeypatch):
    (tmp_path / ".saving+CKPT+half").mkdir()
    (tmp_path / ".saving+CKPT+other").mkdir()  # the main process has made it, and tells
    tell = lambda paths, src: paths.__setitem__(0, tmp_path / ".saving+CKPT+other")  # noqa: E731
    with process_group(tmp_path, rank=1), monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "broadcast_object_list", tell)
        AtomicCheckpointer(tmp_path, {"counter": Counter(1)}).save_checkpoint()
    assert {path.name for path in tmp_path.iterdir()} == {".saving+CKPT+half", ".saving+CKPT+other"}
    assert not list(tmp_path.glob("*/*"))


def test_the_processes_wait_until_the_checkpoint_is_whole(tmp_path, monkeypatch):
    checkpointer, found = AtomicCheckpointer(tmp_path / "save", {"counter": Counter(1)}), []
    with process_group(tmp_path, rank=0):
        barrier = torch.distributed.barrier
        monkeypatch.setattr(
            torch.distributed, "barrier", lambda *args: (found.append(len(checkpointer.list_checkpoints())), barrier())
        )
        checkpointer.save_checkpoint()
    assert found[-1] == 1


def test_checkpointers_share_no_sort_orders(tmp_path):
    """SpeechBrain's default list of them would grow with each save."""
    shared = inspect.signature(Checkpointer.save_and_keep_only).parameters["importance_keys"].default
    before = len(shared)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": Counter(1)})
    for error in (1.0, 2.0, 3.0, 4.0):
        checkpointer.save_and_keep_only(meta={"error": error}, min_keys=["error"])
    assert len(shared) == before
    errors = lambda: sorted(checkpoint.meta["error"] for checkpoint in checkpointer.list_checkpoints())  # noqa: E731
    assert errors() == [1, 3, 4]  # the best, and two that are recent
    checkpointer.save_and_keep_only(meta={"error": 2.0}, importance_keys=[lambda checkpoint: checkpoint.meta["error"]])
    assert errors() == [2, 4]
    checkpointer.save_and_keep_only(meta={"error": 5.0}, keep_recent=False, max_keys=["error"])
    assert errors() == [5]
    with pytest.raises(ValueError, match="num_to_keep is -1"):
        checkpointer.delete_checkpoints(num_to_keep=-1)


def test_scores_of_numpy_can_be_read_again(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": Counter(1)})
    checkpointer.save_checkpoint(meta={"loss": np.float64(0.5), "n": np.int64(3), "last": True, "text": "a"})
    (checkpoint,) = checkpointer.list_checkpoints()
    assert [checkpoint.meta[key] for key in ("loss", "n", "last", "text")] == [0.5, 3, True, "a"]


# ------------------------------------------------------------------------------------------------------- damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, first=0.5):
    data = bytearray(path.read_bytes())
    at = int(first * len(data))
    data[at : at + 2] = bytes(255 - byte for byte in data[at : at + 2])
    path.write_bytes(data)


def change_score(path):
    text = re.sub(r"loss: 0\.5", "loss: 0.1", path.read_text())
    path.write_text(text)


DAMAGES = {
    "cut in half": ("layer.ckpt", cut, "layer.ckpt has .* bytes instead of"),
    "empty": ("counter.ckpt", lambda path: path.write_bytes(b""), "counter.ckpt has 0 bytes instead of 1"),
    "two bytes flipped": ("layer.ckpt", flip, "layer.ckpt was changed: its checksum differs"),
    "missing": ("layer.ckpt", Path.unlink, "layer.ckpt is missing"),
    "meta missing": ("CKPT.yaml", Path.unlink, "CKPT.yaml is missing"),
    "meta cut": ("CKPT.yaml", cut, "CKPT.yaml is (cut short|not YAML)"),
    "meta without its last line": (
        "CKPT.yaml", lambda path: path.write_text(path.read_text().rpartition("# crc32")[0]), "CKPT.yaml is cut short"
    ),
    "meta empty": ("CKPT.yaml", lambda path: path.write_bytes(b""), "CKPT.yaml is empty"),
    "meta not YAML": ("CKPT.yaml", lambda path: path.write_bytes(b"a: [1, 2"), "CKPT.yaml is not YAML"),
    "meta not text": ("CKPT.yaml", lambda path: path.write_bytes(bytes(range(128, 255))), "CKPT.yaml is not YAML"),
    "meta changed": ("CKPT.yaml", change_score, "CKPT.yaml was changed"),
}  # fmt: skip


@pytest.fixture
def two(tmp_path):
    """A checkpointer with two checkpoints, of which the newer one is the better one."""
    counter = Counter(1)
    checkpointer = AtomicCheckpointer(tmp_path, {"counter": counter, "layer": torch.nn.Linear(20, 20)})
    older = checkpointer.save_checkpoint(meta={"loss": 2.0})
    counter.value = 2
    newer = checkpointer.save_checkpoint(meta={"loss": 0.5})
    counter.value = 0
    return checkpointer, counter, older.path, newer.path


@pytest.mark.parametrize("order", [{}, {"min_key": "loss"}], ids=["newest", "best"])
@pytest.mark.parametrize("name, damage, fault", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(two, name, damage, fault, order, caplog):
    checkpointer, counter, older, newer = two
    damage(newer / name)
    content = sorted((path.name, path.read_bytes()) for path in newer.iterdir())
    assert checkpointer.recover_if_possible(**order).path == older
    assert counter.value == 1
    aside = newer.with_name(f"DAMAGED+{newer.name}")
    assert sorted((path.name, path.read_bytes()) for path in aside.iterdir()) == content
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert re.search(f"The checkpoint '{re.escape(str(newer))}' is damaged and is not used: {fault}", warning)
    assert aside.name in warning
    for _ in range(3):
        checkpointer.save_and_keep_only()
    assert aside.is_dir()


@pytest.mark.parametrize("name, damage", [value[:2] for value in DAMAGES.values()], ids=DAMAGES)
def test_without_a_whole_one_the_run_stops_each_time(two, name, damage):
    checkpointer, counter, older, newer = two
    shutil.rmtree(older)
    damage(newer / name)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"No checkpoint in '.*' is whole.*DAMAGED\+CKPT.*or remove the folders"):
            checkpointer.recover_if_possible()
    assert counter.value == 0
    shutil.rmtree(newer.with_name(f"DAMAGED+{newer.name}"))
    assert checkpointer.recover_if_possible() is None


def test_a_damaged_one_is_not_loaded_on_demand_either(two):
    checkpointer, counter, _, newer = two
    (checkpoint,) = checkpointer.find_checkpoints(min_key="loss", max_num_checkpoints=1)
    checkpointer.load_checkpoint(checkpoint)
    assert counter.value == 2
    flip(newer / "counter.ckpt")
    with pytest.raises(ValueError, match=r"is damaged: counter.ckpt was changed: its checksum differs\. Load another"):
        checkpointer.load_checkpoint(checkpoint)


def test_all_checkpoints_can_be_compared(two):
    checkpointer, _, older, _ = two
    flip(older / "counter.ckpt")
    assert len(checkpointer.list_checkpoints()) == 2
    checkpointer.check_all()
    assert len(checkpointer.list_checkpoints()) == 1
    (older.parent / older.name).mkdir()
    (older / "layer.ckpt").touch()
    checkpointer.check_all()  # the name of one that was set aside may come again
    assert len(list(older.parent.glob("DAMAGED*"))) == 2


@pytest.mark.parametrize("damage", [cut, lambda path: flip(path, 0.5), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("files", [None, ["counter.ckpt", "layer.ckpt"]], ids=["SpeechBrain", "version 0.1"])
def test_checkpoints_without_checksums_are_read(tmp_path, files, damage, caplog):
    counter = Counter(1)
    parts = {"counter": counter, "layer": torch.nn.Linear(20, 20)}
    older, newer = (Checkpointer(tmp_path, parts).save_checkpoint({"files": files} if files else {}) for _ in range(2))
    checkpointer = AtomicCheckpointer(tmp_path, parts)
    assert checkpointer.recover_if_possible().path == newer.path
    damage(newer.paramfiles["layer"])
    assert checkpointer.recover_if_possible().path == older.path
    assert "layer.ckpt is empty or cut short" in caplog.text


def test_all_processes_use_the_one_that_the_main_process_chose(two, monkeypatch):
    checkpointer, counter, older, newer = two
    chosen = next(checkpoint for checkpoint in checkpointer.list_checkpoints() if checkpoint.path == older)
    tell = lambda told: lambda objects, src: objects.__setitem__(0, told)  # noqa: E731
    with process_group(older.parent, rank=1), monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "broadcast_object_list", tell((chosen, None)))
        flip(newer / "counter.ckpt")
        checkpointer.recover_if_possible()
        assert counter.value == 1 and newer.exists()  # only the main process sets aside
        patch.setattr(torch.distributed, "broadcast_object_list", tell((None, RuntimeError("No checkpoint"))))
        with pytest.raises(RuntimeError, match="No checkpoint"):
            checkpointer.recover_if_possible()


# ---------------------------------------------------------------------------------------- full disks, power cuts


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    counter = Counter(1)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": torch.nn.Linear(200, 200), "counter": counter})
    checkpointer.save_checkpoint()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # a file as large as layer.ckpt does not fit
    try:
        with pytest.raises(OSError, match=r"No checkpoint could be saved in .* Those before it are kept"):
            checkpointer.save_and_keep_only()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpointer.recover_if_possible() is not None


class PowerCut(BaseException):
    """The power goes off."""


@contextlib.contextmanager
def disk(folder, cut_at):
    """A disk that loses what was not synced when the power goes off, before the sync number ``cut_at``.

    Files lose their content, and folders get back the names that they had when they were last synced.
    """
    synced, names, count, sync = {}, {folder: set(os.listdir(folder))}, 0, os.fsync

    def fsync(descriptor):
        nonlocal count
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        count += 1
        if count == cut_at:
            raise PowerCut
        if path.is_dir():
            names[path] = set(os.listdir(path))
        else:
            synced[path.stat().st_ino] = path.read_bytes()
        sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # nothing cleans up
        yield lambda: count
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            kept = synced.get(path.stat().st_ino)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if kept is None else kept)
    for path in list(folder.iterdir()):
        if path.name not in names[folder] and path.name.startswith("CKPT"):
            path.rename(path.with_name(f".saving+{path.name}"))  # the new name was not on the disk yet


def test_a_power_cut_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    def run(folder, cut_at):
        counter = Counter(1)
        checkpointer = AtomicCheckpointer(folder, {"layer": torch.nn.Linear(2, 2), "counter": counter})
        checkpointer.save_and_keep_only()
        for path in folder.rglob("*"):
            os.utime(path)
        with disk(folder, cut_at) as count:
            for path in [path for path in folder.rglob("*") if path.is_file()]:  # of the checkpoint before
                with open(path) as file:
                    os.fsync(file.fileno())
            before, counter.value = count(), 2
            with contextlib.suppress(PowerCut):
                checkpointer.save_and_keep_only()
                counter.value = 3
        saved, counter.value = counter.value == 3, 0
        checkpointer.recover_if_possible()
        return saved, counter.value, count(), before

    saved, value, syncs, before = run(tmp_path / "whole", None)
    assert (saved, value) == (True, 2)
    for cut_at in range(before + 1, syncs + 1):
        saved, value, *_ = run(tmp_path / f"{cut_at}", cut_at)
        assert not saved and value in (1, 2)
    assert syncs - before >= 6  # each of three files, the folder twice, and the one above it

"""Runs of several processes."""

import collections
from types import SimpleNamespace

import pytest
import torch

from speechbrain_mamba.utils import distributed
from speechbrain_mamba.utils.distributed import (
    any_process,
    check_shared_folder,
    leave_processes,
    merge,
    merge_totals,
    set_total,
)
from tests.processes import process_group


def test_the_group_is_left(tmp_path):
    with process_group(tmp_path):
        assert torch.distributed.is_initialized()
        leave_processes()
        assert not torch.distributed.is_initialized()
    leave_processes()  # nothing is left to leave


@pytest.mark.parametrize(("own", "others"), [(True, False), (False, True), (False, False)])
def test_a_flag_of_any_process_counts(tmp_path, monkeypatch, own, others):
    def all_reduce(flags, operation):
        assert operation == torch.distributed.ReduceOp.MAX
        flags.fill_(max(float(flags), float(others)))

    assert any_process(own, "cpu") is own  # alone
    with process_group(tmp_path):
        assert any_process(own, "cpu") is own
        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
        assert any_process(own, "cpu") is (own or others)


def test_pytorch_without_groups(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_initialized")  # as it is there
    leave_processes()
    assert any_process(True, "cpu")


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Be in a group of processes, whose values are those of this one and of others that the test gives."""
    with process_group(tmp_path, rank=0):

        def others(*values):
            monkeypatch.setattr(distributed, "gather", lambda value: [value, *values])

        yield others


def test_totals_of_all_kinds_are_merged(group):
    report = SimpleNamespace(rows=["a"], used=torch.tensor([1, 2]), collected=("rows", "used"))
    owner = SimpleNamespace(n=1, report=report, terms=collections.defaultdict(list, mel=[0.5]), kept=7)
    terms = owner.terms
    group({"n": 2, "report.rows": ["b"], "report.used": torch.tensor([0, 1, 5]), "terms": {"mel": [1.5], "time": [2]}})
    merge_totals(owner, ["n", "report", "terms"])
    assert (owner.n, report.rows, report.used.tolist(), owner.kept) == (3, ["a", "b"], [1, 3, 5], 7)
    assert owner.terms is terms == {"mel": [0.5, 1.5], "time": [2]}


def test_one_process_keeps_its_totals():
    owner = SimpleNamespace(n=1)
    merge_totals(owner, ["n"])
    assert owner.n == 1 and merge([4.0]) == 4.0


def test_totals_within_dictionaries_are_set():
    owner = SimpleNamespace(errors={"wer": SimpleNamespace(scores=[1])})
    set_total(owner, "errors.wer.scores", [2])
    set_total(owner, "errors.cer", 3)
    assert owner.errors["wer"].scores == [2] and owner.errors["cer"] == 3


def test_a_folder_that_some_process_does_not_see(group, tmp_path, monkeypatch):
    check_shared_folder(tmp_path / "out")  # alone
    gathered = []

    def gather(value):
        gathered.append(value)
        return [value, (False, "node7")] if len(gathered) == 2 else [value]

    monkeypatch.setattr(distributed, "gather", gather)
    with pytest.raises(RuntimeError, match=r"1 \(node7\) do not see .*'.*out': give an output_folder on a file system"):
        check_shared_folder(tmp_path / "out")
    assert gathered[1][0] is True and not list((tmp_path / "out").iterdir())

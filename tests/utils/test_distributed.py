"""Runs of several processes."""

import pytest
import torch

from speechbrain_mamba.utils.distributed import any_process, leave_processes
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

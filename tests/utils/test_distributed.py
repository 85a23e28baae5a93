"""The end of a run of several processes."""

import torch

from speechbrain_mamba.utils.distributed import leave_processes
from tests.processes import process_group


def test_the_group_is_left(tmp_path):
    with process_group(tmp_path):
        assert torch.distributed.is_initialized()
        leave_processes()
        assert not torch.distributed.is_initialized()
    leave_processes()  # nothing is left to leave


def test_pytorch_without_groups(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_initialized")  # as it is there
    leave_processes()

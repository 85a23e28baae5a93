"""More processes than there are."""

import contextlib

import pytest
import torch


@contextlib.contextmanager
def process_group(folder, rank=1):
    """Be in a group of processes, at a rank that SpeechBrain asks for: 0 is the main process.

    The group has this process alone, so that nothing waits.
    """
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / '.group'}", rank=0, world_size=1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", str(rank))
            yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        (folder / ".group").unlink(missing_ok=True)

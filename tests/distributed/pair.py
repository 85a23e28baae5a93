"""Two processes that work together, started once for several tests."""

import datetime
import importlib
import os
import pickle
import sys
import traceback
from pathlib import Path

import torch
from torch import distributed


def _work(folder, module, name):
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=90)  # a process that waits for ever is an error
    distributed.init_process_group("gloo", timeout=limit)
    try:
        result = getattr(importlib.import_module(module), name)(rank, folder)
    except BaseException:
        result = traceback.format_exc()
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    os._exit(0)  # the other one may wait for this one


def run_pair(forked, folder, function):
    """Call ``function(rank, folder)``, a function of a module, in two processes of a group, and return both results.

    An error of one is the error of the test; both processes end then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [__file__, folder, function.__module__, function.__name__]
    process = forked.start(command, folder / "said.txt", processes=2)
    assert process.wait() == 0, process.said()
    results = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]
    for result in results:
        assert not isinstance(result, str), result
    return results


if __name__ == "__main__":
    _work(Path(sys.argv[1]), *sys.argv[2:])

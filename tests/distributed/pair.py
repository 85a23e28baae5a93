"""Two processes that work together, started once for several tests."""

import datetime
import pickle
import traceback

import torch
from torch import distributed, multiprocessing


def _work(rank, folder, function):
    import os

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=90)  # a process that waits for ever is an error
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=2, timeout=limit
    )
    try:
        result = function(rank, folder)
    except BaseException:
        result = traceback.format_exc()
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    os._exit(0)  # the other one may wait for this one


def run_pair(folder, function):
    """Call ``function(rank, folder)`` in two processes of a group, and return both results.

    An error of one is the error of the test; both processes end then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(rank, folder, function)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        if process.is_alive():
            for each in processes:
                each.kill()
            raise AssertionError("a process waits for ever")
    results = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]
    for result in results:
        assert not isinstance(result, str), result
    return results

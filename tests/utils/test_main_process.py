"""What the main process does for all others."""

import pickle

import pytest
import torch

from speechbrain_mamba.utils.main_process import do_on_main, is_told_by_main
from tests.processes import process_group


def fail(error):
    raise error


def test_one_process_does_it_and_raises_what_it_raised():
    assert do_on_main(sorted, [2, 1]) == [1, 2]
    error = KeyError("missing")
    with pytest.raises(KeyError) as caught:
        do_on_main(fail, error)
    assert caught.value is error and not is_told_by_main(error)


class Unpicklable(OSError):
    def __init__(self, text, more):
        super().__init__(text)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("lr is 0"), ValueError, "lr is 0"),
        (FileNotFoundError(2, "No such file", "a.csv"), OSError, r"\[Errno 2\] No such file: 'a.csv'"),
        (Unpicklable("disk", 1), OSError, "disk"),
        (KeyError("missing"), RuntimeError, "KeyError: 'missing'"),
    ],
)
def test_the_others_raise_the_error_of_the_main_process(tmp_path, monkeypatch, error, kind, text):
    told = []
    with process_group(tmp_path, rank=0), monkeypatch.context() as patch:
        patch.setattr(
            torch.distributed, "broadcast_object_list", lambda objects, src: told.append(pickle.dumps(objects))
        )
        with pytest.raises(type(error)) as caught:
            do_on_main(fail, error)
        assert caught.value is error
    with process_group(tmp_path, rank=1), monkeypatch.context() as patch:
        hear = lambda objects, src: objects.__setitem__(slice(None), pickle.loads(told[0]))  # noqa: E731
        patch.setattr(torch.distributed, "broadcast_object_list", hear)
        with pytest.raises(kind, match=text) as caught:
            do_on_main(pytest.fail, "only the main process calls it")
        assert is_told_by_main(caught.value)

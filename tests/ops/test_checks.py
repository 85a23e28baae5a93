"""Bad arguments get one sentence that says what was given and what is accepted."""

import pytest
import torch

from speechbrain_mamba.ops import (
    available_backends,
    causal_conv1d,
    causal_conv1d_update,
    checks,
    selective_scan,
    selective_state_update,
    use_backend,
)
from speechbrain_mamba.ops.registry import ENVIRONMENT_VARIABLE


def scan(**changes):
    x = torch.zeros(2, 5, 3)
    arguments = {"u": x, "delta": x, "A": torch.zeros(3, 4), "B": torch.zeros(2, 5, 4), "C": torch.zeros(2, 5, 4)}
    return selective_scan(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"u": torch.zeros(5, 3)}, ValueError, r"u has shape \(5, 3\), but must be \(batch, time, channels\)"),
        ({"u": torch.zeros(2, 5, 3, dtype=torch.long)}, TypeError, "u has dtype torch.int64"),
        ({"delta": torch.zeros(2, 5, 2)}, ValueError, r"delta has shape .* must be .* \(2, 5, 3\)"),
        ({"A": torch.zeros(2, 4)}, ValueError, r"A has shape \(2, 4\).* = \(3, 4\)"),
        ({"B": torch.zeros(2, 4, 5)}, ValueError, "B has shape"),
        ({"D": torch.zeros(3, 1)}, ValueError, "D has shape"),
        ({"initial_state": torch.zeros(2, 4, 3)}, ValueError, "initial_state has shape"),
        ({"lengths": torch.tensor([5, 6])}, ValueError, "lengths run from 5 to 6, but must lie in 0 to 5"),
        ({"lengths": torch.tensor([1.0, 0.5])}, TypeError, "lengths have dtype torch.float32"),
        ({"lengths": torch.tensor([5])}, ValueError, r"lengths has shape \(1,\)"),
    ],
)
def test_scan(changes, error, message):
    with pytest.raises(error, match=message):
        scan(**changes)


def test_other_operations():
    x = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match="weight has shape"):
        causal_conv1d(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="activation is 'relu', but must be None, 'silu' or 'swish'"):
        causal_conv1d(x, torch.zeros(3, 4), activation="relu")
    with pytest.raises(ValueError, match="state has shape"):
        causal_conv1d_update(x[:, 0], torch.zeros(2, 3, 4), torch.zeros(3, 4))
    maps = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="state has shape"):
        selective_state_update(torch.zeros(2, 4, 3), x[:, 0], x[:, 0], torch.zeros(3, 4), maps, maps)


def test_unknown_backend(monkeypatch):
    with pytest.raises(ValueError, match="'fast', which does not exist: choose one of reference"), use_backend("fast"):
        pass
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "fast")
    with pytest.raises(ValueError, match=f"{ENVIRONMENT_VARIABLE} names the backend 'fast'"):
        scan()
    with use_backend("reference"):
        scan()


def test_every_available_backend_serves_a_call():
    expected = scan(u=torch.ones(2, 5, 3))
    for name in {*available_backends()} - {"chunked"}:  # which has the scan of Mamba-2 only
        with use_backend(name):
            assert torch.equal(scan(u=torch.ones(2, 5, 3)), expected)


class _OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    device = torch.device("cuda", 0)


def test_lengths_on_a_gpu_are_checked_in_debug_mode_only(monkeypatch):
    lengths, cpu = torch.tensor([9, 2]).as_subclass(_OnGpu), torch.device("cpu")
    assert checks.check_lengths("scan", lengths, 2, 5, cpu).tolist() == [9, 2]
    monkeypatch.setattr(checks, "DEBUG", True)
    with pytest.raises(ValueError, match="scan: lengths run from 2 to 9, but must lie in 0 to 5, the frames given"):
        checks.check_lengths("scan", lengths, 2, 5, cpu)

"""The average of good checkpoints."""

import pytest
import torch
from speechbrain.processing.features import InputNormalization

from speechbrain_mamba.training.averaging import best_checkpoints, load_average
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer


@pytest.fixture
def saved(tmp_path):
    """Save checkpoints of a layer whose weight is their score."""

    def saved(*scores, **others):
        layer = torch.nn.Linear(1, 1)
        checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer, **others})
        for score in scores:
            layer.weight.data.fill_(score)
            checkpointer.save_checkpoint(meta={"error": score})
        layer.weight.data.zero_()
        return checkpointer, layer

    return saved


@pytest.mark.parametrize(
    ("scores", "count", "tolerance", "chosen"),
    [
        ([8.0, 4.0, 5.0, 5.1], 4, 0.25, [4, 5]),
        ([8.0, 4.0, 5.0, 5.1], 4, 1.0, [4, 5, 5.1, 8]),
        ([8.0, 4.0, 5.0, 4.5], 2, 0.25, [4, 4.5]),
        ([3.0], 5, 0.25, [3]),
        ([0.0, 0.0, 1.0], 5, 0.25, [0, 0]),
        ([-8.0, -10.0, -7.0], 3, 0.25, [-10, -8]),  # dB that shall be low
        ([], 5, 0.25, []),
        ([8.0, 4.0, 80.0, 4.5, 5.0], 4, None, [4, 4.5, 5, 8]),  # the published rule
        ([4.0, 5.0, 4.0], 3, 0.0, [4, 4]),
    ],
)
def test_those_near_the_best_are_chosen(saved, scores, count, tolerance, chosen):
    checkpointer, _ = saved(*scores)
    found = best_checkpoints(checkpointer, "error", count, tolerance)
    assert [checkpoint.meta["error"] for checkpoint in found] == chosen


def test_a_negative_tolerance_is_named(saved):
    checkpointer, _ = saved(4.0)
    with pytest.raises(ValueError, match=r"avg_tolerance is -0.5, but must be at least 0, or null"):
        best_checkpoints(checkpointer, "error", 2, -0.5)


def test_weights_are_averaged_and_statistics_are_left_alone(saved):
    normalize = InputNormalization(norm_type="global")
    normalize.train()
    normalize(torch.randn(2, 5, 3), torch.ones(2))
    mean = normalize.glob_mean.clone()
    checkpointer, layer = saved(4.0, 4.5, 5.0, normalizer=normalize, optimizer=torch.optim.SGD([torch.zeros(1)], lr=1))
    load_average(checkpointer, checkpointer.list_checkpoints())
    assert layer.weight.item() == 4.5
    assert torch.equal(normalize.glob_mean, mean)

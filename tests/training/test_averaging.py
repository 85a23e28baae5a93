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
    ("scores", "count", "chosen"),
    [
        ([8.0, 4.0, 5.0, 5.1], 4, [4, 5]),
        ([8.0, 4.0, 5.0, 4.5], 2, [4, 4.5]),
        ([3.0], 5, [3]),
        ([0.0, 0.0, 1.0], 5, [0, 0]),
        ([-8.0, -10.0, -7.0], 3, [-10, -8]),  # dB that shall be low
        ([], 5, []),
    ],
)
def test_those_near_the_best_are_chosen(saved, scores, count, chosen):
    checkpointer, _ = saved(*scores)
    assert [checkpoint.meta["error"] for checkpoint in best_checkpoints(checkpointer, "error", count)] == chosen


def test_weights_are_averaged_and_statistics_are_left_alone(saved):
    normalize = InputNormalization(norm_type="global")
    normalize.train()
    normalize(torch.randn(2, 5, 3), torch.ones(2))
    mean = normalize.glob_mean.clone()
    checkpointer, layer = saved(4.0, 4.5, 5.0, normalizer=normalize, optimizer=torch.optim.SGD([torch.zeros(1)], lr=1))
    load_average(checkpointer, checkpointer.list_checkpoints())
    assert layer.weight.item() == 4.5
    assert torch.equal(normalize.glob_mean, mean)

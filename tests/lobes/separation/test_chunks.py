"""The chunks of dual-path models are SpeechBrain's, for any length and size."""

import pytest
import torch
from speechbrain.lobes.models.dual_path import Dual_Path_Model

from speechbrain_mamba.lobes.models.separation.dual_path import DualPathModel
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("time", [1, 3, 4, 7, 8, 12, 41])
def test_chunks_are_those_of_speechbrain(time, size):
    def make(kind):
        inner = MambaBlocksSequential(1, True, 4)
        return kind(3, 4, inner, inner, K=size, linear_layer_after_inter_intra=False)

    ours, theirs, x = make(DualPathModel), make(Dual_Path_Model), torch.randn(2, 3, time)
    (chunks, gap), (wanted, wanted_gap) = ours.cut_chunks(x, size), theirs._Segmentation(x, size)
    assert gap == wanted_gap and torch.equal(chunks, wanted)
    filled = torch.randn_like(chunks)
    assert torch.equal(ours.join_chunks(filled, gap), theirs._over_add(filled, gap))

"""Separation models in padded batches, and inside SpeechBrain's own dual-path model."""

import pytest
import torch
from speechbrain.lobes.models.dual_path import Decoder, Dual_Path_Model, Encoder, SBTransformerBlock

from speechbrain_mamba.lobes.models.dual_path import DualPathModel
from speechbrain_mamba.lobes.models.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation import separate
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.init import reset_parameters
from tests.errors import relative_error


def mamba():
    return MambaBlocksSequential(n_mamba=1, bidirectional=True, d_model=12, d_state=4)


def transformer():
    return SBTransformerBlock(num_layers=1, d_model=12, nhead=2, d_ffn=16)


def dual_path(model, cls=DualPathModel, **options):
    return cls(16, 12, model(), model(), num_layers=2, K=8, **options)


MASKNETS = {
    "mambatasnet": lambda: MaskNet(16, 12, 2, MambaBlocksSequential(2, True, 12, d_state=4)),
    "dpmamba": lambda: dual_path(mamba, linear_layer_after_inter_intra=False),
    "dpmamba_linear": lambda: dual_path(mamba, skip_around_intra=False),
    "dpmamba_cln": lambda: dual_path(mamba, norm="cln"),
    "dpmamba_gln": lambda: dual_path(mamba, norm="gln"),
    "sepformer": lambda: dual_path(transformer),
}


@pytest.mark.parametrize("name", MASKNETS)
def test_padded_batch_equals_single_examples(name):
    masknet = MASKNETS[name]().eval()
    reset_parameters(masknet)
    modules = torch.nn.ModuleDict({"e": Encoder(16, 16), "m": masknet, "d": Decoder(16, 1, 16, stride=8, bias=False)})
    samples = [640, 123, 16, 331]
    mix = torch.randn(4, 640)
    for i, length in enumerate(samples):
        mix[i, length:] = float("nan")
    estimate = separate(modules["e"], masknet, modules["d"], mix, torch.tensor(samples) / 640)
    weight = torch.randn_like(estimate)
    (estimate * weight).sum().backward()
    batched = {key: p.grad.clone() for key, p in modules.named_parameters() if p.grad is not None}
    modules.zero_grad()
    for i, length in enumerate(samples):
        alone = separate(modules["e"], masknet, modules["d"], mix[i : i + 1, :length])
        assert relative_error(estimate[i : i + 1, :length], alone) < 1e-5
        assert not estimate[i, length:].any()
        (alone * weight[i : i + 1, :length]).sum().backward()
    for key, parameter in modules.named_parameters():
        if parameter.grad is not None:
            assert relative_error(batched[key], parameter.grad) < 1e-4, key


def test_blocks_inside_speechbrains_own_model():
    theirs = dual_path(mamba, Dual_Path_Model)
    ours = dual_path(mamba)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(2, 16, 50)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours(x, torch.tensor([50, 50])), theirs(x))


def test_mixture_shorter_than_the_kernel():
    masknet = MASKNETS["mambatasnet"]()
    with pytest.raises(ValueError, match="has 15 samples, but the encoder's kernel needs at least 16"):
        separate(Encoder(16, 16), masknet, Decoder(16, 1, 16, stride=8, bias=False), torch.randn(1, 15))

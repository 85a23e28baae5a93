"""Separation models in padded batches, and beside SpeechBrain's own."""

import pytest
import torch
from speechbrain.lobes.models import conv_tasnet
from speechbrain.lobes.models.dual_path import Decoder, Dual_Path_Model, Encoder, SBTransformerBlock

from speechbrain_mamba.lobes.models.separation.dual_path import DualPathModel
from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.init import reset_parameters
from speechbrain_mamba.nnet.self_attention import SelfAttention
from tests.errors import relative_error
from tests.nnet.test_mamba import scramble


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
    "three speakers": lambda: MaskNet(16, 12, 3, MambaBlocksSequential(2, True, 12, d_state=4)),
    "dpmamba, three speakers": lambda: dual_path(mamba, num_spks=3),
    "sepformer": lambda: dual_path(transformer),
    "mambatasnet, mixed": lambda: MaskNet(16, 12, 2, MambaBlocksSequential(2, "outer", 12, 4, attention_layers=[1])),
    "dpmamba, mixed": lambda: dual_path(mamba, attention_layers=[1], attention_window=3),
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


class Passing(torch.nn.Module):
    """Stands in for a model that takes lengths."""

    def forward(self, x, lengths=None):
        return x


def test_lengths_on_a_gpu_are_not_looked_at():
    """Which would wait, and fail in a CUDA graph; on the device "meta" there is nothing to look at."""
    model = DualPathModel(16, 8, Passing(), Passing(), K=10).to("meta")
    x, lengths = torch.rand(2, 16, 50, device="meta"), torch.empty(2, dtype=torch.long, device="meta")
    assert model(x, lengths).shape == (2, 2, 16, 50)


DUAL_PATHS = {
    "three speakers": dict(num_spks=3),
    "linear layers, no skip": dict(num_spks=3, skip_around_intra=False, norm="gln"),
    "no linear layers": dict(num_spks=1, linear_layer_after_inter_intra=False, norm="cln"),
    "odd chunks": dict(num_spks=3, K=7),
    "one-frame hop": dict(num_spks=3, K=2),
    "no normalization inside": dict(num_spks=3, norm=None),
    "positions": dict(num_spks=3, use_global_pos_enc=True, max_length=12),
}


@pytest.mark.parametrize("blocks", [(mamba, mamba), (mamba, transformer), (transformer, mamba)])
@pytest.mark.parametrize("name", DUAL_PATHS)
def test_each_example_gets_the_masks_of_speechbrains_model(name, blocks):
    intra, inter = blocks
    theirs = Dual_Path_Model(16, 12, intra(), inter(), **{"num_layers": 2, "K": 8, **DUAL_PATHS[name]}).eval()
    ours = DualPathModel(16, 12, intra(), inter(), **{"num_layers": 2, "K": 8, **DUAL_PATHS[name]}).eval()
    ours.load_state_dict(scramble(theirs).state_dict(), strict=True)
    lengths = [33, 8, 1, 0, 32, 20]
    x = torch.rand(6, 16, 33)
    for i, length in enumerate(lengths):
        x[i, :, length:] = float("nan")
    masks = ours(x, torch.tensor(lengths))
    assert masks.shape == (theirs.num_spks, 6, 16, 33)
    for i, length in enumerate(lengths):
        assert not masks[:, i, :, length:].any()
        if length:
            alone = theirs(x[i : i + 1, :, :length])
            assert alone.any() and relative_error(masks[:, i : i + 1, :, :length], alone) < 1e-4
    masks.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in ours.parameters() if p.grad is not None)


class WithoutLengths(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize("speakers", [2, 3])
def test_mask_network_is_speechbrains_with_mamba_for_convolutions(speakers):
    stack = scramble(MambaBlocksSequential(2, True, 5, d_state=4))
    ours = MaskNet(N=7, B=5, C=speakers, mamba_net=stack)
    theirs = conv_tasnet.MaskNet(N=7, B=5, H=4, P=3, X=1, R=1, C=speakers)
    for part in ("layer_norm", "bottleneck_conv1x1", "mask_conv1x1"):
        getattr(ours, part).load_state_dict(scramble(getattr(theirs, part)).state_dict())
    theirs.temporal_conv_net = WithoutLengths(stack)
    x = torch.rand(3, 7, 20)
    expected = theirs(x)
    assert expected.any() and not expected.all()
    assert relative_error(ours(x), expected) < 1e-5
    masks = ours(x, torch.tensor([20, 13, 1]))
    assert relative_error(masks[:, 1:2, :, :13], theirs(x[1:2, :, :13])) < 1e-5
    assert not masks[:, 1, :, 13:].any() and not masks[:, 2, :, 1:].any()


class Shares(torch.nn.Module):
    """Gives each speaker a share of the mixture, and keeps the lengths that it was called with."""

    def __init__(self, *shares):
        super().__init__()
        self.shares, self.lengths = shares, "never called"

    def forward(self, mix_w, lengths=None):
        self.lengths = None if lengths is None else lengths.tolist()
        return torch.stack([share * torch.ones_like(mix_w) for share in self.shares])


@pytest.mark.parametrize("kernel", [16, 10])
def test_masks_times_mixture_are_decoded_in_the_order_of_speakers(kernel):
    encoder, masknet = Encoder(kernel, 32), Shares(0.2, 0.5, 1.3)
    decoder = Decoder(32, 1, kernel, stride=kernel // 2, bias=False)
    mix = torch.randn(2, 203)
    expected = decoder(encoder(mix))
    estimate = separate(encoder, masknet, decoder, mix)
    assert masknet.lengths is None and estimate.shape == (2, 203, 3)
    for speaker, share in enumerate(masknet.shares):
        assert relative_error(estimate[:, : expected.shape[1], speaker], share * expected) < 1e-5
    assert expected.shape[1] < 203 and not estimate[:, expected.shape[1] :].any()


@pytest.mark.parametrize("kernel", [16, 10])
def test_mask_network_gets_lengths_in_frames(kernel):
    """Only as many as the encoder makes of each mixture alone; none of one that is shorter than its kernel."""

    class Wrapped(torch.nn.Module):  # as DistributedDataParallel does
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x)

    encoder, masknet = Encoder(kernel, 8), Shares(1.0)
    decoder = Decoder(8, 1, kernel, stride=kernel // 2, bias=False)
    samples = [200, 199, 97, kernel + kernel // 2, kernel, kernel - 1, 0]
    mix, mix_lens = torch.randn(7, 200), torch.tensor(samples) / 200
    expected = [encoder(torch.zeros(1, length)).shape[2] if length >= kernel else 0 for length in samples]
    for candidate in (encoder, Wrapped(encoder)):
        separate(candidate, masknet, decoder, mix, mix_lens)
        assert masknet.lengths == expected


def test_mixture_shorter_than_the_kernel():
    masknet = MASKNETS["mambatasnet"]()
    with pytest.raises(ValueError, match="has 15 samples, but the encoder's kernel needs at least 16"):
        separate(Encoder(16, 16), masknet, Decoder(16, 1, 16, stride=8, bias=False), torch.randn(1, 15))


@pytest.mark.parametrize(
    ("kernel", "stride", "words"),
    [
        (32, 8, "a stride of 16, but the decoder has 32 and 8"),
        (16, 16, "a stride of 16, but the decoder has 16 and 16"),
    ],
)
def test_frames_that_differ_are_refused(kernel, stride, words):
    decoder = Decoder(16, 1, kernel, stride=stride, bias=False)
    with pytest.raises(ValueError, match=f"The encoder has a kernel of 32 samples and {words}"):
        separate(Encoder(32, 16), MASKNETS["mambatasnet"](), decoder, torch.randn(1, 640))


def test_dual_path_blocks_that_attend():
    model = dual_path(mamba, attention_layers="high", attention_window=5)
    kinds = [block.intra_mdl.mixer_plan.kinds + block.inter_mdl.mixer_plan.kinds for block in model.dual_mdl]
    assert kinds == [("mamba", "mamba"), ("attention", "attention")]
    assert {module.window for module in model.modules() if isinstance(module, SelfAttention)} == {5}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (transformer, {"attention_layers": [0]}, "intra_mdl is a SBTransformerBlock, which has no mixers to replace"),
        (mamba, {"attention_window": 5}, "attention_window is 5, but no layer attends"),
        (mamba, {"attention_layers": [2]}, r"attention_layers is \[2\], but must be indices from 0 to 1"),
    ],
)
def test_attention_that_a_dual_path_model_cannot_have(model, options, message):
    with pytest.raises(ValueError, match=message):
        dual_path(model, **options)

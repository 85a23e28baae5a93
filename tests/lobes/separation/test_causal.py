"""Separation in pieces beside separation of the whole mixture."""

import pytest
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from speechbrain_mamba.lobes.models.separation.causal import CausalSeparator
from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.utils.hparams import load_hparams
from tests.conftest import HPARAMS
from tests.errors import relative_error
from tests.lobes.separation.test_masking import MASKNETS
from tests.nnet.test_mamba import scramble


def parts(kernel=16, speakers=2, bias=False):
    masknet = MaskNet(12, 8, speakers, MambaBlocksSequential(2, False, 8, d_state=4))
    decoder = Decoder(12, 1, kernel, stride=kernel // 2, bias=bias)
    return [scramble(part).eval() for part in (Encoder(kernel, 12), masknet, decoder)]


PIECES = [[403], [1] * 60, [0, 15, 0, 1, 7, 8, 0, 9, 16, 17, 100], [16, 24, 32], [64, 64, 64, 1], [5, 5, 5, 5, 5]]


@pytest.mark.parametrize("pieces", PIECES, ids=str)
@pytest.mark.parametrize(("kernel", "speakers", "bias"), [(16, 2, False), (7, 3, True), (2, 2, True)])
@torch.no_grad()
def test_pieces_give_the_estimates_of_the_whole(pieces, kernel, speakers, bias):
    """With the stated latency: what is not out yet is at most that much."""
    model = parts(kernel, speakers, bias)
    causal, mix = CausalSeparator(*model), torch.randn(3, sum(pieces))
    state, found, done = causal.init_state(3), [], 0
    for piece in mix.split(pieces, 1):
        estimate, state = causal(piece, state)
        found.append(estimate)
        done += piece.shape[1]
        assert done - causal.latency <= sum(part.shape[1] for part in found) <= done
    found = torch.cat([*found, causal.finish(state)], 1)
    expected = separate(*model, mix)
    assert expected.abs().max() > 0.01
    assert relative_error(found, expected) < 1e-5


@torch.no_grad()
def test_a_state_can_be_used_again_and_its_batch_be_reordered():
    causal, mix = CausalSeparator(*parts()), torch.randn(2, 300)
    _, state = causal(mix[:, :150], causal.init_state(2))
    first, _ = causal(mix[:, 150:], state)
    again, _ = causal(mix[:, 150:], state)
    assert torch.equal(first, again)
    turned = {
        "samples": state["samples"].flip(0),
        "masknet": tuple({key: value.flip(0) for key, value in block.items()} for block in state["masknet"]),
        "tail": state["tail"].flip(0),
    }
    assert relative_error(causal(mix[:, 150:].flip(0), turned)[0], first.flip(0)) < 1e-6


@torch.no_grad()
def test_a_mask_network_steps_frame_by_frame():
    _, masknet, _ = parts()
    mix_w = torch.rand(2, 12, 9)
    state, masks = masknet.init_state(2), []
    for t in range(9):
        mask, state = masknet.step(mix_w[..., t], state)
        masks.append(mask)
    assert relative_error(torch.stack(masks, -1), masknet(mix_w)) < 1e-5


@pytest.mark.parametrize("name", ["mambatasnet", "dpmamba", "sepformer"])
def test_models_that_see_the_future_are_refused(name):
    faults = {"mambatasnet": "its layers see later frames", "other": "its mask network, DualPathModel"}
    encoder, decoder = Encoder(16, 16), Decoder(16, 1, 16, stride=8, bias=False)
    with pytest.raises(ValueError, match=f"cannot run on a stream: {faults.get(name, faults['other'])}.*bidirectional"):
        CausalSeparator(encoder, MASKNETS[name](), decoder)


def test_the_streaming_recipe_trains_and_streams(tmp_path):
    """A few steps on one mixture lower its loss, and then pieces give the estimates of the whole."""
    overrides = {"output_folder": str(tmp_path), "N_encoder_out": 16, "out_channels": 8, "n_mamba": 2}
    hparams = load_hparams(HPARAMS / "separation" / "mini_mambatasnet_streaming.yaml", overrides)
    model = torch.nn.ModuleDict(hparams["modules"])
    sources = torch.stack([torch.sin(torch.arange(2000) * pitch) for pitch in (0.1, 0.7)], -1)[None]
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for _ in range(15):
        estimate = separate(model["encoder"], model["masknet"], model["decoder"], sources.sum(-1))
        losses.append(hparams["loss"](sources, estimate).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 3  # dB
    causal = CausalSeparator(**model.eval())
    with torch.no_grad():
        mix = sources.sum(-1)
        state, found = causal.init_state(1), []
        for piece in mix.split(333, 1):
            estimate, state = causal(piece, state)
            found.append(estimate)
        found = torch.cat([*found, causal.finish(state)], 1)
        assert relative_error(found, separate(model["encoder"], model["masknet"], model["decoder"], mix)) < 1e-5

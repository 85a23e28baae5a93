"""The layers and blocks: mamba-ssm's values and initial weights, our own layers, states, blocks."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_mamba.drop_in import blocks
from speechbrain_mamba.drop_in.layer_state import InferenceParams
from speechbrain_mamba.drop_in.mamba2_layer import Mamba2
from speechbrain_mamba.drop_in.mamba_layer import Mamba
from speechbrain_mamba.drop_in.norms import RMSNorm
from speechbrain_mamba.nnet import mamba, mamba2
from tests.errors import relative_error

SIZES = ("d_model", "d_state", "d_conv", "expand")
DRAWN = {
    Mamba: [-0.00374341, -0.19261527, -6.67700195, -0.04079811],
    Mamba2: [-0.16991377, -3.65070128, 2.75226617, -0.12886699],
}
"""Initial weights that mamba-ssm 2.3.2 draws with the seed 0, first of a Mamba and then of a Mamba2."""


def published(golden, name):
    """A layer with mamba-ssm's weights, and its input, output, input gradient and states."""
    if name == "mamba":
        values = golden("mamba_layer")
        layer = Mamba(**{key: values[key] for key in SIZES}, layer_idx=0)
        layer.load_state_dict(values["state_dict"], strict=True)
        states = values["final_conv_state"], values["final_ssm_state"]
        return layer, values["x"], values["y"], 2 * values["y"], values["grad_x"], states
    values = golden("mamba2")[name]
    layer = Mamba2(**values["options"], layer_idx=0)
    layer.load_state_dict(values["weights"], strict=True)
    states = (values["state"]["conv"], values["state"]["ssm"]) if "state" in values else None
    return layer, values["input"], values["output"], values["output_gradient"], values["input_gradient"], states


@pytest.mark.parametrize("name", ["mamba", "plain", "groups", "before_gate", "no_norm_D_hdim", "mlp"])
def test_outputs_gradients_and_states_are_those_of_mamba_ssm(golden, name):
    layer, x, y, dy, dx, states = published(golden, name)
    x = x.requires_grad_()
    found = layer(x)
    found.backward(dy)
    assert relative_error(found, y) < 1e-4
    assert relative_error(x.grad, dx) < 1e-3
    with torch.no_grad():
        params = InferenceParams(max_seqlen=x.shape[1], max_batch_size=len(x))
        assert relative_error(layer(x, inference_params=params), y) < 1e-4
        cached = params.key_value_memory_dict[0]
        if states:
            for state, right in zip(cached, states):
                assert relative_error(state, right) < 1e-4

        half = x.shape[1] // 2
        params = InferenceParams(max_seqlen=x.shape[1], max_batch_size=len(x))
        parts = [layer(x[:, :half], inference_params=params)]
        for t in range(half, x.shape[1]):
            params.seqlen_offset = t
            parts.append(layer(x[:, t : t + 1], inference_params=params))
        assert relative_error(torch.cat(parts, 1), y) < 1e-4
        params.reset(1, 1)
        assert params.seqlen_offset == 0


def test_weights_fit_our_own_layers():
    for served, own in ((Mamba(8), mamba.Mamba(8)), (Mamba2(8, headdim=4), mamba2.Mamba2(8, headdim=4))):
        own.load_state_dict(served.state_dict(), strict=True)
        x = torch.randn(2, 9, 8)
        torch.testing.assert_close(served(x), own(x), rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_initial_weights_of_mamba_ssm():
    torch.manual_seed(0)
    layer = Mamba(4, d_state=2)
    found = [layer.in_proj.weight[0, 0], layer.dt_proj.weight[0, 0], layer.dt_proj.bias[0], layer.out_proj.weight[0, 0]]
    torch.testing.assert_close(torch.stack(found), torch.tensor(DRAWN[Mamba]))
    layer = Mamba2(4, d_state=2, headdim=4, conv_init=0.5)
    found = [layer.conv1d.weight[0, 0, 0], layer.dt_bias[0], layer.A_log[0], layer.out_proj.weight[0, 0]]
    torch.testing.assert_close(torch.stack(found), torch.tensor(DRAWN[Mamba2]))


def test_options_of_the_constructor():
    layer = Mamba(
        4, dt_init="constant", dt_rank=4, dt_scale=3.0, dtype=torch.float64, device="cpu", use_fast_path=False
    )
    assert (layer.dt_proj.weight == 1.5).all()
    assert layer.in_proj.weight.dtype == torch.float64
    assert layer.A_log.dtype == layer.D.dtype == torch.float32
    assert layer.A_log._no_weight_decay and layer.D._no_weight_decay and layer.dt_proj.bias._no_reinit
    assert layer.allocate_inference_cache(3, 10)[0].shape == (3, 8, 4)
    assert layer.allocate_inference_cache(3, 10, dtype=torch.bfloat16)[1].dtype == torch.bfloat16
    half = Mamba(4, dtype=torch.bfloat16)
    assert half(torch.randn(1, 5, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dt_init is 'ones', but must be 'random' or 'constant'"):
        Mamba(4, dt_init="ones")
    with pytest.raises(ValueError, match=r"tensor parallelism \(process_group\) is not served"):
        Mamba2(64, process_group=object())
    with pytest.raises(ValueError, match="16 inner channels must divide into heads of headdim = 64"):
        Mamba2(8)


@pytest.mark.parametrize("layer", [Mamba(4, d_state=2), Mamba2(4, d_state=2, headdim=4)])
def test_states_need_a_place_and_steps_one_frame(layer):
    with pytest.raises(ValueError, match="inference_params needs a layer_idx"):
        layer(torch.zeros(1, 2, 4), inference_params=InferenceParams(1, 1))
    with pytest.raises(ValueError, match="step takes one frame, but got 2"):
        layer.step(torch.zeros(1, 2, 4), *layer.allocate_inference_cache(1, 1))


@pytest.mark.parametrize("rmsnorm", [True, False])
def test_packed_sequences_and_their_states(rmsnorm):
    torch.manual_seed(0)
    layer = Mamba2(8, d_state=3, headdim=4, rmsnorm=rmsnorm, layer_idx=0)
    x, sizes = torch.randn(1, 9, 8), [4, 1, 4]
    seq_idx = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))[None].int()
    params = [InferenceParams(9, 1) for _ in range(4)]
    alone = [layer(part, inference_params=p) for part, p in zip(x.split(sizes, 1), params)]
    y = layer(x, seq_idx=seq_idx)
    torch.testing.assert_close(y, torch.cat(alone, 1), rtol=1e-4, atol=1e-5)
    ends = torch.tensor([0, 4, 5, 9], dtype=torch.int32)
    cached = layer(x, seq_idx=seq_idx, cu_seqlens=ends, inference_params=params[3])
    torch.testing.assert_close(cached, y, rtol=1e-4, atol=1e-5)
    for number, state in enumerate(params[3].key_value_memory_dict[0]):
        expected = torch.cat([p.key_value_memory_dict[0][number] for p in params[:3]])
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
    flat = layer(x[0], seqlen=9)
    torch.testing.assert_close(flat, layer(x)[0])


@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_blocks_add_normalize_and_mix(fused, rms):
    torch.manual_seed(0)
    norm = RMSNorm if rms else nn.LayerNorm
    mixer = partial(Mamba, d_state=2)
    block = blocks.Block(4, mixer, partial(blocks.GatedMLP, hidden_features=3), norm, fused, True)
    x, residual = torch.randn(2, 2, 5, 4).unbind()

    def normalized(layer, total):
        return F.rms_norm(total, (4,), layer.weight, layer.eps) if rms else layer(total)

    total = x + residual
    mixed = block.mixer(normalized(block.norm, total))
    total = total + mixed
    value, gate = block.mlp.fc1(normalized(block.norm2, total)).chunk(2, -1)
    y, after = block(x, residual)
    torch.testing.assert_close(after, total)
    torch.testing.assert_close(y, block.mlp.fc2(value * F.silu(gate)))
    assert block.mlp.fc2.in_features == 128
    first = blocks.MixerBlock(4, mixer, norm, fused)
    y, after = first(x)
    torch.testing.assert_close(y, first.mixer(normalized(first.norm, x)))
    assert torch.equal(after, x) and first.allocate_inference_cache(2, 3)[0].shape == (2, 8, 4)


def test_blocks_are_built_by_name():
    block = blocks.create_block(
        8, 16, {"layer": "Mamba2", "headdim": 4}, rms_norm=True, fused_add_norm=True, layer_idx=2
    )
    assert isinstance(block.mixer, Mamba2) and isinstance(block.norm, RMSNorm) and block.mixer.layer_idx == 2
    assert isinstance(blocks.create_block(8).mixer, Mamba)
    with pytest.raises(ValueError, match="the layer 'Mamba3', but only Mamba1 and Mamba2 are served"):
        blocks.create_block(8, ssm_cfg={"layer": "Mamba3"})
    with pytest.raises(ValueError, match=r"attention of mamba-ssm \(attn_layer_idx\) is not served"):
        blocks.create_block(8, attn_layer_idx=[1], layer_idx=1)
    with pytest.raises(TypeError, match=r"fused_add_norm takes nn.LayerNorm or RMSNorm, but the norm is Identity"):
        blocks.MixerBlock(8, Mamba, nn.Identity, fused_add_norm=True)


def test_initial_weights_of_a_stack():
    layer = blocks.Block(8, partial(Mamba, bias=True), blocks.GatedMLP, nn.LayerNorm)
    steps = layer.mixer.dt_proj.bias.clone()
    layer.apply(partial(blocks.init_weights, n_layer=25, n_residuals_per_layer=4))
    assert torch.equal(layer.mixer.dt_proj.bias, steps)
    assert not layer.mixer.in_proj.bias.any()
    assert layer.mixer.out_proj.weight.abs().max() <= 0.1 / 16**0.5
    embedding = nn.Embedding(100, 50)
    blocks.init_weights(embedding, 1, initializer_range=0.5)
    assert 0.4 < embedding.weight.std() < 0.6

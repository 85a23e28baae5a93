"""Stacks of residual blocks: composition, options, types. Padding and states are tested with the layers."""

import pytest
import torch

from speechbrain_mamba.nnet.blocks import MambaBlock, MambaBlocksSequential
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from tests.errors import relative_error
from tests.nnet.test_mamba import scramble, written_out


def normalize(norm, x, rms, eps):
    if not rms:
        x = x - x.mean(-1, keepdim=True)
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight
    return y if rms else y + norm.bias


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    "options, rms, eps", [({}, True, 1e-5), ({"rms_norm": False, "norm_epsilon": 0.3}, False, 0.3)]
)
def test_stack_is_blocks_in_order_and_a_normalization(bidirectional, options, rms, eps):
    model = scramble(MambaBlocksSequential(3, bidirectional, d_model=6, d_state=3, **options).double())
    x = 0.01 * torch.randn(2, 7, 6, dtype=torch.float64)
    y = model(x, torch.tensor([7, 4]))
    for i, length in enumerate((7, 4)):
        expected = x[i, :length]
        for block in model.layers:
            expected = expected + written_out(block.mixer, normalize(block.norm, expected, rms, eps))
        assert relative_error(y[i, :length], normalize(model.norm_f, expected, rms, eps)) < 1e-9


@pytest.mark.parametrize("bidirectional, layer", [(True, BiMamba), (False, Mamba)])
def test_options_reach_every_layer(bidirectional, layer):
    sizes = {"d_state": 3, "expand": 3, "d_conv": 2, "dt_rank": 5, "conv_bias": False, "bias": True}
    for options in ({}, sizes):
        model = MambaBlocksSequential(3, bidirectional, 8, **options)
        expected = {key: value.shape for key, value in layer(8, **options).state_dict().items()}
        for block in model.layers:
            assert {key: value.shape for key, value in block.mixer.state_dict().items()} == expected
    assert len({block.mixer.in_proj.weight[0, 0].item() for block in model.layers}) == 3


def adding_stack(**options):
    """Eight layers that each add a thousandth to the first channel: too little for bfloat16 to notice beside a one."""
    model = MambaBlocksSequential(8, False, d_model=2, bias=True, **options)
    with torch.no_grad():
        for block in model.layers:
            block.mixer.out_proj.weight.zero_()
            block.mixer.out_proj.bias.copy_(torch.tensor([1e-3, 0.0]))
    return model


@pytest.mark.parametrize("options, sum_of_residuals", [({}, 1.008), ({"residual_in_fp32": False}, 1.0)])
def test_type_of_the_residuals(options, sum_of_residuals):
    model, x = adding_stack(**options), torch.ones(1, 3, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        pieces = [model(x), model(x, return_state=True)[0], model.step(x[:, 0], model.init_state(1))[0][:, None]]
    for y in pieces:
        assert y.dtype == (torch.bfloat16 if options else torch.float32)
        assert (y[..., 0] / y[..., 1]).flatten()[0].item() == pytest.approx(sum_of_residuals, abs=5e-4)


def test_longer_residuals_stay_as_they_are():
    x = torch.ones(1, 3, 2, dtype=torch.float64)
    for options in ({}, {"residual_in_fp32": False}):
        model = adding_stack(**options).double()
        assert model(x).dtype == torch.float64
        assert (model(x)[..., 0] / model(x)[..., 1] - 1.008).abs().max() < 1e-9
        assert adding_stack(**options)(x.float()).dtype == torch.float32


def test_first_state_is_that_of_each_layer():
    model = MambaBlocksSequential(3, False, 6, d_state=5, d_conv=3)
    for options in ({}, {"dtype": torch.bfloat16}, {"device": "meta", "dtype": torch.float64}):
        states, expected = model.init_state(2, **options), Mamba(6, 5, 3).init_state(2, **options)
        assert len(states) == 3
        for state in states:
            for name, part in expected.items():
                assert (state[name].shape, state[name].dtype, state[name].device) == (
                    part.shape,
                    part.dtype,
                    part.device,
                )


def test_block_hands_on_lengths_and_state():
    """Between a block and its mixer: what comes in goes in, and the input is added to what comes out."""

    class Mixer(torch.nn.Module):
        def forward(self, x, lengths=None, state=None, return_state=False):
            y = 3 * x + (0 if lengths is None else lengths[:, None, None]) + (0 if state is None else state)
            return (y, "next") if return_state else y

        def step(self, x_t, state):
            return 3 * x_t + state, "next"

    block, x, lengths = MambaBlock(Mixer(), torch.nn.RMSNorm(2)), torch.ones(2, 3, 2), torch.tensor([10, 20])
    expected = 4 * x + lengths[:, None, None]
    assert torch.allclose(block(x, lengths), expected)
    assert torch.allclose(block(x, lengths, state=100), expected + 100)
    y, state = block(x, lengths, return_state=True)
    assert torch.allclose(y, expected) and state == "next"
    y, state = block(x, lengths, state=100, return_state=True)
    assert torch.allclose(y, expected + 100) and state == "next"
    y, state = block.step(x[:, 0], 100)
    assert torch.allclose(y, 4 * x[:, 0] + 100) and state == "next"


@pytest.mark.parametrize("bidirectional", [True, False])
def test_padding_is_masked_once_at_the_door_of_a_stack(bidirectional, monkeypatch):
    """Its layers do not mask again, and whatever stands in the padding still reaches nothing."""
    model, x, lengths = MambaBlocksSequential(2, bidirectional, d_model=6), torch.randn(2, 7, 6), torch.tensor([7, 3])
    expected = model(x, lengths)
    x[1, 3:] = torch.nan
    masked = []
    monkeypatch.setattr("speechbrain_mamba.nnet.mamba_layer.mask_frames", lambda x, lengths: masked.append(x) or x)
    y = model(x, lengths)
    y.square().sum().backward()
    assert not masked
    torch.testing.assert_close(y, expected)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_stack_of_attention_has_its_settings_and_other_weights():
    model = MambaBlocksSequential(2, "outer", 16, d_state=4, mixer_config={"attention": {"nhead": 2}}, rms_norm=False)
    other = model.with_attention()
    assert other.mixer_plan.kinds == ("attention", "attention") and other.mixer_plan.budget == model.mixer_plan.budget
    assert other.bidirectional and other.layers[0].mixer.nhead == 2 and isinstance(other.norm_f, torch.nn.LayerNorm)
    assert not {id(one) for one in model.parameters()} & {id(one) for one in other.parameters()}


@pytest.mark.parametrize("layers", [None, [1]])
def test_a_stack_of_mixers_in_pieces_and_by_steps(layers):
    model = MambaBlocksSequential(3, False, 8, d_state=4, mixer="mamba2", attention_layers=layers).double()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    whole, state, parts = model(x), model.init_state(2), []
    for piece in x[:, :5].split([3, 2], 1):
        part, state = model(piece, state=state, return_state=True)
        parts.append(part)
    for frame in x[:, 5:].unbind(1):
        part, state = model.step(frame, state)
        parts.append(part[:, None])
    assert relative_error(torch.cat(parts, 1), whole) < 1e-9


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="bidirectional is 'both', but must be one of inner, outer, outer_concat"):
        MambaBlocksSequential(1, "both", 8)

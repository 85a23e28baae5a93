"""The layers: published values, padding, state."""

import pytest
import torch

from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.init import reset_parameters
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from tests.errors import relative_error

SIZES = ("d_model", "d_state", "d_conv", "expand")
LAYERS = {"mamba_layer": Mamba, "bimamba_layer": BiMamba}


@pytest.mark.parametrize("name", LAYERS)
def test_published_outputs_and_gradients(name, golden):
    expected = golden(name)
    layer = LAYERS[name](**{key: expected[key] for key in SIZES})
    layer.load_state_dict(expected["state_dict"], strict=True)
    x = expected["x"].requires_grad_()
    y = layer(x)
    y.pow(2).sum().backward()
    assert relative_error(y, expected["y"]) < 1e-4
    assert relative_error(x.grad, expected["grad_x"]) < 1e-3
    for key, norm in expected["grad_norm"].items():
        assert layer.get_parameter(key).grad.norm().item() == pytest.approx(float(norm), rel=1e-3), key


def test_published_states(golden):
    expected = golden("mamba_layer")
    layer = Mamba(**{key: expected[key] for key in SIZES})
    layer.load_state_dict(expected["state_dict"])
    _, state = layer(expected["x"], return_state=True)
    assert relative_error(state["conv"], expected["final_conv_state"][..., 1:]) < 1e-4
    assert relative_error(state["ssm"], expected["final_ssm_state"]) < 1e-4


def stack(bidirectional, **options):
    return MambaBlocksSequential(n_mamba=2, bidirectional=bidirectional, d_model=12, d_state=4, **options)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": True, "rms_norm": False}])
def test_padded_batch_equals_single_examples(bidirectional, options):
    model = stack(bidirectional, **options)
    lengths = torch.tensor([23, 1, 0, 9])
    x = torch.randn(4, 23, 12)
    for i, length in enumerate(lengths.tolist()):
        x[i, length:] = float("nan")
    weight = torch.randn_like(x).nan_to_num()
    y = model(x, lengths)
    (y * weight).sum().backward()
    batched = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    for i, length in enumerate(lengths.tolist()):
        assert not y[i, length:].any()
        if length:
            alone = model(x[i : i + 1, :length])
            assert relative_error(y[i : i + 1, :length], alone) < 1e-5
            (alone * weight[i : i + 1, :length]).sum().backward()
    for key, parameter in model.named_parameters():
        assert relative_error(batched[key], parameter.grad) < 1e-4, key


@pytest.mark.parametrize("split", [[30], [1, 29], [4, 0, 13, 13], [1] * 30])
def test_chunks_equal_one_go(split):
    model = stack(bidirectional=False)
    x = torch.randn(2, 30, 12)
    expected, last = model(x, return_state=True)
    state, outputs = model.init_state(2), []
    for chunk in x.split(split, dim=1):
        if chunk.shape[1] == 1:
            y, state = model.step(chunk[:, 0], state)
            y = y[:, None]
        else:
            y, state = model(chunk, state=state, return_state=True)
        outputs.append(y)
    assert relative_error(torch.cat(outputs, 1), expected) < 1e-5
    for a, b in zip(state, last):
        assert relative_error(a["ssm"], b["ssm"]) < 1e-5
        assert relative_error(a["conv"], b["conv"]) < 1e-5


def test_state_is_that_of_the_last_valid_frame():
    model = stack(bidirectional=False)
    x = torch.randn(2, 9, 12)
    _, state = model(x, lengths=torch.tensor([9, 5]), return_state=True)
    _, alone = model(x[1:, :5], return_state=True)
    for a, b in zip(state, alone):
        assert all(relative_error(a[key][1:], b[key]) < 1e-5 for key in a)


def test_bidirectional_stack_has_no_state():
    model = stack(bidirectional=True)
    for call in (
        lambda: model.init_state(1),
        lambda: model.step(torch.zeros(1, 12), ()),
        lambda: model(torch.zeros(1, 3, 12), return_state=True),
    ):
        with pytest.raises(TypeError, match="A bidirectional stack has no state"):
            call()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_bf16_autocast_keeps_the_recurrence_in_float32(bidirectional):
    model = stack(bidirectional)
    x = torch.randn(2, 40, 12)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
        y.square().mean().backward()
    assert y.dtype == torch.float32
    assert relative_error(y, expected) < 0.05
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in model.parameters())


def test_double_precision():
    model = stack(bidirectional=True).double()
    x = torch.randn(1, 20, 12, dtype=torch.float64)
    assert relative_error(model.float()(x.float()), model.double()(x)) < 1e-5


def test_initialisation_survives_both_ways_of_resetting():
    def recursive_reset(layer):  # as SpeechBrain's separation recipes have it
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        for child in layer.modules():
            if child is not layer:
                recursive_reset(child)

    for reset in (reset_parameters, recursive_reset):
        model = MambaBlocksSequential(n_mamba=1, bidirectional=True, d_model=12, d_state=4)
        mixer = model.layers[0].mixer
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        reset(model)
        assert torch.allclose(mixer.A_b_log.exp(), torch.arange(1.0, 5.0).expand(24, 4))
        assert torch.equal(mixer.D_b, torch.ones(24))
        step = torch.nn.functional.softplus(mixer.dt_proj_b.bias)
        assert step.min() >= 0.9e-3 and step.max() <= 0.11
        assert mixer.out_proj.weight.abs().max() <= 1 / 24**0.5

"""The layers: published values, options against the recurrence written out, padding, state, initial values."""

import math

import pytest
import torch
import torch.nn.functional as F

from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.init import reset_parameters
from speechbrain_mamba.nnet.mamba import BiMamba, DeltaProjection, Mamba, ScaledLinear
from tests.errors import assert_padding_is_harmless, relative_error

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


def written_out(layer, x, chunk_size=None):
    """The layer over one example, (time, d_model), frame by frame; the reverse direction within chunks, if any."""
    w = dict(layer.named_parameters())
    u, z = F.linear(x, w["in_proj.weight"], w.get("in_proj.bias")).chunk(2, -1)
    y = written_out_scan(w, "", u)
    if "D_b" in w:
        chunks = u.split(chunk_size or max(1, len(u)))
        y = (y + torch.cat([written_out_scan(w, "_b", chunk.flip(0)).flip(0) for chunk in chunks])) / 2
    return F.linear(y * F.silu(z), w["out_proj.weight"], w.get("out_proj.bias"))


def written_out_scan(w, suffix, u):
    taps, bias = w[f"conv1d{suffix}.weight"][:, 0], w.get(f"conv1d{suffix}.bias", 0)
    (channels, width), rates = taps.shape, w[f"A{suffix}_log"].exp()
    rank, d_state = w[f"dt_proj{suffix}.weight"].shape[1], rates.shape[1]
    earlier, h, y = u.new_zeros(width - 1, channels), u.new_zeros(channels, d_state), [u[:0]]
    for t in range(len(u)):
        seen = torch.cat([earlier, u])[t : t + width]
        v = F.silu((seen * taps.T).sum(0) + bias)
        low, b, c = (w[f"x_proj{suffix}.weight"] @ v).split([rank, d_state, d_state])
        step = F.softplus(w[f"dt_proj{suffix}.weight"] @ low + w[f"dt_proj{suffix}.bias"])[:, None]
        h = (-step * rates).exp() * h + step * b * v[:, None]
        y.append((h @ c + w[f"D{suffix}"] * v)[None])
    return torch.cat(y)


def scramble(module):
    """Random values for all parameters, no two alike: even those that begin as ones or zeros."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


OPTIONS = {
    "projections with biases, convolution without": {"bias": True, "conv_bias": False},
    "all biases": {"bias": True, "d_state": 5},
    "no biases": {"conv_bias": False, "d_state": 1},
    "rank": {"dt_rank": 3, "d_state": 2},
    "widths": {"d_conv": 2, "expand": 3, "d_state": 3},
    "broken expand": {"expand": 1.5, "d_conv": 3, "bias": True},
}


@pytest.mark.parametrize("cls", [Mamba, BiMamba])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_in_a_padded_batch_against_the_recurrence(cls, name):
    layer = scramble(cls(d_model=6, **OPTIONS[name]).double())
    x = torch.randn(4, 7, 6, dtype=torch.float64)
    assert_padding_is_harmless(layer, layer, lambda x: written_out(layer, x), x, [7, 1, 0, 4])


@pytest.mark.parametrize("name", OPTIONS)
def test_options_step_by_step(name):
    layer = scramble(Mamba(d_model=6, **OPTIONS[name]).double())
    x, state = torch.randn(2, 7, 6, dtype=torch.float64), layer.init_state(2)
    expected = torch.stack([written_out(layer, example) for example in x])
    for t in range(7):
        y, state = layer.step(x[:, t], state)
        assert relative_error(y, expected[:, t]) < 1e-9


@pytest.mark.parametrize("cls, suffixes", [(Mamba, ("",)), (BiMamba, ("", "_b"))])
def test_options_are_sizes(cls, suffixes):
    options = {"d_state": 5, "d_conv": 3, "expand": 3, "bias": True, "conv_bias": False}
    for rank, expected in ((None, 2), ("auto", 2), (7, 7)):
        rank = {} if rank is None else {"dt_rank": rank}
        shapes = {key: tuple(p.shape) for key, p in cls(d_model=20, **options, **rank).named_parameters()}
        scans = {
            "conv1d{}.weight": (60, 1, 3),
            "x_proj{}.weight": (expected + 10, 60),
            "dt_proj{}.weight": (60, expected),
            "dt_proj{}.bias": (60,),
            "A{}_log": (60, 5),
            "D{}": (60,),
        }
        projections = {"in_proj.weight": (120, 20), "in_proj.bias": (120,)} | {
            "out_proj.weight": (20, 60),
            "out_proj.bias": (20,),
        }
        assert shapes == projections | {k.format(s): shape for k, shape in scans.items() for s in suffixes}


def test_first_state_has_the_types_of_the_parameters_or_those_asked_for():
    layer = Mamba(d_model=6, d_state=5, d_conv=3)
    for kind, conv, ssm in (
        (None, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float64, torch.float64),
    ):
        state = layer.init_state(2, dtype=kind)
        assert state["conv"].dtype == conv and state["ssm"].dtype == ssm
        assert state["conv"].shape == (2, 12, 2) and state["ssm"].shape == (2, 12, 5)
        assert not state["conv"].any() and not state["ssm"].any()
    assert all(part.dtype == torch.float64 for part in layer.double().init_state(1).values())
    assert all(part.device.type == "meta" for part in layer.init_state(1, device="meta").values())


def test_step_leaves_the_state_as_it_is():
    layer = Mamba(d_model=6, d_state=5)
    _, state = layer(torch.randn(2, 7, 6), return_state=True)
    before = {key: part.clone() for key, part in state.items()}
    layer.step(torch.randn(2, 6), state)
    assert all(torch.equal(state[key], part) for key, part in before.items())


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


def test_initialization_survives_both_ways_of_resetting():
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


def steps(bias):
    """The steps that the recurrence takes for an input of zero, in order."""
    return F.softplus(bias.detach().double()).sort().values


@pytest.mark.parametrize("options, low, high", [({}, 0.001, 0.1), ({"dt_min": 0.02, "dt_max": 0.5}, 0.02, 0.5)])
@pytest.mark.parametrize("cls", [Mamba, BiMamba])
def test_steps_are_drawn_log_uniformly(cls, options, low, high):
    layer = cls(d_model=512, d_state=1, d_conv=1, **options)
    uniform = torch.linspace(math.log(low), math.log(high), 1024, dtype=torch.float64)
    for projection in (module for module in layer.modules() if isinstance(module, DeltaProjection)):
        drawn = steps(projection.bias)
        assert drawn[0] >= low * 0.999 and drawn[-1] <= high * 1.001
        assert (drawn.log() - uniform).abs().max() < 0.06 * (uniform[-1] - uniform[0])


def test_steps_have_a_floor():
    drawn = steps(DeltaProjection(1, 1000, dt_min=1e-5, dt_max=1.0, dt_init_floor=1e-3).bias)
    assert drawn[0] == pytest.approx(1e-3, rel=1e-3)
    assert ((drawn < 1.001e-3).double().mean() - 0.4).abs() < 0.05
    assert steps(DeltaProjection(1, 1000, dt_min=1e-5).bias)[0] == pytest.approx(1e-4, rel=1e-3)


def assert_uniform(weight, bound):
    """Spread evenly over +-bound, as far as a thousand values or more can tell."""
    assert weight.abs().max() <= bound * 1.0001
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert weight.mean().abs() < 0.1 * bound


@pytest.mark.parametrize("options, scale", [({}, 1.0), ({"dt_scale": 0.3}, 0.3)])
def test_step_projection_has_uniform_weights(options, scale):
    layer = BiMamba(d_model=64, dt_rank=16, **options)
    for projection in (layer.dt_proj, layer.dt_proj_b):
        assert_uniform(projection.weight, scale / 4)


@pytest.mark.parametrize("options, scale", [({}, 1.0), ({"init_scale": 0.3}, 0.3)])
def test_scaled_linear_scales_its_weights_alone(options, scale):
    layer = ScaledLinear(25, 2000, **options)
    for _ in range(2):
        assert_uniform(layer.weight, scale / 5)
        assert_uniform(layer.bias, 1 / 5)
        layer.reset_parameters()
    assert ScaledLinear(25, 3, bias=False).bias is None


@pytest.mark.parametrize("n_mamba", [1, 3, 4])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_output_projections_begin_smaller_in_deeper_stacks(n_mamba, bidirectional):
    model = MambaBlocksSequential(n_mamba, bidirectional, d_model=32, expand=3, bias=True)
    for reset in (None, reset_parameters):
        if reset:
            reset(model)
        for block in model.layers:
            assert_uniform(block.mixer.out_proj.weight, 1 / 96**0.5 / n_mamba**0.5)
            assert_uniform(block.mixer.in_proj.weight, 1 / 32**0.5)
            assert block.mixer.out_proj.bias.abs().max() > 0.8 / 96**0.5
    assert_uniform(Mamba(d_model=32, expand=3).out_proj.weight, 1 / 96**0.5)


@pytest.mark.parametrize("cls", [Mamba, BiMamba])
def test_states_begin_to_decay_at_whole_rates(cls):
    layer = cls(d_model=6, d_state=5)
    parameters = dict(layer.named_parameters())
    for suffix in ("", "_b")[: 1 if cls is Mamba else 2]:
        assert torch.allclose(parameters[f"A{suffix}_log"].exp(), torch.arange(1.0, 6.0).expand(12, 5))
        assert torch.equal(parameters[f"D{suffix}"], torch.ones(12))

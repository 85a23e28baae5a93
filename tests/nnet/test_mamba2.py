"""The layers of Mamba-2: mamba-ssm's values, options against the recurrence written out, padding, state."""

import pytest
import torch
import torch.nn.functional as F

from speechbrain_mamba.nnet.init import reset_parameters
from speechbrain_mamba.nnet.mamba2 import BiMamba2, Mamba2
from tests.errors import assert_padding_is_harmless, relative_error
from tests.nnet.test_mamba import scramble

CASES = ("plain", "groups", "before_gate", "no_norm_D_hdim", "mlp")


def published(golden, name):
    """A case of the golden values, and the layer with its weights."""
    expected = golden("mamba2")[name]
    layer = Mamba2(**expected["options"])
    layer.load_state_dict(expected["weights"], strict=True)
    return expected, layer


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_of_mamba_ssm(name, golden):
    expected, layer = published(golden, name)
    x = expected["input"].requires_grad_()
    y = layer(x)
    y.backward(expected["output_gradient"])
    assert relative_error(y, expected["output"]) < 1e-5
    assert relative_error(x.grad, expected["input_gradient"]) < 1e-5
    gradients = {key: parameter.grad for key, parameter in layer.named_parameters()}
    assert gradients.keys() == expected["gradients"].keys()
    for key, gradient in gradients.items():
        assert relative_error(gradient, expected["gradients"][key]) < 2e-5, key


@pytest.mark.parametrize("name", ["plain", "before_gate", "mlp"])
def test_states_of_mamba_ssm(name, golden):
    expected, layer = published(golden, name)
    _, state = layer(expected["input"], return_state=True)
    assert relative_error(state["conv"], expected["state"]["conv"][..., 1:]) < 1e-5  # ours is without the last frame
    assert relative_error(state["ssm"], expected["state"]["ssm"]) < 1e-5


def written_out(layer, x):
    """The layer over one example, (time, d_model), frame by frame."""
    w = dict(layer.named_parameters())
    widths = [layer.d_mlp, layer.d_mlp, layer.d_ssm, layer.conv_dim, layer.nheads]
    gate, value, z, inputs, delta = F.linear(x, w["in_proj.weight"], w.get("in_proj.bias")).split(widths, -1)
    y = written_out_scan(layer, w, "", inputs, delta)
    if "D_b" in w:
        y = (y + written_out_scan(layer, w, "_b", inputs.flip(0), delta.flip(0)).flip(0)) / 2
    z = F.silu(z)
    if not layer.rmsnorm:
        y = y * z
    else:
        before = layer.norm.norm_before_gate
        parts = (y if before else y * z).chunk(layer.ngroups, -1)
        y = torch.cat([part / (part.square().mean(-1, keepdim=True) + 1e-5).sqrt() for part in parts], -1)
        y = y * w["norm.weight"] * (z if before else 1)
    return F.linear(torch.cat([F.silu(gate) * value, y], -1), w["out_proj.weight"], w.get("out_proj.bias"))


def written_out_scan(layer, w, suffix, inputs, delta):
    taps, bias = w[f"conv1d{suffix}.weight"][:, 0], w.get(f"conv1d{suffix}.bias", 0)
    states, heads, size = layer.d_state, layer.nheads, layer.headdim
    padded = torch.cat([inputs.new_zeros(layer.d_conv - 1, layer.conv_dim), inputs])
    skip = w[f"D{suffix}"] if layer.D_has_hdim else w[f"D{suffix}"].repeat_interleave(size)
    h, y = [inputs.new_zeros(size, states)] * heads, [inputs[:0, : layer.d_ssm]]
    for t in range(len(inputs)):
        frame = F.silu((padded[t : t + layer.d_conv] * taps.T).sum(0) + bias)
        step = F.softplus(delta[t] + w[f"dt_bias{suffix}"]).clamp(*layer.dt_limit)
        out = []
        for head in range(heads):
            x = frame[head * size : (head + 1) * size]
            first = layer.d_ssm + head // (heads // layer.ngroups) * states
            b, c = frame[first : first + states], frame[first + layer.ngroups * states :][:states]
            decay = (-step[head] * w[f"A{suffix}_log"][head].exp()).exp()
            h[head] = decay * h[head] + step[head] * torch.outer(x, b)
            out.append(h[head] @ c)
        y.append((torch.cat(out) + skip * frame[: layer.d_ssm])[None])
    return torch.cat(y)


OPTIONS = {
    "all biases": {"bias": True, "headdim": 4, "d_state": 3},
    "groups": {"headdim": 3, "ngroups": 2, "d_state": 2, "conv_bias": False},
    "gate after norm, limits": {"headdim": 6, "d_state": 3, "norm_before_gate": True, "dt_limit": (0.2, 0.6)},
    "no norm": {"headdim": 2, "ngroups": 3, "d_state": 1, "rmsnorm": False, "D_has_hdim": True, "chunk_size": 2},
    "MLP": {"expand": 1.5, "d_ssm": 6, "headdim": 3, "d_conv": 2, "d_state": 4, "bias": True},
}


@pytest.mark.parametrize("cls", [Mamba2, BiMamba2])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_in_a_padded_batch_against_the_recurrence(cls, name):
    layer = scramble(cls(d_model=6, **OPTIONS[name]).double())
    x = torch.randn(4, 7, 6, dtype=torch.float64)
    assert_padding_is_harmless(layer, layer, lambda x: written_out(layer, x), x, [7, 1, 0, 4])


@pytest.mark.parametrize("name", OPTIONS)
def test_any_split_into_chunks_and_steps_equals_one_go(name):
    layer = scramble(Mamba2(d_model=6, **OPTIONS[name]).double())
    x, state = torch.randn(2, 9, 6, dtype=torch.float64), layer.init_state(2)
    whole, last = layer(x, return_state=True)
    outputs = []
    for chunk in x.split([3, 0, 1, 1, 4], dim=1):
        if chunk.shape[1] == 1:
            before = {key: part.clone() for key, part in state.items()}
            y, stepped = layer.step(chunk[:, 0], state)
            assert all(torch.equal(state[key], part) for key, part in before.items())
            y, state = y[:, None], stepped
        else:
            y, state = layer(chunk, state=state, return_state=True)
        outputs.append(y)
    assert relative_error(torch.cat(outputs, 1), whole) < 1e-10
    for key in last:
        assert relative_error(state[key], last[key]) < 1e-10


def test_state_is_that_of_the_last_valid_frame():
    layer = Mamba2(d_model=6, headdim=4, d_state=3)
    x = torch.randn(2, 9, 6)
    _, state = layer(x, lengths=torch.tensor([9, 5]), return_state=True)
    _, alone = layer(x[1:, :5], return_state=True)
    assert all(relative_error(state[key][1:], alone[key]) < 1e-5 for key in state)


def test_first_state_has_the_types_of_the_parameters_or_those_asked_for():
    layer = Mamba2(d_model=6, headdim=4, d_state=5, d_conv=3)
    for kind, conv, ssm in (
        (None, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float64, torch.float64),
    ):
        state = layer.init_state(2, dtype=kind)
        assert state["conv"].dtype == conv and state["ssm"].dtype == ssm
        assert state["conv"].shape == (2, 12 + 10, 2) and state["ssm"].shape == (2, 3, 4, 5)
        assert not state["conv"].any() and not state["ssm"].any()


@pytest.mark.parametrize("cls", [Mamba2, BiMamba2])
def test_bf16_autocast_keeps_the_recurrence_in_float32(cls):
    layer = scramble(cls(d_model=12, headdim=8, d_state=6))
    x = torch.randn(2, 40, 12)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        y.square().mean().backward()
    assert y.dtype == torch.bfloat16
    assert relative_error(y, expected) < 0.05
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("cls, suffixes", [(Mamba2, ("",)), (BiMamba2, ("", "_b"))])
def test_initial_values(cls, suffixes):
    layer = cls(d_model=64, expand=4, headdim=1, d_state=2, A_init_range=(2, 5), dt_min=0.01, dt_max=0.2)
    for reset in (False, True):
        if reset:
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.fill_(7.0)
            reset_parameters(layer)
        assert torch.equal(layer.norm.weight, torch.ones(256))
        for suffix in suffixes:
            values = {name: layer.get_parameter(name).detach() for name in (f"A{suffix}_log", f"dt_bias{suffix}")}
            rates, steps = values[f"A{suffix}_log"].exp(), F.softplus(values[f"dt_bias{suffix}"])
            assert 1.999 < rates.min() < 2.2 and 4.8 < rates.max() < 5.001
            assert 0.0099 < steps.min() < 0.012 and 0.17 < steps.max() < 0.2001
            assert torch.equal(layer.get_parameter(f"D{suffix}"), torch.ones(256))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"headdim": 5}, "12 inner channels do not divide into heads of headdim = 5"),
        ({"headdim": 4, "ngroups": 2}, "3 heads .* do not divide into ngroups = 2"),
        ({"headdim": 4, "d_ssm": 16}, "d_ssm is 16, but must be between 1 and the 12 inner channels"),
        ({"headdim": 4, "A_init_range": (0, 1)}, "A_init_range"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mamba2(d_model=6, **options)

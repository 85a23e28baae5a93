"""The scan of Mamba-2: the recurrence by hand, mamba-ssm's values, and chunks against the recurrence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_mamba import ops
from speechbrain_mamba.ops import SsdInputs, bidirectional_ssd, selective_scan, ssd, ssd_update, use_backend
from speechbrain_mamba.ops.backends import chunked
from tests.errors import relative_error
from tests.ops.cases import bidirectional_ssd_inputs, check

BACKENDS = ("reference", "chunked")
OVER_TIME = ("x", "delta", "B", "C", "z")


def inputs_of(batch, time, heads, channels, groups, states, dtype=torch.float64, skip_by_channel=False):
    """Every input, in order; B and C are slices, as in a layer."""
    maps = torch.randn(batch, time, 2 * groups * states, dtype=dtype)
    B, C = (part.unflatten(-1, (groups, states)) for part in maps.chunk(2, -1))
    shapes = {"x": (batch, time, heads, channels), "delta": (batch, time, heads), "A": (heads,)}
    shapes |= {"D": (heads, channels) if skip_by_channel else (heads,), "z": shapes["x"], "delta_bias": (heads,)}
    shapes |= {"initial_state": (batch, heads, channels, states)}
    inputs = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    inputs["A"] = -4 * inputs["A"].abs()
    return {name: t.to(dtype) for name, t in inputs.items()} | {"B": B, "C": C}


def frames(inputs, part):
    """Inputs with some frames only."""
    return {name: t[part] if name in OVER_TIME else t for name, t in inputs.items()}


def run(backend, inputs, dtype=None, **options):
    """Output, last state and the gradient of every input, by name."""
    leaves = {name: t.detach().to(dtype or t.dtype).requires_grad_() for name, t in inputs.items()}
    with use_backend(backend):
        outputs = ssd(**leaves, delta_softplus=True, return_last_state=True, **options)
    torch.manual_seed(1)
    weights = [torch.randint(-8, 9, y.shape) / 8 for y in outputs]  # that every dtype represents exactly
    loss = sum((y.double() * w).sum() for y, w in zip(outputs, weights))
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"y": outputs[0].detach(), "last": outputs[1].detach()} | dict(zip(leaves, gradients))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.data())
def test_reference_is_the_recurrence(time, groups, per_group, reverse, data):
    heads, batch, limit = groups * per_group, 2, (0.1, 1.5)
    t = inputs_of(batch, time, heads, 2, groups, 3)
    lengths = data.draw(st.lists(st.integers(0, time), min_size=batch, max_size=batch))
    with use_backend("reference"):
        y = ssd(**t, delta_softplus=True, dt_limit=limit, lengths=torch.tensor(lengths), reverse=reverse)
    for i, length in enumerate(lengths):
        assert not y[i, length:].any()
        for head in range(heads):
            for channel in range(2):
                h = t["initial_state"][i, head, channel].tolist()
                for at in reversed(range(length)) if reverse else range(length):
                    step = math.log1p(math.exp(t["delta"][i, at, head] + t["delta_bias"][head]))
                    step, x = min(max(step, limit[0]), limit[1]), t["x"][i, at, head, channel].item()
                    b, c = (t[name][i, at, head // per_group].tolist() for name in "BC")
                    h = [math.exp(step * t["A"][head]) * s + step * x * own for s, own in zip(h, b)]
                    out = sum(s * own for s, own in zip(h, c)) + t["D"][head] * x
                    gate = t["z"][i, at, head, channel]
                    assert y[i, at, head, channel].item() == pytest.approx((out * gate * gate.sigmoid()).item())


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_of_mamba_ssm(backend, golden):
    expected = golden("mamba2")["operation"]
    names = {"dt": "delta", "dt_bias": "delta_bias"}
    leaves = {names.get(name, name): t.requires_grad_() for name, t in expected["arguments"].items()}
    with use_backend(backend):
        y = ssd(**leaves, delta_softplus=True, chunk_size=4)
    y.backward(expected["output_gradient"])
    assert relative_error(y, expected["output"]) < 1e-5
    for name, gradient in expected["gradients"].items():
        assert relative_error(leaves[names.get(name, name)].grad, gradient) < 2e-5, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_the_selective_scan_of_channels_that_share_their_decays(backend, reverse):
    batch, time, heads, channels, states = 2, 150, 3, 4, 5
    t = inputs_of(batch, time, heads, channels, 1, states, torch.float32)
    lengths = torch.tensor([150, 77])

    def by_channel(name):
        return t[name][..., None].expand(*t[name].shape, channels).flatten(-2)

    y, last = selective_scan(
        t["x"].flatten(2), by_channel("delta"), by_channel("A")[:, None].expand(-1, states), t["B"][:, :, 0],
        t["C"][:, :, 0], by_channel("D"), t["z"].flatten(2), by_channel("delta_bias"), True, lengths=lengths,
        reverse=reverse, initial_state=t["initial_state"].flatten(1, 2), return_last_state=True,
    )  # fmt: skip
    with use_backend(backend):
        ours = ssd(**t, delta_softplus=True, lengths=lengths, reverse=reverse, return_last_state=True)
    assert relative_error(ours[0].flatten(2), y) < 1e-5
    assert relative_error(ours[1].flatten(1, 2), last) < 1e-5


TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
SUMS = {"A", "D", "delta_bias"}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_chunks_are_the_recurrence_forward_and_backward(data):
    batch, time, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 2))
    heads, channels, states = groups * data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5)), 4
    dtype = data.draw(st.sampled_from(list(TOLERANCE)))
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    t = inputs_of(batch, time, heads, channels, groups, states, dtype, data.draw(st.booleans()))
    for name in ("A", "D", "delta_bias", "initial_state"):
        t[name] = t[name].to(torch.promote_types(dtype, torch.float32))
    for name in ("D", "z", "delta_bias", "initial_state"):
        if data.draw(st.booleans()):
            del t[name]
    options = {
        "reverse": data.draw(st.booleans()),
        "dt_limit": data.draw(st.sampled_from([(0.0, math.inf), (0.3, 1.0)])),
        "chunk_size": data.draw(st.sampled_from([None, 1, 3, 8])),
    }
    if data.draw(st.booleans()):
        lengths = torch.tensor(data.draw(st.lists(st.integers(0, time), min_size=batch, max_size=batch)))
        options["lengths"] = lengths
        for name in set(OVER_TIME) & set(t):
            for i, length in enumerate(lengths.tolist()):
                t[name] = t[name].clone()
                t[name][i, length:] = torch.nan
    slab = data.draw(st.sampled_from([1, 2**10, 2**19]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chunked.SLABS, "cpu", slab)
        results = run("chunked", t, **options)
    for name, right in run("reference", t, torch.float64, **options).items():
        allowed = TOLERANCE[dtype] * (10 if name in SUMS else 2)
        assert relative_error(results[name], right) < allowed, name
        assert results[name].dtype == (torch.promote_types(dtype, torch.float32) if name == "last" else
                                       t[name].dtype if name in t else dtype)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gated", [False, True])
def test_both_directions_are_the_mean_of_two_scans(backend, gated):
    torch.manual_seed(0)
    one, other = (inputs_of(2, 7, 4, 3, 2, 5) for _ in range(2))
    z, lengths = one["z"] if gated else None, torch.tensor([7, 4])
    options = {"delta_softplus": True, "dt_limit": (0.1, 1.5), "lengths": lengths}
    forward, reverse = (SsdInputs(*(t[name] for name in SsdInputs._fields)) for t in (one, other))
    with use_backend(backend):
        y = bidirectional_ssd(forward, reverse, z, **options)
        expected = [
            ssd(*d[:6], z, d.delta_bias, reverse=backwards, **options) for d, backwards in ((forward, 0), (reverse, 1))
        ]
    assert relative_error(y, 0.5 * (expected[0] + expected[1])) < 1e-12
    assert not y[1, 4:].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_directions_pass_gradients_to_each(backend):
    torch.manual_seed(0)
    inputs = bidirectional_ssd_inputs(2, 7, 4, 3, 2, 5)
    check(bidirectional_ssd, inputs, backend, delta_softplus=True, lengths=torch.tensor([7, 4]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"reverse": (1, 2, 3)}, TypeError, "must be speechbrain_mamba.ops.SsdInputs"),
        ({"z": torch.ones(2, 5, 4)}, ValueError, "bidirectional_ssd: z has shape"),
        ({"chunk_size": 0}, ValueError, "bidirectional_ssd: chunk_size is 0"),
        ({"lengths": torch.tensor([6, 1])}, ValueError, "lengths run from 1 to 6"),
    ],
)
def test_both_directions_refuse_what_does_not_fit(change, error, message):
    with pytest.raises(error, match=message):
        bidirectional_ssd(**bidirectional_ssd_inputs(2, 5, 4, 3, 2, 2) | change)


def test_both_directions_have_to_be_alike():
    inputs = bidirectional_ssd_inputs(2, 5, 4, 3, 2, 2)
    for change, message in (({"D": None}, "D is given for one direction only"),
                            ({"B": torch.ones(2, 5, 2, 3)}, "B of the reverse direction")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            bidirectional_ssd(inputs["forward"], inputs["reverse"]._replace(**change))


def test_fast_decays_next_to_slow_ones_keep_their_precision():
    """Differences of sums from the start of a chunk would not: the sums reach thousands, later steps are small."""
    t = inputs_of(1, 64, 1, 2, 1, 3, torch.float32)
    t["A"], t["delta"] = torch.tensor([-100.0]), torch.full((1, 64, 1), 1e-4)
    t["delta"][:, :20] = 10.0
    ours = run("chunked", t)
    for name, right in run("reference", t, torch.float64).items():
        assert relative_error(ours[name], right) < 4e-6, name


def test_gradients_of_the_chunks_are_right():
    t = inputs_of(2, 4, 2, 1, 1, 2)
    lengths = torch.tensor([4, 3])

    def scan(*values):
        return ssd(**dict(zip(t, values)), delta_softplus=True, lengths=lengths, return_last_state=True, chunk_size=2)

    for backend in BACKENDS:
        with use_backend(backend):
            assert torch.autograd.gradcheck(scan, [value.requires_grad_() for value in t.values()])


def test_second_derivatives_are_those_of_the_reference():
    t = inputs_of(1, 3, 1, 2, 1, 2)
    x = t.pop("x").requires_grad_()
    with use_backend("reference"):
        assert torch.autograd.gradgradcheck(lambda x: ssd(x, **t), [x])
    (gradient,) = torch.autograd.grad(ssd(x, **t).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"second ones inside use_backend\('reference'\)"):
        gradient.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_padded_batch_equals_each_example_alone(backend):
    t, lengths = inputs_of(4, 9, 4, 3, 2, 2), [9, 4, 1, 0]
    for name in OVER_TIME:
        for i, length in enumerate(lengths):
            t[name][i, length:] = torch.nan
    for reverse in (False, True):
        batched = run(backend, t, lengths=torch.tensor(lengths), reverse=reverse, chunk_size=4)
        for i, length in enumerate(lengths):
            own = {
                name: value[i : i + 1] if value.shape[0] == 4 and value.dim() > 2 else value
                for name, value in t.items()
            }
            alone = {name: value[:, :length] if name in OVER_TIME else value for name, value in own.items()}
            with use_backend(backend):
                y, last = ssd(**alone, delta_softplus=True, reverse=reverse, return_last_state=True)
            assert relative_error(batched["y"][i : i + 1, :length], y) < 1e-12
            assert relative_error(batched["last"][i : i + 1], last) < 1e-12
            assert not any(batched[name][i, length:].any() for name in ("y", *OVER_TIME))


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pieces_and_steps_equal_one_go(backend, dtype):
    t = inputs_of(2, 11, 4, 3, 2, 5, dtype, skip_by_channel=True)
    t["initial_state"] = t["initial_state"].to(torch.promote_types(dtype, torch.float32))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-2
    options = {"delta_softplus": True, "dt_limit": (0.2, 2.0)}
    with use_backend(backend):
        whole, last = ssd(**t, **options, return_last_state=True)
        state, outputs = t.pop("initial_state"), []
        for part in (slice(0, 4), slice(4, 4), slice(4, 9)):
            y, state = ssd(**frames(t, (slice(None), part)), **options, initial_state=state, return_last_state=True)
            outputs.append(y)
        for frame in (9, 10):
            y, state = ssd_update(state, **frames(t, (slice(None), frame)), **options)
            outputs.append(y[:, None])
    assert relative_error(torch.cat(outputs, 1), whole) < tolerance
    assert relative_error(state, last) < tolerance and state.dtype == last.dtype


def test_the_hint_decides_on_chunks_up_to_the_largest(monkeypatch):
    sizes, split = [], chunked._Slab.__init__
    monkeypatch.setattr(chunked._Slab, "__init__", lambda *given: sizes.append(given[-1]) or split(*given))
    t = inputs_of(1, 100, 1, 2, 1, 2)
    for hint in (None, 7, 256):
        ssd(**t, chunk_size=hint)
    ssd(**frames(t, (slice(None), slice(3))))
    assert sizes == [32, 7, 64, 3]


def test_memory_of_a_long_scan_is_its_inputs_and_a_slab(monkeypatch):
    """What autograd keeps: no chunk's decays or products."""
    monkeypatch.setitem(chunked.SLABS, "cpu", 2**14)
    t = {name: value.requires_grad_() for name, value in inputs_of(1, 2000, 2, 8, 1, 4, torch.float32).items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        y = ssd(**t, delta_softplus=True)
    assert sum(kept) < 1.5 * sum(value.numel() for value in t.values()) + y.numel()


def test_every_device_and_dtype_is_served_by_chunks_or_kernels():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        t = inputs_of(1, 5, 2, 2, 1, 2, dtype)
        assert ssd(**t, delta_softplus=True).dtype == dtype
        with use_backend("chunked"):
            assert ssd(**t).shape == t["x"].shape
    with use_backend("chunked"), pytest.raises(ValueError, match=r"on cpu or cuda, but got torch\.float32 on meta"):
        ssd(**{name: value.to("meta") for name, value in inputs_of(1, 5, 2, 2, 1, 2, torch.float32).items()})
    with use_backend("chunked"), pytest.raises(ValueError, match="it has only the scan of Mamba-2"):
        ops.causal_conv1d(torch.ones(1, 3, 2), torch.ones(2, 4))


@pytest.mark.slow
@pytest.mark.parametrize("time", [70, 0])
def test_it_is_a_torch_operation_as_torch_wants_it(time):
    t = inputs_of(2, time, 4, 3, 2, 5, torch.float32)
    del t["delta_bias"]  # which is added before
    shared = chunked.Shared(t.pop("z"), t.pop("initial_state"))
    tensors = chunked._LAYOUT.flatten([chunked.Inputs(**t)], shared)
    tensors = [value if value is None else value.requires_grad_() for value in tensors]
    torch.library.opcheck(torch.ops.speechbrain_mamba_chunked.ssd.default, (*tensors, 7, True))


@pytest.mark.slow
def test_it_compiles_forward_and_backward_for_any_time():
    compiled = torch.compile(ssd, backend="aot_eager", fullgraph=True)
    for time in (40, 70, 90):
        leaves = [{name: t.clone().requires_grad_() for name, t in values.items()} for values in
                  [inputs_of(2, time, 4, 3, 2, 4, torch.float32)] * 2]  # fmt: skip
        for function, own in zip((ssd, compiled), leaves):
            function(
                **own, delta_softplus=True, lengths=torch.tensor([time, 21]), reverse=True
            ).square().sum().backward()
        for name, t in leaves[0].items():
            assert relative_error(leaves[1][name].grad, t.grad) < 1e-5, name


def test_autocast_changes_neither_outputs_nor_gradients():
    t = inputs_of(2, 30, 4, 3, 2, 4, torch.float32)
    expected = run("auto", t)
    with torch.autocast("cpu", torch.bfloat16):
        results = run("auto", t)
    assert all(torch.equal(results[name], right) for name, right in expected.items())


def test_functional_transformations_see_the_gradient():
    t = inputs_of(1, 9, 2, 2, 1, 3, torch.float32)
    gradient = torch.func.grad(lambda x: ssd(**t | {"x": x}, delta_softplus=True).square().sum())(t["x"])
    x = t["x"].clone().requires_grad_()
    ssd(**t | {"x": x}, delta_softplus=True).square().sum().backward()
    assert torch.equal(gradient, x.grad)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": torch.ones(2, 5, 4)}, ValueError, "x has shape .* but must be .batch, time, heads, head channels"),
        ({"A": torch.ones(4, 3)}, ValueError, r"A has shape \(4, 3\), but must be \(heads,\)"),
        ({"D": torch.ones(4, 2)}, ValueError, r"D has shape \(4, 2\), but must be \(heads, head channels\)"),
        ({"C": torch.ones(2, 5, 1, 2)}, ValueError, "C has shape"),
        ({"B": torch.ones(2, 5, 3, 2), "C": torch.ones(2, 5, 3, 2)}, ValueError, "3 groups, but 4 heads"),
        ({"initial_state": torch.ones(2, 4, 3)}, ValueError, "initial_state has shape"),
        ({"dt_limit": (1.0, 0.5)}, ValueError, "must be the smallest and the largest step"),
        ({"chunk_size": 0}, ValueError, "chunk_size is 0"),
        ({"x": torch.ones(2, 5, 4, 3, dtype=torch.long)}, TypeError, "floating-point"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        ssd(**inputs_of(2, 5, 4, 3, 2, 2, torch.float32) | change)

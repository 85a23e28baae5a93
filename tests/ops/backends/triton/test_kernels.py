"""The Triton kernels against the reference in cases that break kernels, on a GPU or in Triton's interpreter.

See test_interpreted.py, and test_random.py for random cases.
"""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.triton import plan
from tests.ops.backends.triton.devices import DEVICE, RUNS, change_plans, shorten_chunks
from tests.ops.cases import (
    OVER_TIME,
    bidirectional_scan_inputs,
    layer_inputs,
    mapped,
    named_tensors,
    scan_inputs,
)
from tests.ops.cases import check as check_backend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not RUNS, reason="needs a CUDA GPU, or TRITON_INTERPRET=1 as test_interpreted.py sets it"),
]


def check(op, inputs: dict, **options) -> None:
    """Compare with the reference."""
    check_backend(op, inputs, "triton", DEVICE, **options)


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    shorten_chunks(monkeypatch)


@pytest.mark.parametrize("states", [33, 64])
def test_states_that_several_warps_share(states):
    torch.manual_seed(0)
    check(ops.selective_scan, scan_inputs(1, 6, 3, states), delta_softplus=True, return_last_state=True)


@pytest.mark.parametrize(("gated", "lengths"), [(True, None), (False, [11, 0, 9]), (True, [11, 1, 8])])
def test_bidirectional_scan_agrees_with_the_reference(gated, lengths):
    torch.manual_seed(0)
    inputs = bidirectional_scan_inputs(3, 11, 7, 3, gated)
    lengths = None if lengths is None else torch.tensor(lengths)
    check(ops.bidirectional_selective_scan, inputs, delta_softplus=True, lengths=lengths)


@pytest.mark.parametrize("lengths", [None, [26, 0, 2]])
def test_bidirectional_convolution_agrees_with_the_reference(lengths):
    torch.manual_seed(0)
    filters = {name: ops.Filters(torch.randn(9, 4), torch.randn(9)) for name in ("forward", "reverse")}
    inputs = {"x": torch.randn(3, 26, 9), **filters}
    lengths = None if lengths is None else torch.tensor(lengths)
    check(ops.bidirectional_causal_conv1d, inputs, activation="silu", lengths=lengths)


@pytest.mark.parametrize(("programs", "memory", "groups"), [(1, 1, 1), (5, 1 << 30, 3)])
def test_walk_back_with_any_plan_agrees_with_the_reference(programs, memory, groups, monkeypatch):
    """One program for all chunks and blocks of channels, whose gradients of B and C add up; or one for each of the
    blocks of several chunks."""
    share = programs / plan.processors_of(torch.device(DEVICE))
    change_plans(monkeypatch, BACKWARD_PROGRAMS_OF_A_PROCESSOR=share, SMALL_BACKWARD_BYTES=memory, SHORTEST_CHUNK=8,
                 LONGEST_BACKWARD_CHUNK=8)  # fmt: skip
    torch.manual_seed(0)
    inputs = layer_inputs(2, 18, 37, 3, 2)
    assert plan.plan(inputs["xz"].to(DEVICE).device, 2, 18, 37, 3, 2, 2, 4).groups == groups
    check(ops.bidirectional_mamba_inner, inputs, lengths=torch.tensor([18, 13]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layer_in_half_precision_agrees_with_the_reference(dtype):
    torch.manual_seed(0)
    inputs = layer_inputs(1, 14, 12, 16, 3)
    inputs["xz"] = inputs["xz"].to(dtype)
    check(ops.bidirectional_mamba_inner, inputs, roundings=4, lengths=torch.tensor([13]))


@pytest.mark.parametrize("lengths", [None, [17, 11]])
def test_steps_of_a_high_rank_agree_with_the_reference(lengths, monkeypatch):
    """They come from matrix products instead of the kernels."""
    monkeypatch.setattr("speechbrain_mamba.ops.backends.triton.layer_launch.LARGEST_RANK", 2)
    torch.manual_seed(0)
    lengths = None if lengths is None else torch.tensor(lengths)
    check(ops.bidirectional_mamba_inner, layer_inputs(2, 17, 5, 3, 3), lengths=lengths)


@pytest.mark.parametrize("needed", [["xz"], ["forward.A", "reverse.dt_proj_weight"], ["out_proj_weight"]])
def test_frozen_tensors_change_no_other_gradient(needed):
    torch.manual_seed(0)
    inputs = layer_inputs(1, 17, 4, 2, 3)
    inputs = {name: mapped(lambda t: t.to(DEVICE), value) for name, value in inputs.items()}

    def gradients(names):
        leaves = {name: mapped(lambda t: t.detach().clone(), value) for name, value in inputs.items()}
        wanted = {name: t for name, t in named_tensors(leaves) if name in names}
        for tensor in wanted.values():
            tensor.requires_grad_()
        with ops.use_backend("triton"):
            y = ops.bidirectional_mamba_inner(**leaves)
        return dict(zip(wanted, torch.autograd.grad(y.square().sum(), list(wanted.values()))))

    everything = gradients([name for name, _ in named_tensors(inputs)])
    for name, gradient in gradients(needed).items():
        torch.testing.assert_close(gradient, everything[name], rtol=0, atol=0)


def test_nothing_leaks_out_of_the_padding():
    """NaN in the padding of inputs and of the output's gradient reaches nothing."""
    torch.manual_seed(0)
    inputs, lengths = layer_inputs(3, 10, 4, 4, 2), [10, 0, 3]
    xz, gradient = inputs.pop("xz").to(DEVICE), torch.randn(3, 10, 6).to(DEVICE)
    inputs = {name: mapped(lambda t: t.to(DEVICE), value) for name, value in inputs.items()}
    for i, length in enumerate(lengths):
        xz[i, length:] = gradient[i, length:] = torch.nan
    xz.requires_grad_()
    weight = inputs["out_proj_weight"].requires_grad_()
    with ops.use_backend("triton"):
        y = ops.bidirectional_mamba_inner(xz, **inputs, lengths=torch.tensor(lengths))
        y.backward(gradient)
        assert weight.grad.isfinite().all()
        for i, length in enumerate(lengths):
            assert (y[i, length:] == 0).all()
            assert (xz.grad[i, length:] == 0).all()
            if length:
                alone = xz.detach()[i : i + 1, :length].requires_grad_()
                expected = ops.bidirectional_mamba_inner(alone, **inputs)
                expected.backward(gradient[i : i + 1, :length])
                torch.testing.assert_close(y[i : i + 1, :length], expected)
                torch.testing.assert_close(xz.grad[i : i + 1, :length], alone.grad)


def test_steps_agree_with_the_sequence():
    torch.manual_seed(0)
    inputs = {name: t.to(DEVICE) for name, t in scan_inputs(2, 5, 7, 3).items()}
    h, over = inputs.pop("initial_state"), {name: inputs.pop(name) for name in OVER_TIME}
    x, weight, state = over["u"], torch.randn(7, 4).to(DEVICE), torch.randn(2, 7, 3).to(DEVICE)
    with ops.use_backend("triton"):
        y, last = ops.selective_scan(**over, **inputs, delta_softplus=True, initial_state=h, return_last_state=True)
        c, end = ops.causal_conv1d(x, weight, activation="silu", initial_state=state, return_final_state=True)
        for t in range(5):
            frame = {name: tensor[:, t] for name, tensor in over.items()}
            y_t, h = ops.selective_state_update(h, **frame, **inputs, delta_softplus=True)
            c_t, state = ops.causal_conv1d_update(x[:, t], state, weight, activation="silu")
            torch.testing.assert_close(y_t, y[:, t], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(c_t, c[:, t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(h, last, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, end, rtol=0, atol=0)


def test_extreme_steps_and_decays_stay_right_in_every_element():
    """Steps from 1e-6 to 1e3 times decays from 0 to -1e3; all terms are positive, so that nothing cancels."""
    torch.manual_seed(0)
    delta = torch.logspace(-6, 3, 64)[torch.randint(0, 64, (1, 12, 8))]
    raw = torch.where(delta > 20, delta, torch.log(torch.expm1(delta.double())).float())
    A = -torch.cat([torch.zeros(1), torch.logspace(-6, 3, 7)]).repeat(8, 1)
    u, B, C = (torch.rand(1, 12, 8) + 0.1 for _ in range(3))
    inputs = [t.to(DEVICE).requires_grad_() for t in (u, raw, A, B, C)]
    with ops.use_backend("triton"):
        y = ops.selective_scan(*inputs, delta_softplus=True)
        gradients = torch.autograd.grad(y.sum(), inputs)
    right = [t.detach().cpu().double().requires_grad_() for t in inputs]
    with ops.use_backend("reference"):
        expected = ops.selective_scan(*right, delta_softplus=True)
    torch.testing.assert_close(y.cpu().double(), expected, rtol=2e-5, atol=0)
    for gradient, exact in zip(gradients, torch.autograd.grad(expected.sum(), right)):
        torch.testing.assert_close(gradient.cpu().double(), exact, rtol=5e-5, atol=1e-6 * exact.abs().max().item())


@pytest.mark.parametrize("shape", [(0, 5, 3, 2), (2, 0, 3, 2), (2, 5, 0, 2)])
def test_empty_inputs(shape):
    inputs = {name: t.to(DEVICE).requires_grad_() for name, t in scan_inputs(*shape).items()}
    with ops.use_backend("triton"):
        y, last = ops.selective_scan(**inputs, return_last_state=True)
        (y.sum() + last.sum()).backward()
    if shape[1] == 0:
        torch.testing.assert_close(last, inputs["initial_state"], rtol=0, atol=0)
        assert (inputs["initial_state"].grad == 1).all()
    assert all(t.grad.shape == t.shape for t in inputs.values())


def test_equal_calls_give_equal_bits():
    torch.manual_seed(0)
    inputs = {name: t.to(DEVICE).requires_grad_() for name, t in scan_inputs(1, 12, 5, 3).items()}
    runs = []
    with ops.use_backend("triton"):
        for _ in range(2):
            y = ops.selective_scan(**inputs, delta_softplus=True)
            runs.append([y, *torch.autograd.grad(y.square().sum(), list(inputs.values()))])
    assert all(torch.equal(one, other) for one, other in zip(*runs))


def test_a_compiled_layer_and_transformed_gradients_agree_with_eager_ones():
    torch.manual_seed(0)
    inputs = layer_inputs(1, 9, 3, 2, 2)
    inputs = {name: mapped(lambda t: t.to(DEVICE), value) for name, value in inputs.items()}
    xz = inputs.pop("xz")

    def loss(xz):
        return ops.bidirectional_mamba_inner(xz, **inputs).square().sum()

    with ops.use_backend("triton"):
        expected = torch.autograd.grad(loss(leaf := xz.clone().requires_grad_()), leaf)[0]
        torch.testing.assert_close(torch.func.grad(loss)(xz), expected)
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], expected)


def test_double_precision_is_refused_with_a_reason():
    inputs = {name: t.double().to(DEVICE) for name, t in scan_inputs(1, 3, 2, 2).items()}
    with ops.use_backend("triton"), pytest.raises(ValueError, match="takes float32, bfloat16 and float16"):
        ops.selective_scan(**inputs)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA GPU")
def test_a_sequence_of_2_to_the_20_frames():
    """Offsets beyond 2**31 elements, and the gradient of the first frame through a million others."""
    time, channels = 2**20, 2080
    u = torch.ones(1, time, channels, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    delta, maps = torch.full_like(u.detach(), 1e-6), torch.ones(1, time, 1, device="cuda")
    A = torch.zeros(channels, 1, device="cuda")
    with ops.use_backend("triton"):
        y = ops.selective_scan(u, delta, A, maps, maps)
        y[:, -1].sum().backward()
    step = torch.tensor(1e-6, dtype=torch.bfloat16).item()
    torch.testing.assert_close(y[0, -1].float(), torch.full((channels,), time * step, device="cuda"), rtol=1e-2, atol=0)
    torch.testing.assert_close(u.grad[0, 0].float(), torch.full((channels,), step, device="cuda"), rtol=1e-2, atol=0)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA GPU")
def test_a_layer_runs_in_a_cuda_graph():
    torch.manual_seed(0)
    inputs = layer_inputs(2, 300, 64, 16, 4)
    inputs = {name: mapped(torch.Tensor.cuda, value) for name, value in inputs.items()}
    xz = inputs.pop("xz").requires_grad_()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        y = ops.bidirectional_mamba_inner(xz, **inputs)
        return y, torch.autograd.grad(y.square().sum(), xz)[0]

    with ops.use_backend("triton"):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # Detached, as what is left of this graph would tie the leaf's gradient to its own stream.
        with torch.cuda.stream(stream):
            expected = [t.detach().clone() for t in step()]
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = step()
        graph.replay()
    for got, right in zip(captured, expected):
        torch.testing.assert_close(got, right, rtol=0, atol=0)

"""Directions in and out of the flat schema, and the registration that both backends of kernels share."""

import pytest
import torch

from speechbrain_mamba import ops
from speechbrain_mamba.ops import Direction, Filters, ScanInputs
from speechbrain_mamba.ops.kernel_backend import ConvShared, LayerShared, ScanShared
from speechbrain_mamba.ops.torch_ops import Layout, asks_for_gradient
from tests.ops.cases import layer_inputs, scan_inputs


@pytest.mark.parametrize(
    "direction, shared", [(ScanInputs, ScanShared), (Filters, ConvShared), (Direction, LayerShared)]
)
@pytest.mark.parametrize("count", [1, 2])
def test_tensors_come_out_of_the_flat_schema_as_they_went_in(direction, shared, count):
    layout = Layout(direction, shared)
    tensors = iter(torch.arange(2.0 * layout.size))
    directions = [direction(*(next(tensors) for _ in direction._fields)) for _ in range(count)]
    common = shared(*(next(tensors) for _ in shared._fields))
    flat = layout.flatten(directions, common)
    assert len(flat) == layout.size == layout.schema.count("Tensor")
    assert layout.unflatten((*flat, True, False)) == (directions, common)


def test_fields_without_a_default_are_required_of_the_first_direction_only():
    schema = Layout(ScanInputs, ScanShared).schema.split(", ")
    assert schema[:7] == [f"Tensor {name}" for name in ("u", "delta", "A", "B", "C")] + [
        "Tensor? D",
        "Tensor? delta_bias",
    ]
    assert all(one.startswith("Tensor? ") and one.endswith("_b") for one in schema[7:14])
    assert schema[14:] == ["Tensor? z", "Tensor? initial_state", "Tensor? lengths"]


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda d: d._asdict(), TypeError, r"must be speechbrain_mamba\.ops\.Direction, but are Direction and dict"),
        (lambda d: d._replace(conv_bias=None), ValueError, "conv_bias is given for one direction only"),
        (lambda d: d._replace(A=d.A[:, :1]), ValueError, r"A of the reverse direction has shape \(5, 1\)"),
    ],
)
def test_directions_that_do_not_match_are_refused(change, error, message):
    inputs = layer_inputs(2, 7, 5, 3, 2)
    inputs["reverse"] = change(inputs["reverse"])
    with pytest.raises(error, match=message):
        ops.bidirectional_mamba_inner(**inputs)


def test_two_directions_are_averaged_scans():
    inputs = [scan_inputs(2, 9, 5, 3) for _ in range(2)]
    z, lengths = inputs[0]["z"], torch.tensor([9, 4])
    forward, reverse = (ScanInputs(*(one[name] for name in ScanInputs._fields)) for one in inputs)
    y = ops.bidirectional_selective_scan(forward, reverse, z, True, lengths=lengths)
    options = {"z": z, "delta_softplus": True, "lengths": lengths}
    apart = [ops.selective_scan(**d._asdict(), **options, reverse=r) for d, r in ((forward, False), (reverse, True))]
    torch.testing.assert_close(y, 0.5 * (apart[0] + apart[1]), rtol=1e-5, atol=1e-5)


def test_a_compiled_function_sees_that_a_gradient_is_asked_for():
    """torch.compile holds ``torch.compiler.is_exporting()`` to be true."""

    def function(x):
        return x * 2, asks_for_gradient(x)

    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert compiled(torch.ones(3, requires_grad=True))[1]
    assert not compiled(torch.ones(3))[1]

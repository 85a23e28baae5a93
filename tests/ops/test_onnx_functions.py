"""Exported programs take any number of frames, and so do the recurrences as ONNX functions, in onnxruntime."""

import pytest
import torch

from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from speechbrain_mamba.nnet.mamba2 import BiMamba2, Mamba2
from speechbrain_mamba.nnet.text_blocks import take_frames
from speechbrain_mamba.ops import onnx_functions, use_backend
from speechbrain_mamba.ops.backends.recurrences import selective_recurrence, ssd_recurrence

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


SCAN_OUTPUTS = {"y": "u", "last_state": "state"}


def _session(name: str, text: str, ranks: dict[str, int], likes: dict[str, str] = SCAN_OUTPUTS):
    """A session of one function; its outputs have as many axes as the inputs that they are like."""
    from onnx import helper

    inputs = [helper.make_tensor_value_info(key, 1, [None] * rank) for key, rank in ranks.items()]
    outputs = [helper.make_tensor_value_info(key, 1, [None] * ranks[like]) for key, like in likes.items()]
    node = helper.make_node(name, list(ranks), list(likes), domain=onnx_functions.DOMAIN)
    versions = [helper.make_opsetid("", onnx_functions.OPSET), helper.make_opsetid(onnx_functions.DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph([node], "graph", inputs, outputs),
        opset_imports=versions, functions=[onnx.parser.parse_function(text)], ir_version=9,
    )  # fmt: skip
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString())


def _compare(session, arguments: dict[str, torch.Tensor], recurrence) -> None:
    found = session.run(None, {key: value.numpy() for key, value in arguments.items()})
    for got, wanted in zip(found, recurrence(*arguments.values())):
        torch.testing.assert_close(torch.from_numpy(got), wanted, atol=1e-5, rtol=1e-5)


def test_selective_scan_takes_any_number_of_frames():
    torch.manual_seed(0)
    ranks = {"u": 3, "delta": 3, "A": 2, "B": 3, "C": 3, "state": 3}
    session = _session("SelectiveScan", onnx_functions.selective_scan_text(), ranks)
    for batch, time in ((1, 0), (2, 1), (1, 16), (3, 133)):
        u, B, C = torch.randn(batch, time, 6), torch.randn(batch, time, 4), torch.randn(batch, time, 4)
        tensors = (u, torch.rand(batch, time, 6), -4 * torch.rand(6, 4), B, C, torch.randn(batch, 6, 4))
        _compare(session, dict(zip(ranks, tensors)), selective_recurrence)


def test_ssd_takes_any_number_of_frames():
    torch.manual_seed(0)
    ranks = {"u": 4, "delta": 3, "A": 1, "B": 4, "C": 4, "state": 4}
    session = _session("Ssd", onnx_functions.ssd_text(), ranks)
    for batch, time in ((1, 0), (2, 1), (1, 32), (3, 133)):
        x, delta = torch.randn(batch, time, 6, 3), 3 * torch.rand(batch, time, 6)
        B, C = torch.randn(2, batch, time, 2, 5)
        tensors = (x, delta, -9 * torch.rand(6), B, C, torch.randn(batch, 6, 3, 5))
        _compare(session, dict(zip(ranks, tensors)), ssd_recurrence)


def test_the_largest_so_far_takes_any_number_of_frames():
    session = _session("RunningMax", onnx_functions.running_max_text(), {"x": 3}, {"y": "x"})
    for batch, time in ((1, 1), (3, 40)):
        _compare(session, {"x": torch.randn(batch, time, 2)}, lambda x: [x.cummax(1).values])


@pytest.mark.parametrize("order", [("small", "large"), ("large", "small")])
def test_two_scans_of_one_model_have_batches_of_their_own(order, capfd):
    """Named sizes in the bodies made onnxruntime take them for equal: a scan got the memory of another one, which was
    too small for it, an error, or too large, a warning in each run."""
    from onnx import helper

    ranks = {"u": 3, "delta": 3, "A": 2, "B": 3, "C": 3, "state": 3}
    inputs, nodes, outputs = [], [], []
    for which in order:
        inputs += [helper.make_tensor_value_info(f"{which}_{name}", 1, [None] * rank) for name, rank in ranks.items()]
        made = [f"{which}_y", f"{which}_last_state"]
        nodes.append(
            helper.make_node("SelectiveScan", [f"{which}_{name}" for name in ranks], made, domain="speechbrain_mamba")
        )
        for name in made:
            nodes.append(helper.make_node("Neg", [name], [f"{name}_out"]))
            outputs.append(helper.make_tensor_value_info(f"{name}_out", 1, [None] * 3))
    model = helper.make_model(
        helper.make_graph(nodes, "graph", inputs, outputs),
        opset_imports=[helper.make_opsetid("", onnx_functions.OPSET), helper.make_opsetid("speechbrain_mamba", 1)],
        functions=[onnx.parser.parse_function(onnx_functions.selective_scan_text())], ir_version=9,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed, wanted = {}, []
    for which in order:
        batch, time = {"small": (1, 56), "large": (7, 8)}[which]
        u, B, C = torch.randn(batch, time, 6), torch.randn(batch, time, 4), torch.randn(batch, time, 4)
        tensors = (u, torch.rand(batch, time, 6), -4 * torch.rand(6, 4), B, C, torch.randn(batch, 6, 4))
        feed |= {f"{which}_{name}": value.numpy() for name, value in zip(ranks, tensors)}
        wanted += selective_recurrence(*tensors)
    for got, right in zip(session.run(None, feed), wanted):
        torch.testing.assert_close(-torch.from_numpy(got), right, atol=1e-5, rtol=1e-5)
    assert "Shape mismatch" not in capfd.readouterr().err


def test_sizes_of_bodies_have_no_names():
    for function in onnx_functions.functions():
        bodies = [attribute.g for node in function.node for attribute in node.attribute if attribute.name == "body"]
        assert len(bodies) == 1
        for value in (*bodies[0].input, *bodies[0].output):
            assert not any(size.dim_param for size in value.type.tensor_type.shape.dim)


def test_frames_of_texts_are_taken_alike(tmp_path):
    class Texts(torch.nn.Module):
        def forward(self, x, blocks):
            return (*take_frames(x, blocks > 0, x.shape[1]), blocks.cummax(1).values)

    dynamic = torch.export.Dim.DYNAMIC
    axes = {0: dynamic, 1: dynamic}
    program = onnx_functions.onnx_program(Texts(), (torch.randn(2, 5, 3), torch.ones(2, 5).long()), (axes, axes))
    program.save(tmp_path / "texts.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "texts.onnx")
    for batch, time in ((1, 4), (3, 12)):
        blocks = torch.randint(-1, 4, (batch, time), generator=torch.Generator().manual_seed(time))
        _compare(session, {"x": torch.randn(batch, time, 3), "blocks": blocks}, Texts())


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer", [BiMamba(8, d_state=4), Mamba2(8, d_state=4, headdim=4), BiMamba2(8, d_state=4, headdim=4)]
)
def test_layers_agree_in_onnxruntime(layer, tmp_path):
    dynamic = torch.export.Dim.DYNAMIC
    inputs = (torch.randn(2, 20, 8), torch.tensor([20, 9]))
    program = onnx_functions.onnx_program(layer.eval(), inputs, ({0: dynamic, 1: dynamic}, {0: dynamic}))
    program.save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    names = [value.name for value in session.get_inputs()]
    for x, lengths in ((torch.randn(3, 77, 8), torch.tensor([77, 40, 1])), (torch.randn(1, 5, 8), torch.tensor([5]))):
        (y,) = session.run(None, dict(zip(names, (x.numpy(), lengths.numpy()))))
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(y), layer(x, lengths), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("kind", [Mamba, Mamba2, BiMamba, BiMamba2])
def test_torch_export_takes_any_length(backend, kind):
    layer = kind(8, d_state=4, **({"headdim": 4} if kind in (Mamba2, BiMamba2) else {})).eval()
    dynamic = torch.export.Dim.DYNAMIC
    with use_backend(backend):
        inputs = (torch.randn(2, 20, 8), torch.tensor([20, 9]))
        program = torch.export.export(layer, inputs, dynamic_shapes=({0: dynamic, 1: dynamic}, {0: dynamic}))
        for x, lengths in (
            (torch.randn(3, 77, 8), torch.tensor([77, 40, 1])),
            (torch.randn(2, 3, 8), torch.tensor([3, 1])),
        ):
            torch.testing.assert_close(program.module()(x, lengths), layer(x, lengths), atol=1e-6, rtol=1e-5)


def test_exported_kernels_have_a_gradient():
    layer, x = Mamba(8, d_state=4), torch.randn(1, 50, 8)
    with use_backend("cpu"):
        program = torch.export.export(layer, (torch.randn(1, 20, 8),), dynamic_shapes=({1: torch.export.Dim.DYNAMIC},))
        module = program.module()
        module(x).sum().backward()
        layer(x).sum().backward()
    torch.testing.assert_close(module.in_proj.weight.grad, layer.in_proj.weight.grad)


def test_exported_reference_refuses_gradients():
    layer = Mamba(8, d_state=4)
    with use_backend("reference"):
        program = torch.export.export(layer, (torch.randn(1, 20, 8),))
    with pytest.raises(NotImplementedError, match="for inference only"):
        program.module()(torch.randn(1, 20, 8)).sum().backward()


@pytest.mark.parametrize("convert", [torch.jit.script, lambda model: torch.jit.trace(model, torch.randn(1, 5, 8))])
def test_torchscript_is_refused_in_a_sentence(convert):
    with pytest.raises(ValueError, match="does not run in TorchScript"):
        convert(torch.nn.Sequential(torch.nn.Linear(8, 8), Mamba(8, d_state=4)).eval())

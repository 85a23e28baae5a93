"""The private interfaces that the package touches are where it expects them."""

import inspect
import subprocess
import sys
from importlib.metadata import version
from typing import ClassVar

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from speechbrain_mamba.ops.int8 import int8_unavailable
from speechbrain_mamba.utils import _compat
from speechbrain_mamba.utils._compat import (
    BatchesOfEpoch,
    encodec_24khz,
    make_encodec,
    quantize,
    quantize_to_codes,
)


def _moved(interface):
    return f"{interface} of another package has moved: speechbrain_mamba/utils/_compat.py has to follow"


# ---------------------------------------------------------------------------------------------------- SpeechBrain


@pytest.mark.parametrize(
    "use",
    [
        "import speechbrain.dataio.sampler as s; print(s.lognorm.cdf(1, 1))",
        "from scipy.stats import norm; print(norm.cdf(0))",
        "from scipy import stats; print(stats.norm.cdf(0))",
        "import scipy.stats as stats; print(stats.norm.cdf(0))",
        "import scipy.stats.distributions as inside; print(inside.norm.cdf(0))",
        "from scipy.stats import *; print(norm.cdf(0))",
    ],
)
def test_scipy_stats_is_imported_when_it_is_used(use):
    code = f"""
import sys
from speechbrain_mamba.utils._compat import spare_scipy_stats
spare_scipy_stats()
{"import speechbrain.dataio.sampler" if "sampler" in use else ""}
print(any(name.startswith("scipy.stats.") for name in sys.modules))
{use}
import scipy.stats
print(type(scipy.stats).__name__, scipy.stats.norm.cdf(0))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "0.5", "module", "0.5"], _moved("speechbrain.dataio.sampler's scipy.stats")


def test_the_batches_of_an_epoch_can_be_selected():
    class LongestFirst(BatchesOfEpoch, DynamicBatchSampler):
        epochs: ClassVar = []

        def select_batches(self, batches, epoch):
            self.epochs.append(epoch)
            return sorted(batches, key=lambda batch: -max(self.get_durations(batch)))

    dataset = DynamicItemDataset({str(i): {"duration": float(i)} for i in range(1, 6)})
    sampler = LongestFirst(dataset, 10, 3, max_batch_ex=1)
    sampler.set_epoch(3)
    assert list(sampler) == [[4], [3], [2], [1], [0]] and sampler.epochs[:2] == [0, 3]
    plain = DynamicBatchSampler(dataset, 10, 3, max_batch_ex=1)
    plain.set_epoch(3)
    assert sorted(plain) == [[0], [1], [2], [3], [4]]


def test_samplers_of_a_brain_are_left_alone(monkeypatch):
    """In several processes too, where SpeechBrain wraps them."""

    class OwnBrain(_compat.LoadersOfProcesses, sb.Brain):
        pass

    batches = [[0, 1], [2]]
    for brain_class, expected in ((OwnBrain, True), (sb.Brain, False)):
        brain = brain_class(run_opts={"device": "cpu"}, hparams={})
        brain.distributed_launch, brain.rank = True, 0
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
        loader = brain.make_dataloader([5, 6, 7], sb.Stage.TRAIN, ckpt_prefix=None, batch_sampler=batches)
        assert (loader.batch_sampler is batches) is expected


def test_the_buckets_of_batches_of_similar_length():
    boundaries, sizes = _compat.bucket_plan(10, 3, max_batch_ex=2)
    assert len(boundaries) == 3 and boundaries[-1] == pytest.approx(10) and sizes == [2, 1, 1, 1]


def test_speechbrain_cuts_and_joins_chunks_by_methods_that_can_be_replaced():
    from speechbrain.lobes.models.dual_path import Dual_Path_Model

    class Counted(_compat.OwnChunks, Dual_Path_Model):
        calls = ()

        def cut_chunks(self, x, size):
            self.calls += ("cut",)
            return super().cut_chunks(x, size)

        def join_chunks(self, chunks, gap):
            self.calls += ("join",)
            return super().join_chunks(chunks, gap)

    model = Counted(3, 4, torch.nn.Identity(), torch.nn.Identity(), K=8, linear_layer_after_inter_intra=False).eval()
    assert model(torch.randn(2, 3, 21)).shape == (2, 2, 3, 21)
    assert model.calls == ("cut", "join"), _moved("Dual_Path_Model._Segmentation or _over_add")


def test_speechbrain_asks_checkpointers_for_meta_files_and_folders(tmp_path):
    from speechbrain.utils.checkpoints import Checkpointer

    calls = []

    class Asked(_compat.CheckpointFolders, Checkpointer):
        def folder_to_save(self, path):
            return path.with_name(f"{path.name}~")

        def write_meta(self, path, meta, end_of_epoch):
            calls.append((path.name, dict(meta), end_of_epoch))
            return super().write_meta(path, meta, end_of_epoch)

        def list_folders(self):
            return [folder for folder in super().list_folders() if "hidden" not in folder.name]

    checkpointer = Asked(tmp_path)
    first = checkpointer.save_checkpoint(meta={"loss": 1.0}, end_of_epoch=False)
    second = checkpointer.save_checkpoint(name="hidden")
    assert first.path.name.endswith("~"), _moved("Checkpointer._new_checkpoint_dirpath")
    assert second.path.name == "CKPT+hidden~", _moved("Checkpointer._custom_checkpoint_dirpath")
    assert calls[0] == ("CKPT.yaml", {"loss": 1.0}, False), _moved("Checkpointer._save_checkpoint_metafile")
    assert len(checkpointer.list_checkpoints()) == 1, _moved("Checkpointer._list_checkpoint_dirs")


@pytest.mark.parametrize("free, due, wanted", [(True, 1, False), (False, 1, True), (True, 0, True), (True, 0, False)])
def test_speechbrain_asks_a_brain_before_it_saves_within_an_epoch(tmp_path, free, due, wanted):
    import speechbrain as sb
    from speechbrain.utils.checkpoints import Checkpointer
    from torch.utils.data import DataLoader

    class Asked(_compat.CheckpointsWithinEpochs, sb.Brain):
        saved = 0

        def is_between_steps(self):
            return free

        def is_checkpoint_wanted(self):
            return wanted

        def after_checkpoint(self):
            self.saved += 1

        def fit_batch(self, batch):
            return torch.zeros(())

    run_opts = {"ckpt_interval_steps": due, "ckpt_interval_minutes": 0, "device": "cpu", "noprogressbar": True}
    brain = Asked({"layer": torch.nn.Linear(1, 1)}, run_opts=run_opts, checkpointer=Checkpointer(tmp_path))
    brain.fit([1], DataLoader(["batch"] * 2, batch_size=None))
    expected = free and (due or wanted)
    assert len(brain.checkpointer.list_checkpoints()) == expected, _moved("Brain._should_save_intra_epoch_ckpt")
    assert brain.saved == 2 * expected, _moved("Brain._save_intra_epoch_ckpt")


def test_the_run_options_of_speechbrain_are_read_without_it():
    from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

    options = _compat.run_option_helps()
    assert options == {name: (RunOptions().get(name), text) for name, text in HELP_TEXTS.items()}, _moved("run_opts.py")
    assert {"device", "precision", "debug", "test_only"} <= options.keys()


def test_without_speechbrain_there_are_no_run_options(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _compat.run_option_helps() == {}


def test_statistics_of_speechbrain_are_saved(tmp_path):
    from speechbrain.processing.features import InputNormalization

    normalize = InputNormalization(norm_type="global")
    normalize.train()
    normalize(torch.randn(2, 5, 3), torch.ones(2))
    _compat.save_normalizer(normalize, tmp_path / "normalizer.ckpt")
    saved = torch.load(tmp_path / "normalizer.ckpt", weights_only=True)
    assert torch.equal(saved["glob_mean"], normalize.glob_mean), _moved("InputNormalization._save")
    other = InputNormalization(norm_type="global")
    _compat.set_normalizer(other, saved)
    assert torch.equal(other.glob_std, normalize.glob_std), _moved("InputNormalization._load_statistics_dict")
    statistics = _compat.normalizer_statistics(normalize)
    assert statistics is not None and statistics.keys() == saved.keys(), _moved("InputNormalization._statistics_dict")
    assert _compat.normalizer_statistics(torch.nn.Linear(1, 1)) is None


# ---------------------------------------------------------------------------------------------------- PyTorch


def test_operations_run_below_autograd():
    assert hasattr(torch._C, "_AutoDispatchBelowAutograd"), _moved("torch._C._AutoDispatchBelowAutograd")
    x = torch.ones(2, requires_grad=True)
    with _compat.below_autograd():
        y = 2 * x
    assert not y.requires_grad, _moved("torch._C._AutoDispatchBelowAutograd")


def test_compilation_takes_marked_functions_as_constants():
    calls = []

    @_compat.constant_when_compiled
    def opaque():
        calls.append(None)
        return len(open(__file__).read(1))  # no compiler traces this

    compiled = torch.compile(lambda x: x + opaque(), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)) == compiled(torch.zeros(1)) == 1
    assert len(calls) == 1, _moved("torch._dynamo's mark of constant functions")


def test_transformations_are_seen():
    assert hasattr(torch._C._functorch, "peek_interpreter_stack"), _moved("torch._C._functorch.peek_interpreter_stack")
    seen = []
    torch.vmap(lambda x: seen.append(_compat.is_transforming()) or x)(torch.ones(2))
    torch.func.grad(lambda x: seen.append(_compat.is_transforming()) or x)(torch.tensor(1.0))
    assert seen == [True, True] and not _compat.is_transforming()


def test_hooks_are_seen():
    module = torch.nn.Linear(2, 2)
    for register in (module.register_forward_hook, module.register_forward_pre_hook):
        handle = register(lambda *arguments: None)
        assert _compat.has_forward_hooks(module), _moved("torch.nn.Module._forward_hooks")
        handle.remove()
        assert not _compat.has_forward_hooks(module)


def test_changes_of_modules_are_noticed():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    marks = _compat.Marks((module,), without=(module[1],))
    with torch.no_grad():
        module[1].weight.zero_()
        assert marks.hold()
        module[0].bias.zero_()
    assert not marks.hold(), _moved("torch.Tensor._version or torch.nn.Module._parameters")
    marks = _compat.Marks((module,))
    module[0].weight = torch.nn.Parameter(module[0].weight.detach())
    assert not marks.hold()
    marks = _compat.Marks((module,))
    module[1] = torch.nn.Identity()
    assert not marks.hold(), _moved("torch.nn.Module._modules")
    marks = _compat.Marks((module,))
    handle = module[0].register_forward_hook(lambda *arguments: None)
    assert not marks.hold(), _moved("torch.nn.Module._forward_hooks")
    handle.remove()
    assert marks.hold()
    module.eval()
    assert not marks.hold()


def test_many_tensors_are_copied_at_once():
    targets = [torch.zeros(2), torch.zeros(1, 3, dtype=torch.long)]
    assert hasattr(torch, "_foreach_copy_"), _moved("torch._foreach_copy_")
    _compat.copy_all(targets, [torch.ones(2), torch.full((1, 3), 5)])
    assert [t.tolist() for t in targets] == [[1, 1], [[5, 5, 5]]]


def test_attention_resets_its_parameters():
    attention = torch.nn.MultiheadAttention(4, 2)
    reset = _compat.reset_function(attention)
    assert reset is not None, _moved("torch.nn.MultiheadAttention._reset_parameters")
    before = attention.in_proj_weight.clone()
    reset()
    assert not torch.equal(attention.in_proj_weight, before)
    assert _compat.reset_function(torch.nn.Sequential()) is None


@pytest.mark.skipif(sys.platform != "linux", reason="on other systems the kernels start their own threads")
def test_the_openmp_runtime_of_torch_is_found():
    assert _compat.openmp_parallel() is not None, _moved("GOMP_parallel in libtorch_cpu of torch")


# ---------------------------------------------------------------------------------------------------- Triton


@pytest.mark.parametrize("value, expected", [("1", True), ("0", False)])
def test_triton_says_whether_it_interprets(value, expected, monkeypatch):
    knobs = pytest.importorskip("triton").knobs
    assert hasattr(knobs.runtime, "interpret"), _moved("triton.knobs.runtime.interpret")
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert _compat.triton_interprets() is expected


class Compiled:
    """Stands in for a compiled kernel."""

    function, packed_metadata = 1, (4, 1, 0)

    def __init__(self):
        self.direct, self.others = [], []

    def run(self, *arguments):
        self.direct.append(arguments)

    def __getitem__(self, programs):
        return lambda *arguments: self.others.append((programs, arguments))


def test_triton_launches_compiled_kernels_by_the_known_call():
    triton = pytest.importorskip("triton")
    if tuple(map(int, version("triton").split(".")[:2])) not in _compat.TRITON_LAUNCHED:
        pytest.skip("an unknown version's kernels are launched by its own public way")
    source = " ".join(inspect.getsource(triton.compiler.CompiledKernel.__getitem__).split())
    call = "self.run(grid[0], grid[1], grid[2], stream, self.function, self.packed_metadata, launch_metadata, "
    assert call + "knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook, *args)" in source, _moved(call)


def test_a_kernel_is_launched_directly_unless_a_profiler_listens(monkeypatch):
    runtime = pytest.importorskip("triton").knobs.runtime
    monkeypatch.setattr(_compat, "_raw_stream", lambda device: 10 + device)
    monkeypatch.setattr(_compat, "TRITON_LAUNCHED", [tuple(map(int, version("triton").split(".")[:2]))])
    compiled = Compiled()
    launch = _compat.triton_launcher(compiled)
    launch((5, 1, 1), 2, [7, None])
    assert compiled.direct == [(5, 1, 1, 12, 1, (4, 1, 0), None, None, None, 7, None)]
    monkeypatch.setattr(runtime, "launch_enter_hook", lambda metadata: None)
    launch((5, 1, 1), 2, [7])
    assert compiled.others == [((5, 1, 1), (7,))] and len(compiled.direct) == 1


def test_the_kernels_of_an_unknown_triton_are_launched_its_own_way(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(_compat, "TRITON_LAUNCHED", ())
    compiled = Compiled()
    _compat.triton_launcher(compiled)((5, 1, 1), 0, [7])
    assert compiled.others == [((5, 1, 1), (7,))] and not compiled.direct


# ---------------------------------------------------------------------------------------------------- EnCodec


@pytest.fixture
def quantizer():
    """EnCodec's quantizer, whose codebooks have been filled."""
    pytest.importorskip("encodec", reason="the package encodec is not installed")
    torch.manual_seed(0)
    *_, quantizer = make_encodec({"dimension": 8, "n_filters": 2, "ratios": [5, 4]}, 3, 16)
    quantizer.vq(torch.randn(4, 8, 50))
    return quantizer.eval()


def test_encodec_is_made_of_an_encoder_a_decoder_and_a_quantizer(quantizer):
    sizes = {"dimension": 8, "n_filters": 2, "ratios": [5, 4], "lstm": 1, "causal": True}
    encoder, decoder, own = make_encodec(sizes, 3, 16)
    assert (encoder.ratios, encoder.dimension, encoder.n_filters) == ([4, 5], 8, 2)
    assert (own.n_q, own.bins) == (3, 16) and list(decoder.ratios) == [5, 4]
    assert decoder(encoder(torch.randn(2, 1, 200))).shape == (2, 1, 200)


def test_encodec_quantizes_with_any_number_of_codebooks(quantizer):
    x = torch.randn(2, 8, 20)
    for count in (1, 3):
        quantized, codes, commitment = quantize(quantizer, x, count)
        assert quantized.shape == x.shape and codes.shape == (2, 20, count) and commitment.shape[0] == count
        assert torch.equal(quantize_to_codes(quantizer, x, count), codes)
        torch.testing.assert_close(quantizer.decode(codes.permute(2, 0, 1)), quantized)
    books = [layer.codebook for layer in quantizer.vq.layers]
    assert [book.shape for book in books] == [(16, 8)] * 3


def test_encodec_names_a_folder_without_the_published_weights(tmp_path):
    pytest.importorskip("encodec", reason="the package encodec is not installed")
    with pytest.raises((OSError, ValueError), match="encodec_24khz"):
        encodec_24khz(tmp_path)


def test_a_missing_encodec_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda: make_encodec({}, 1, 1), encodec_24khz):
        with pytest.raises(ModuleNotFoundError, match=r"pip install \"speechbrain_mamba\[tts\]\""):
            call()


def test_fake_tensors_have_a_shape_and_operations_are_watched():
    import torch

    seen = []
    with _compat.fake_tensors(), _compat.watch_operations(lambda schema, returned: seen.append((schema, returned))):
        y = torch.empty(2**40).view(2**20, 2**20)
    names = [schema.name for schema, _ in seen]
    assert names.index("aten::empty") < names.index("aten::view"), _moved("torch.utils._python_dispatch")
    assert y.shape == (2**20, 2**20), _moved("torch._subclasses.fake_tensor")
    [(schema, returned)] = [both for both in seen if both[0].name == "aten::view"]
    assert returned is y and schema.returns[0].alias_info is not None, _moved("schema.returns")


def test_nodes_are_recorded_while_onnx_translates_an_operation():
    pytest.importorskip("onnxscript")
    wanted = []

    @torch.library.custom_op("speechbrain_mamba_test::half", mutates_args=())
    def half(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    half.register_fake(torch.empty_like)

    class Module(torch.nn.Module):
        def forward(self, x):
            return half(x)

    def translate(x):
        wanted.extend(_compat.record_onnx_node("example", "Half", [x], 2))
        return wanted[0]

    table = {torch.ops.speechbrain_mamba_test.half.default: translate}
    program = torch.onnx.export(
        Module(), (torch.ones(2),), dynamo=True, verbose=False, custom_translation_table=table, optimize=False
    )
    (node,) = [node for node in program.model.graph if node.domain == "example"]
    assert node.op_type == "Half" and list(node.outputs) == wanted, _moved("The recorder of torch.onnx")


def test_the_onnx_exporter_is_silent_on_torchvision(caplog):
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    words = "torchvision is not installed. Skipping %s"
    assert words in inspect.getsource(registration), _moved("The warning of torch.onnx's registration")
    log = registration.logger
    with _compat.silent_on_torchvision():
        log.warning(words, "torchvision::nms")
        log.warning("Something else")
    log.warning(words, "torchvision::roi_pool")
    assert [record.getMessage()[-8:] for record in caplog.records] == ["ing else", "roi_pool"]


def test_torch_multiplies_8_bit_integers():
    if int8_unavailable() is not None:
        pytest.skip("this machine has no products of 8-bit integers")
    factor = _compat.Int8Factor(torch.tensor([[3] * 16, [-2] * 16], dtype=torch.int8), torch.tensor([0.5, 0.25]))
    rows = torch.full((3, 16), 129, dtype=torch.uint8)
    for dtype in (torch.float32, torch.bfloat16):
        try:
            products = factor.multiply(rows, dtype)
        except (AttributeError, RuntimeError) as error:
            raise AssertionError(_moved("torch.ops.onednn.qlinear_pointwise")) from error
        assert products.dtype == dtype and products.tolist() == [[24.0, -8.0]] * 3
    integers = torch.randint(-127, 128, (37, 50), dtype=torch.int8)
    found = _compat.Int8Factor(integers, torch.ones(37)).integers()
    assert found.is_contiguous() and torch.equal(found, integers), _moved("Tensor.to_dense of packed integers")


@pytest.mark.parametrize(("samples", "kernel", "stride"), [(40, 7, 1), (41, 8, 4), (5, 16, 8), (43, 10, 5)])
def test_encodec_pads_by_a_function_that_can_be_replaced(samples, kernel, stride):
    conv = pytest.importorskip("encodec.modules.conv")
    x, asked = torch.randn(1, 1, samples), (kernel, stride, kernel - stride)
    wanted = conv.get_extra_padding_for_conv1d(x, *asked)
    with _compat.whole_paddings():
        assert conv.get_extra_padding_for_conv1d(x, *asked) == wanted
        layer = conv.SConv1d(1, 1, kernel, stride=stride, causal=True)
        found = layer(x)
    torch.testing.assert_close(layer(x), found), _moved("encodec.modules.conv.get_extra_padding_for_conv1d")


def test_ecapa_tdnn_makes_masks_by_a_function_that_can_be_replaced():
    from speechbrain.lobes.models import ECAPA_TDNN

    lengths, original = torch.tensor([0.5, 2.3, 4.0]), ECAPA_TDNN.length_to_mask
    layer, x = ECAPA_TDNN.SEBlock(3, 2, 3), torch.randn(3, 3, 4)
    wanted, mask = layer(x, lengths / 4), original(lengths, max_len=4, device=lengths.device)
    with _compat.masks_of_any_batch():
        assert ECAPA_TDNN.length_to_mask is not original, _moved("speechbrain.lobes.models.ECAPA_TDNN.length_to_mask")
        found = ECAPA_TDNN.length_to_mask(lengths, max_len=4, device=lengths.device)
        torch.testing.assert_close(layer(x, lengths / 4), wanted)
    torch.testing.assert_close(found, mask)
    assert ECAPA_TDNN.length_to_mask is original

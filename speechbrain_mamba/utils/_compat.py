"""Every private interface of another package that this one touches, each behind a function or class with a public name.

Nothing else in the package reaches into another package's private parts. ``tests/utils/test_compat.py`` has a test for
each that fails, and says which, when the interface moves.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn


# ---------------------------------------------------------------------------------------------------- SpeechBrain


class CheckpointFolders:
    """Mixin for SpeechBrain's ``Checkpointer``: where a checkpoint is written, how the meta file is, and which folders
    are checkpoints."""

    def folder_to_save(self, path: Path) -> Path:
        """The folder that is written, for a checkpoint that is to have this one."""
        return path

    def write_meta(self, path: Path, meta: Mapping[str, Any], end_of_epoch: bool) -> dict[str, Any]:
        """Write the meta file of a checkpoint before its other files; returns what was written."""
        return super()._save_checkpoint_metafile(path, meta, end_of_epoch)  # type: ignore[misc]  # of Checkpointer

    def list_folders(self) -> list[Path]:
        """List the folders that are checkpoints."""
        return super()._list_checkpoint_dirs()  # type: ignore[misc]  # of Checkpointer

    def _save_checkpoint_metafile(
        self, fpath: Path, meta_to_include: Mapping[str, Any] | None = None, end_of_epoch: bool = True
    ) -> dict[str, Any]:
        return self.write_meta(fpath, meta_to_include or {}, end_of_epoch)

    def _list_checkpoint_dirs(self) -> list[Path]:
        return self.list_folders()

    def _new_checkpoint_dirpath(self) -> Path:
        return self.folder_to_save(super()._new_checkpoint_dirpath())  # type: ignore[misc]  # of Checkpointer

    def _custom_checkpoint_dirpath(self, name: str) -> Path:
        return self.folder_to_save(super()._custom_checkpoint_dirpath(name))  # type: ignore[misc]  # of Checkpointer


class CheckpointsWithinEpochs:
    """Mixin for SpeechBrain's ``Brain``: a say in when checkpoints are saved within an epoch, and after it."""

    def is_between_steps(self) -> bool:
        """Whether a checkpoint may be saved now."""
        return True

    def is_checkpoint_wanted(self) -> bool:
        """Whether a checkpoint has to be saved, although none is due."""
        return False

    def after_checkpoint(self) -> None:
        """Called after a checkpoint was saved within an epoch."""

    def save_within_epoch(self) -> None:
        """Save a checkpoint within an epoch now."""
        super()._save_intra_epoch_ckpt()  # type: ignore[misc]  # of Brain

    def _should_save_intra_epoch_ckpt(self, *args: Any) -> bool:
        due = super()._should_save_intra_epoch_ckpt(*args)  # type: ignore[misc]  # of Brain
        return (due or self.is_checkpoint_wanted()) and self.is_between_steps()

    def _save_intra_epoch_ckpt(self) -> None:
        self.save_within_epoch()
        self.after_checkpoint()


class LoadersOfProcesses:
    """Mixin for SpeechBrain's ``Brain`` whose samplers know the process that they are for.

    SpeechBrain gives each process its part of any sampler in another order than one process has, and repeats batches
    until all processes have equally many.
    """

    train_sampler: Any

    def _train_loader_specifics(self, dataset: Any, options: dict[str, Any]) -> dict[str, Any]:
        return options


def spare_scipy_stats() -> None:
    """Let SpeechBrain be imported without ``scipy.stats``, which would take longer than all the rest of it.

    Its samplers import one distribution, for batches of recordings of similar lengths in training. They get a stand-in
    that becomes the distribution when it is used. For anything else, ``scipy.stats`` is imported as ever.
    """
    if "scipy.stats" not in sys.modules and "speechbrain.dataio.sampler" not in sys.modules:
        sys.modules["scipy.stats"] = _ScipyStats("scipy.stats")


class _ScipyStats(ModuleType):
    """Stands in for ``scipy.stats`` until it is asked for something, and is forgotten then."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__path__: Any = self  # only asked for its entries when a module inside is imported

    def __iter__(self) -> Iterator[str]:
        self._forget()
        return iter(importlib.import_module(self.__name__).__path__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        self._forget()
        return _Lognorm() if name == "lognorm" else getattr(importlib.import_module(self.__name__), name)

    def _forget(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class _Lognorm:
    """The distribution ``scipy.stats.lognorm``, imported when it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("scipy.stats").lognorm, name)


def run_option_helps() -> dict[str, tuple[Any, str]]:
    """Defaults and descriptions of SpeechBrain's run options by name, without importing SpeechBrain.

    The import takes seconds, so that the one file that has them is run on its own.
    """
    package = importlib.util.find_spec("speechbrain")
    if package is None or not package.submodule_search_locations:
        return {}
    path = Path(package.submodule_search_locations[0]) / "utils" / "run_opts.py"
    spec = importlib.util.spec_from_file_location("_speechbrain_run_opts", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    options = module.RunOptions()
    return {name: (options.get(name), text) for name, text in module.HELP_TEXTS.items()}


def save_normalizer(normalizer: Any, path: str | os.PathLike) -> None:
    """Save the statistics of SpeechBrain's ``InputNormalization``, which are not in its ``state_dict``."""
    normalizer._save(path)


def set_normalizer(normalizer: Any, statistics: Mapping[str, Any]) -> None:
    """Give SpeechBrain's ``InputNormalization`` the statistics that :func:`save_normalizer` saved."""
    normalizer._load_statistics_dict(statistics)


def normalizer_statistics(module: Any) -> dict[str, Any] | None:
    """The statistics of SpeechBrain's ``InputNormalization`` by name; None for a module that has none."""
    statistics = getattr(module, "_statistics_dict", None)
    return None if statistics is None else dict(statistics())


def bucket_plan(max_batch_length: float, num_buckets: int, max_batch_ex: int | None) -> tuple[Any, list[int]]:
    """The buckets of SpeechBrain's ``DynamicBatchSampler``: the longest example of each, and examples per batch."""
    from speechbrain.dataio.sampler import DynamicBatchSampler

    sampler = DynamicBatchSampler([0], max_batch_length, num_buckets, lengths_list=[1.0], max_batch_ex=max_batch_ex)
    return sampler._bucket_boundaries, sampler._bucket_lens


class BatchesOfEpoch:
    """Mixin for SpeechBrain's ``DynamicBatchSampler``: a say in the batches of an epoch."""

    _batches: Any
    _epoch: int

    def select_batches(self, batches: list[list[int]], epoch: int) -> list[list[int]]:
        """Select the batches of an epoch, counted from 1, from those that SpeechBrain made; 0 before the first one."""
        return batches

    def _generate_batches(self) -> None:
        super()._generate_batches()  # type: ignore[misc]  # of DynamicBatchSampler
        self._batches = self.select_batches(self._batches, self._epoch)


class OwnChunks:
    """Mixin for SpeechBrain's ``Dual_Path_Model`` that says how chunks are cut and joined."""

    def cut_chunks(self, x: Tensor, size: int) -> tuple[Tensor, int]:
        """Cut (batch, channels, time) into overlapping chunks; returns these (batch, channels, size, chunks), and the
        frames that were padded."""
        return super()._Segmentation(x, size)  # type: ignore[misc]  # of Dual_Path_Model

    def join_chunks(self, chunks: Tensor, gap: int) -> Tensor:
        """Add the chunks returned by :meth:`cut_chunks` up to (batch, channels, time)."""
        return super()._over_add(chunks, gap)  # type: ignore[misc]  # of Dual_Path_Model

    def _Segmentation(self, input: Tensor, K: int) -> tuple[Tensor, int]:
        return self.cut_chunks(input, K)

    def _over_add(self, input: Tensor, gap: int) -> Tensor:
        return self.join_chunks(input, gap)


@contextmanager
def masks_of_any_batch() -> Iterator[None]:
    """A context in which ECAPA-TDNN makes its masks for any number of examples. It counts these by ``len``, which fixes
    their number in programs of ``torch.export``."""
    import torch
    from speechbrain.lobes.models import ECAPA_TDNN

    original = ECAPA_TDNN.length_to_mask

    def length_to_mask(length: Tensor, max_len: int, device: torch.device) -> Tensor:
        frames = torch.arange(max_len, device=length.device, dtype=length.dtype)
        return (frames < length[:, None]).to(device, length.dtype)

    ECAPA_TDNN.length_to_mask = length_to_mask
    try:
        yield
    finally:
        ECAPA_TDNN.length_to_mask = original


# ---------------------------------------------------------------------------------------------------- PyTorch


def below_autograd() -> AbstractContextManager:
    """A context in which torch operations run without autograd, as inside an autograd function."""
    import torch

    return torch._C._AutoDispatchBelowAutograd()


Function = TypeVar("Function", bound=Callable[..., Any])


def constant_when_compiled(function: Function) -> Function:
    """Mark a function whose result ``torch.compile`` takes as a constant, instead of tracing the function.

    ``torch.compiler.assume_constant_result`` does the same, but imports the compiler, which takes as long as importing
    torch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_transforming() -> bool:
    """Whether a transformation of ``torch.func``, such as ``vmap``, is at work, whose tensors look like plain ones."""
    import torch

    return torch._C._functorch.peek_interpreter_stack() is not None


def has_forward_hooks(module: Any) -> bool:
    """Whether calling a module does more than its ``forward``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class Marks:
    """Marks of modules, by which it is known later whether they still are what they were.

    No module inside was replaced, got hooks, or went over to training or evaluation; no parameter was replaced, moved,
    or changed as far as torch counts changes.

    Arguments
    ---------
    modules : sequence of torch.nn.Module
        The modules.
    without : sequence of torch.nn.Module
        Modules inside whose parameters, parts and hooks do not matter.

    Raises
    ------
    ValueError
        When parameters are stand-ins, or of inference mode, which does not count changes.
    """

    def __init__(self, modules: Sequence[Any], without: Sequence[Any] = ()) -> None:
        import torch

        self._parameters: list[tuple[Mapping[str, Any], str, Any, int, int]] = []
        self._memory: list[Tensor] = []  # held so that nothing else gets its address
        self._children: list[tuple[Mapping[str, Any], str, Any]] = []
        self._hooks: list[Mapping] = []
        self._modes: list[tuple[Any, bool]] = []
        for part in (part for module in modules for part in module.modules() if part not in without):
            self._children += [(part._modules, name, child) for name, child in part._modules.items()]
            self._hooks += [part._forward_hooks, part._forward_pre_hooks]
            self._modes.append((part, part.training))
            for name, parameter in part._parameters.items():
                if parameter is None:
                    continue
                if type(parameter) is not torch.nn.Parameter or parameter.is_inference():
                    raise ValueError(f"The parameter {name} does not count its changes.")
                mark = (part._parameters, name, parameter, parameter.data_ptr(), parameter._version)
                self._parameters.append(mark)
                self._memory.append(parameter.detach())

    def hold(self) -> bool:
        """Whether everything is as it was, and there are no hooks."""
        for hooks in self._hooks:
            if hooks:
                return False
        for part, mode in self._modes:
            if part.training is not mode:
                return False
        for owner, name, child in self._children:
            if owner.get(name) is not child:
                return False
        for owner, name, parameter, address, version in self._parameters:
            if parameter._version != version or parameter.data_ptr() != address or owner.get(name) is not parameter:
                return False
        return True


def copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors into others of the same shapes, by few launches on a GPU."""
    import torch

    torch._foreach_copy_(targets, sources)


def record_onnx_node(domain: str, name: str, inputs: Sequence[Any], outputs: int) -> Any:
    """Add a node to the ONNX graph that ``torch.onnx.export`` makes, while it translates an operation; returns the
    node's outputs. The operators of onnxscript return one output wherever their number is not fixed."""
    import onnx_ir
    from onnxscript import evaluator

    node = onnx_ir.node(name, inputs, num_outputs=outputs, domain=domain)
    recorder: Any = evaluator.default()
    recorder.nodes.append(node)
    return node.outputs


@contextmanager
def silent_on_torchvision() -> Iterator[None]:
    """A context in which ``torch.onnx.export`` does not warn, once per operation, that torchvision is not installed."""

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("torchvision is not installed")

    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    log.addFilter(is_other)
    try:
        yield
    finally:
        log.removeFilter(is_other)


def fake_tensors() -> AbstractContextManager:
    """A context in which new tensors have a shape, but no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def watch_operations(watcher: Callable[[Any, Any], None]) -> AbstractContextManager:
    """A context in which ``watcher`` is called with the schema of every operation, and what this returned."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            returned = function(*args, **(kwargs or {}))
            watcher(function._schema, returned)
            return returned

    return Watch()


class Int8Factor:
    """A factor (outputs, inputs) of products of 8-bit integers, packed by oneDNN for the processor at hand.

    These operators serve the models that torch's quantization of x86 exports; they have no documented name.

    Arguments
    ---------
    integers : Tensor
        The factor, int8.
    scales : Tensor
        What each output is multiplied by (outputs,), float32.
    """

    def __init__(self, integers: Tensor, scales: Tensor) -> None:
        import torch

        self._packed = torch.ops.onednn.qlinear_prepack(integers.contiguous(), None)
        self._scales, self._zeros = scales.contiguous(), scales.new_zeros(len(scales), dtype=torch.long)

    def integers(self) -> Tensor:
        """The factor (outputs, inputs) unpacked, int8 and contiguous."""
        return self._packed.to_dense().t().contiguous()

    def multiply(self, rows: Tensor, dtype: Any) -> Tensor:
        """The products (rows, outputs), float32 or bfloat16, of rows (rows, inputs) of uint8 that stand for numbers 128
        lower."""
        import torch

        return torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, self._packed, self._scales, self._zeros, None, 1.0, 0, dtype, "none", [], ""
        )


def reset_function(module: nn.Module) -> Callable[[], None] | None:
    """The method that draws a module's own parameters, None if there is none.

    ``torch.nn.MultiheadAttention`` has it under a private name only.
    """
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


def openmp_parallel() -> Any:
    """The entry ``GOMP_parallel`` of the OpenMP runtime that torch uses, as a ctypes function; None if it has none.

    It is looked up through torch's own library, so that no second runtime is loaded.
    """
    import torch

    for path in Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"):
        with suppress(OSError, AttributeError):
            return ctypes.CDLL(str(path)).GOMP_parallel
    return None


# ---------------------------------------------------------------------------------------------------- Triton


def triton_interprets() -> bool:
    """Whether Triton runs kernels in its interpreter, in NumPy on the CPU: ``TRITON_INTERPRET=1`` before the import."""
    import triton

    return bool(triton.knobs.runtime.interpret)


TRITON_LAUNCHED = ((3, 4), (3, 5), (3, 6))
"""Versions of Triton whose compiled kernels are known to be launched as :func:`triton_launcher` does it."""


def triton_launcher(compiled: Any) -> Callable[[tuple[int, int, int], int, list], None]:
    """Find the shortest way to launch a compiled kernel: a function of programs, current device and arguments.

    It takes addresses in place of tensors, which the launcher would ask for theirs and then have checked by the driver.
    ``compiled[programs](*arguments)`` also describes each launch to hooks, of which there are none unless a profiler
    adds them, and asks again for what does not change. An unknown version of Triton is launched like that.
    """
    import triton

    runtime = triton.knobs.runtime
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])

    def launch(programs: tuple[int, int, int], device: int, arguments: list) -> None:
        compiled[programs](*arguments)

    if version not in TRITON_LAUNCHED:
        return launch
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    stream_of = _raw_stream

    def launch_directly(programs: tuple[int, int, int], device: int, arguments: list) -> None:
        hook = runtime.launch_enter_hook
        if getattr(hook, "calls", hook):
            launch(programs, device, arguments)
        else:
            run(*programs, stream_of(device), function, metadata, None, None, None, *arguments)

    return launch_directly


def _raw_stream(device: int) -> int:
    import torch

    return torch._C._cuda_getCurrentRawStream(device)


# ---------------------------------------------------------------------------------------------------- EnCodec


def make_encodec(sizes: Mapping[str, Any], n_codebooks: int, codebook_size: int) -> tuple[Any, Any, Any]:
    """Make the encoder, the decoder and the residual quantizer of a new EnCodec.

    ``sizes`` are arguments of ``SEANetEncoder`` and ``SEANetDecoder``.
    """
    _check_encodec()
    from encodec.modules import SEANetDecoder, SEANetEncoder
    from encodec.quantization import ResidualVectorQuantizer

    quantizer = ResidualVectorQuantizer(sizes["dimension"], n_codebooks, codebook_size)
    return SEANetEncoder(**sizes), SEANetDecoder(**sizes), quantizer


def encodec_24khz(repository: str | os.PathLike | None = None) -> Any:
    """Load the published ``EncodecModel`` for 24 kHz, from a folder or from the address that the package names."""
    _check_encodec()
    from encodec import EncodecModel

    return EncodecModel.encodec_model_24khz(repository=None if repository is None else Path(repository))


def _check_encodec() -> None:
    if importlib.util.find_spec("encodec") is None:
        raise ModuleNotFoundError(
            'EnCodec is needed here, but the package encodec is not installed: pip install "speechbrain_mamba[tts]"'
        )


def quantize(quantizer: Any, x: Tensor, n_codebooks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize features (batch, channels, frames) with the first codebooks of a residual quantizer.

    The public call wants a bandwidth instead of a number of codebooks. Returns the quantized features, the codes
    (batch, frames, codebooks), and the commitment loss of each codebook.
    """
    quantized, codes, commitment = quantizer.vq(x, n_q=n_codebooks)
    return quantized, codes.permute(1, 2, 0), commitment


@contextmanager
def whole_paddings() -> Iterator[None]:
    """A context in which the convolutions of the package encodec compute their paddings in whole numbers. It does so by
    rounding fractions, which programs of ``torch.export`` cannot hold."""
    from encodec.modules import conv

    original = conv.get_extra_padding_for_conv1d

    def extra_padding(x: Tensor, kernel_size: int, stride: int, padding_total: int = 0) -> int:
        missing = kernel_size - padding_total - x.shape[-1]
        return missing - missing // stride * stride

    conv.get_extra_padding_for_conv1d = extra_padding
    try:
        yield
    finally:
        conv.get_extra_padding_for_conv1d = original


def quantize_to_codes(quantizer: Any, x: Tensor, n_codebooks: int) -> Tensor:
    """The codes of :func:`quantize`, without gradients."""
    return quantizer.vq.encode(x, n_q=n_codebooks).permute(1, 2, 0)

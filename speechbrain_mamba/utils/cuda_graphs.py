"""Functions of tensors replayed as CUDA graphs: one launch instead of hundreds, where launches outlast the work."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba.utils._compat import copy_all

logger = logging.getLogger(__name__)

DEVICE = "cuda"
"""The type of device whose calls are captured."""


def flatten(value: Any) -> tuple[list[Tensor], Any]:
    """Take the tensors out of nested tuples, lists and dicts.

    Arguments
    ---------
    value : nested tuples, lists and dicts
        Of tensors, None and constants.

    Returns
    -------
    tensors : list of Tensor
        The tensors in order.
    structure : hashable
        What is left; calls whose structures differ are different.

    Example
    -------
    >>> tensors, structure = flatten({"a": (torch.ones(1), None), "b": [torch.zeros(2), 3]})
    >>> len(tensors)
    2
    >>> unflatten(structure, tensors)
    {'a': (tensor([1.]), None), 'b': [tensor([0., 0.]), 3]}
    """
    tensors: list[Tensor] = []

    def take(part: Any) -> Any:
        if isinstance(part, Tensor):
            tensors.append(part)
            return Tensor, None, ()
        if isinstance(part, dict):
            return type(part), tuple(part), tuple(map(take, part.values()))
        if isinstance(part, (list, tuple)):
            return type(part), None, tuple(map(take, part))
        return None, part, ()

    structure = take(value)
    return tensors, structure


def unflatten(structure: Any, tensors: list[Tensor]) -> Any:
    """Put tensors into the structure returned by :func:`flatten`."""
    rest = iter(tensors)

    def put(part: Any) -> Any:
        kind, what, parts = part
        if kind is None:
            return what
        if kind is Tensor:
            return next(rest)
        values = [put(inner) for inner in parts]
        if what is not None:
            return kind(zip(what, values))
        return kind(*values) if hasattr(kind, "_fields") else kind(values)

    return put(structure)


def capture(function: Callable[[], Any], device: torch.device, pool: Any) -> tuple[Callable[[], None], Any]:
    """Capture a function without arguments; returns what replays it, and its outputs, which a replay writes again."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        function()  # what is made at the first use must not be captured
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with _generator_of(device), torch.cuda.graph(graph, pool=pool, stream=stream):
        outputs = function()
    return graph.replay, outputs


@contextlib.contextmanager
def _generator_of(device: torch.device) -> Iterator[None]:
    """Put the state of a GPU's random numbers back if a capture fails: torch leaves it as it is inside a capture, and
    all random numbers after that would be an error."""
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    before = generator.clone_state()
    try:
        yield
    except BaseException:
        generator.graphsafe_set_state(before)
        raise


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def pad_time(x: Tensor, lens: Tensor | None, multiple: int) -> tuple[Tensor, Tensor]:
    """Pad sequences so that their time is a multiple, and few shapes occur: graphs are captured by shape.

    Arguments
    ---------
    x : Tensor
        Sequences (batch, time, ...), such as waveforms (batch, samples).
    lens : Tensor, optional
        Lengths relative to the longest, floats (batch,); all of it by default.
    multiple : int
        What the time is to be a multiple of.

    Returns
    -------
    x, lens : Tensor
        The sequences with zeros behind, and lengths relative to the new time. A model that takes lengths gives valid
        frames the same outputs, in the same number.

    Example
    -------
    >>> x, lens = pad_time(torch.ones(2, 7), torch.tensor([1.0, 0.5]), 4)
    >>> x.shape, torch.round(lens * 8)
    (torch.Size([2, 8]), tensor([7., 4.]))
    """
    time = x.shape[1]
    more = -time % multiple
    lens = x.new_ones(x.shape[0], dtype=torch.float32) if lens is None else lens
    if more == 0:
        return x, lens
    lens = torch.round(lens * time) / (time + more)  # as SpeechBrain rounds
    return F.pad(x, (0, 0) * (x.dim() - 2) + (0, more)), lens


class _Graph(NamedTuple):
    inputs: list[Tensor]
    replay: Callable[[], None]
    outputs: list[Tensor]
    structure: Any


class GraphedFunction:
    """A function that is captured as a CUDA graph for each shape of its arguments, the second time it is seen.

    What cannot be captured runs as it is: on other devices, with gradients, inside another capture or a compiler, with
    arguments that cannot be compared, and after a capture has failed, which is said once. Results are the same to the
    bit. Where lengths vary, :func:`pad_time` lets shapes come again.

    Arguments
    ---------
    function : callable
        From nested tuples, lists and dicts of tensors and constants to the same. It must not read a value from the GPU.
    limit : int
        How many graphs are kept; the one that was not used for the longest time makes room.
    clones : bool
        Whether outputs are copied out of the graph's memory. If not, the next call overwrites them: for functions whose
        outputs are their next inputs.

    Example
    -------
    >>> double = GraphedFunction(lambda x: 2 * x)
    >>> double(torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(self, function: Callable[..., Any], limit: int = 8, clones: bool = True):
        self.function, self.limit, self.clones = function, limit, clones
        self.failure: str | None = None
        self._seen: Counter = Counter()
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
        self._pool: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        tensors, structure = flatten((arguments, options))
        if self.failure is not None or not self._can_be_captured(tensors, structure):
            return self.function(*arguments, **options)
        autocast = torch.get_autocast_dtype(DEVICE) if torch.is_autocast_enabled(DEVICE) else None
        key = structure, tuple((t.shape, t.dtype, t.device) for t in tensors), autocast
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] == 1:
                return self.function(*arguments, **options)
            try:
                self._graphs[key] = self._capture(tensors, structure)
            except Exception as error:
                self._give_up(error)
                return self.function(*arguments, **options)
            if len(self._graphs) > self.limit:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        copy_all(graph.inputs, tensors)
        graph.replay()
        outputs = [t.clone() for t in graph.outputs] if self.clones else graph.outputs
        return unflatten(graph.structure, outputs)

    def _can_be_captured(self, tensors: list[Tensor], structure: Any) -> bool:
        devices = {t.device for t in tensors}
        return (
            len(devices) == 1
            and next(iter(devices)).type == DEVICE
            and not torch.is_grad_enabled()
            and _is_hashable(structure)
            and not torch.compiler.is_compiling()
            and not (DEVICE == "cuda" and torch.cuda.is_current_stream_capturing())
        )

    def _capture(self, tensors: list[Tensor], structure: Any) -> _Graph:
        device = tensors[0].device
        if self._pool is None and DEVICE == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        inputs = [t.clone(memory_format=torch.contiguous_format) for t in tensors]
        arguments, options = unflatten(structure, inputs)
        replay, outputs = capture(lambda: self.function(*arguments, **options), device, self._pool)
        return _Graph(inputs, replay, *flatten(outputs))

    def _give_up(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {error}".splitlines()[0]
        self._graphs.clear()
        logger.warning("A call cannot be captured as a CUDA graph and runs without: %s", self.failure)

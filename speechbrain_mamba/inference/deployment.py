"""Trained separators and CTC recognizers as programs: of torch, and of ONNX for programs without torch.

Both take any number of examples and samples. ``deployed.json`` beside a program says what goes in and comes out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_mamba.inference.pretrained import load_any
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.lobes.models.separation.dual_path import DualPathModel
from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.ops import absolute_lengths
from speechbrain_mamba.utils.files import atomic_path

_KINDS: dict[str, Any] = {"separator": SpeechSeparator, "recognizer": Recognizer}
_EXAMPLE_SECONDS = 0.6
"""Length of the example that a program is traced with."""


class SeparationProgram(nn.Module):
    """From mixtures (batch, samples) and, unless the model takes none, lengths in samples (batch,), to estimates
    (batch, samples, speakers)."""

    def __init__(self, separator: SpeechSeparator) -> None:
        super().__init__()
        self.parts = separator.mods

    def forward(self, mixture: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Separate."""
        relative = None if lengths is None else lengths.double() / mixture.shape[1]
        parts = self.parts
        return separate(parts["encoder"], parts["masknet"], parts["decoder"], mixture, relative)


class RecognitionProgram(nn.Module):
    """From waveforms (batch, samples) and lengths in samples (batch,) to log-probabilities (batch, frames, tokens), and
    their lengths in frames (batch,)."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.encoder: Any = recognizer.mods.encoder

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Recognize."""
        log_probs, relative = self.encoder.encode(waveform, lengths.double() / waveform.shape[1])
        return log_probs, absolute_lengths(relative, log_probs.shape[1])


@dataclass
class Program:
    """What is deployed of a model."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    """Example inputs by name."""
    axes: dict[str, dict[int, str]]
    """The axes of inputs and outputs that have any size, and their names."""
    outputs: list[str]
    facts: dict[str, Any]
    """What ``deployed.json`` says beside inputs and outputs."""

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """The open axes of the inputs, as ``torch.export`` takes them."""
        return tuple({axis: torch.export.Dim.DYNAMIC for axis in self.axes[name]} for name in self.inputs)


def make_program(source: str | os.PathLike) -> Program:
    """Load a model and make a program of it that is not traced yet.

    Arguments
    ---------
    source : str or Path
        As of :meth:`~speechbrain_mamba.inference.pretrained.Pretrained.from_hparams`.

    Raises
    ------
    ValueError, FileNotFoundError
        When the model is of another kind, has a decoder, or cannot be loaded.
    """
    model: Any = load_any(source, _KINDS)
    if isinstance(model, SpeechSeparator):
        return _separation(model)
    if model.kind != "ctc":
        raise ValueError(
            f"'{source}' is a recognizer with a decoder, whose search is a program of its own: only recognizers with "
            "CTC can be deployed. Use it in Python."
        )
    return _recognition(model)


def _separation(model: SpeechSeparator) -> Program:
    samples = max(round(_EXAMPLE_SECONDS * model.sample_rate), 4 * model.mods.encoder.conv1d.kernel_size[0])
    masknet: Any = model.mods.masknet
    takes_lengths = isinstance(masknet, MaskNet) or (isinstance(masknet, DualPathModel) and masknet.batched)
    inputs = {"mixture": torch.randn(2, samples)}
    axes = {"mixture": {0: "batch", 1: "samples"}, "estimates": {0: "batch", 1: "samples"}}
    if takes_lengths:
        inputs["lengths"] = torch.tensor([samples, samples // 2])
        axes["lengths"] = {0: "batch"}
    facts = {"kind": "separator", "sample_rate": model.sample_rate, "speakers": model.speakers}
    return Program("separator", SeparationProgram(model).eval(), inputs, axes, ["estimates"], facts)


def _recognition(model: Recognizer) -> Program:
    samples = max(round(_EXAMPLE_SECONDS * model.sample_rate), 4 * model.min_samples)
    inputs = {"waveform": torch.randn(2, samples), "lengths": torch.tensor([samples, samples // 2])}
    axes = {
        "waveform": {0: "batch", 1: "samples"}, "lengths": {0: "batch"},
        "log_probs": {0: "batch", 1: "frames"}, "frames": {0: "batch"},
    }  # fmt: skip
    tokenizer = model.tokenizer
    facts = {
        "kind": "recognizer", "sample_rate": model.sample_rate, "blank": model.hparams.blank_index,
        "seconds_per_frame": model.seconds_per_frame, "least_samples": model.min_samples,
        "tokens": [tokenizer.id_to_piece(token) for token in range(tokenizer.vocab_size())],
    }  # fmt: skip
    return Program("recognizer", RecognitionProgram(model).eval(), inputs, axes, ["log_probs", "frames"], facts)


def write_onnx(source: str | os.PathLike, out: str | os.PathLike) -> str:
    """Write a model as ONNX to a new folder: ``separator.onnx`` or ``recognizer.onnx``, and ``deployed.json``.

    onnxruntime agrees with torch to 1e-4, at any length.

    Arguments
    ---------
    source, out
        As of :func:`make_program`, and the folder.

    Returns
    -------
    str
        What was written, for the user.

    Raises
    ------
    ImportError
        Without the packages of the extra ``onnx``.
    ValueError, OSError
        When the model cannot be deployed, or the folder is not empty.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {' and '.join(missing)}: pip install 'speechbrain_mamba[onnx]'.")
    from speechbrain_mamba.ops.onnx_functions import onnx_program

    def write(program: Program, path: Path) -> None:
        names = {"input_names": list(program.inputs), "output_names": program.outputs}
        made = onnx_program(program.module, tuple(program.inputs.values()), program.dynamic_shapes, **names)
        made.save(path)

    return _write(source, out, ".onnx", write)


def write_torch(source: str | os.PathLike, out: str | os.PathLike) -> str:
    """Write a model as a program of ``torch.export`` to a new folder: ``separator.pt2`` or ``recognizer.pt2``, and
    ``deployed.json``. ``import speechbrain_mamba.ops`` comes before ``torch.export.load``: Mamba's kernels are
    operations of this package. Arguments, result and errors are as of :func:`write_onnx`.
    """

    def write(program: Program, path: Path) -> None:
        with torch.no_grad():
            traced = torch.export.export(
                program.module, tuple(program.inputs.values()), dynamic_shapes=program.dynamic_shapes
            )
        torch.export.save(traced, path)

    return _write(source, out, ".pt2", write)


@contextmanager
def _new_folder(out: str | os.PathLike) -> Iterator[Path]:
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"'{target}' is there and not empty: give the name of a new folder.")
    with atomic_path(target) as temporary:
        temporary.mkdir()
        yield temporary


def _write(
    source: str | os.PathLike, out: str | os.PathLike, suffix: str, write: Callable[[Program, Path], None]
) -> str:
    with _new_folder(out) as folder:
        program = make_program(source)
        path = folder / f"{program.name}{suffix}"
        write(program, path)
        described = {**program.facts, "file": path.name, **_described(program)}
        (folder / "deployed.json").write_text(json.dumps(described, indent=2, ensure_ascii=False), encoding="utf-8")
        megabytes = path.stat().st_size / 1e6
    return (
        f"Wrote {Path(out) / path.name} ({megabytes:.1f} MB) and deployed.json, for {program.facts['sample_rate']} Hz."
    )


def _described(program: Program) -> Mapping[str, Any]:
    """Types and axes of the inputs, and axes of the outputs."""
    inputs = {
        name: {
            "type": str(value.dtype).removeprefix("torch."),
            "shape": [program.axes[name].get(axis, size) for axis, size in enumerate(value.shape)],
        }
        for name, value in program.inputs.items()
    }
    return {"inputs": inputs, "outputs": program.outputs}

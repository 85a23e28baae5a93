"""Trained models as programs: of torch, and of ONNX for programs without torch.

They take any number of examples, samples and frames. ``deployed.json`` beside them says what goes in and comes out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_mamba.codecs import SETTINGS as CODEC_SETTINGS
from speechbrain_mamba.codecs import load_codec
from speechbrain_mamba.inference.pretrained import SETTINGS, find_source, load_any
from speechbrain_mamba.inference.programs.program import Deployed, Program
from speechbrain_mamba.inference.programs.recognizing import recognizer_programs
from speechbrain_mamba.inference.programs.separating import separator_programs
from speechbrain_mamba.inference.programs.speaking import codec_programs, synthesizer_programs
from speechbrain_mamba.inference.programs.voices import speaker_programs
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.pretrained import ModelFiles

_KINDS: dict[str, Any] = {
    "separator": SpeechSeparator,
    "recognizer": Recognizer,
    "synthesizer": SpeechSynthesizer,
    "speaker encoder": EncoderClassifier,
}


def make_programs(source: str | os.PathLike) -> Deployed:
    """Load a model and make programs of it that are not traced yet.

    Arguments
    ---------
    source : str or Path
        As of :meth:`~speechbrain_mamba.inference.pretrained.Pretrained.from_hparams`; or the folder, or the Hub id, of
        a codec.

    Raises
    ------
    ValueError, FileNotFoundError
        When the model is of another kind, cannot be deployed, or cannot be loaded.
    """
    files = ModelFiles(find_source(source))
    if not files.has(SETTINGS) and files.has(CODEC_SETTINGS):
        return codec_programs(load_codec(files))
    model: Any = load_any(source, _KINDS, run_opts={"precision": "fp32"})  # whatever its weights are in files
    if isinstance(model, SpeechSeparator):
        return separator_programs(model)
    if isinstance(model, Recognizer):
        return recognizer_programs(model)
    return synthesizer_programs(model) if isinstance(model, SpeechSynthesizer) else speaker_programs(model)


def write_onnx(source: str | os.PathLike, out: str | os.PathLike) -> str:
    """Write a model as ONNX to a new folder: a file ``.onnx`` for each program, and ``deployed.json``.

    onnxruntime agrees with torch to 1e-4, at any length.

    Arguments
    ---------
    source, out
        As of :func:`make_programs`, and the folder.

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
        names = {"input_names": program.input_names, "output_names": program.output_names}
        onnx_program(program.module, program.arguments, program.dynamic_shapes, **names).save(path)

    return _write(source, out, ".onnx", write)


def write_torch(source: str | os.PathLike, out: str | os.PathLike) -> str:
    """Write a model as programs of ``torch.export`` to a new folder: a file ``.pt2`` for each, and ``deployed.json``.

    ``import speechbrain_mamba.ops`` comes before ``torch.export.load``: Mamba's kernels are operations of this package.
    States are a list, the last argument of a program. Arguments, result and errors are as of :func:`write_onnx`.
    """

    def write(program: Program, path: Path) -> None:
        with torch.no_grad():
            traced = torch.export.export(program.module, program.arguments, dynamic_shapes=program.dynamic_shapes)
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
        deployed, described = make_programs(source), []
        for program in deployed.programs:
            write(program, folder / f"{program.name}{suffix}")
            described.append(program.describe(f"{program.name}{suffix}"))
        about = {"kind": deployed.kind, **deployed.facts, "programs": described}
        (folder / "deployed.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    files = ", ".join(f"{program.name}{suffix}" for program in deployed.programs)
    return (
        f"Wrote {files} and deployed.json to {Path(out)} ({megabytes:.1f} MB), for {deployed.facts['sample_rate']} Hz."
    )

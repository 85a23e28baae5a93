"""Checkpoints that authors published, or that other recipes of SpeechBrain left, as runs of this package.

Only weights, statistics, a tokenizer and the number of epochs are read; no code in their files runs.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.checkpoints import METAFNAME

from speechbrain_mamba import __version__
from speechbrain_mamba.inference.recognition_export import export_recognizer, export_seq2seq_recognizer
from speechbrain_mamba.inference.separation import export_separator
from speechbrain_mamba.text.tokenizer import FILE_NAME, check_special_tokens, open_sentencepiece
from speechbrain_mamba.training.averaging import best_checkpoints, load_average
from speechbrain_mamba.training.fine_tuning import compare_weights, load_fitting
from speechbrain_mamba.training.init_source import InitSource, find_init_source, open_checkpoint
from speechbrain_mamba.training.named_weights import RunWeights
from speechbrain_mamba.training.published import equivalent_score, find_inside
from speechbrain_mamba.utils._compat import set_normalizer
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from speechbrain_mamba.utils.files import atomic_path, write_json
from speechbrain_mamba.utils.hparams import read_hparams, select_hparams
from speechbrain_mamba.utils.pretrained import fetch_pretrained
from speechbrain_mamba.utils.yaml_text import parse_yaml, tag_of

logger = logging.getLogger(__name__)

RECORD = "conversion.json"
"""The file of a converted run that says what it was made of."""

_UNKNOWN = math.inf
"""The score of a checkpoint that has none: any other one is better."""


@dataclass(frozen=True)
class Layout:
    """How the checkpoints of a recipe are chosen and what their files hold.

    Attributes
    ----------
    best_by : str
        The score, lower is better, by which the recipe chooses.
    special_tokens : tuple of str
        Hyper-parameters that name tokens without a text; empty without a tokenizer.
    other_files : mapping of str to tuple of str
        Further names of the file of a part.
    """

    best_by: str
    special_tokens: tuple[str, ...] = ()
    other_files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


RENAMED = {"Encoder.transformer.": "Transformer."}
"""Beginnings of names that are replaced, so that the encoder has one name in all recognizers."""

LAYOUTS = {
    "separation": Layout("si-snr"),
    "ctc": Layout("greedy_WER", ("blank_index",), {"model": ("asr",)}),
    "ctc_attention": Layout("TER", ("blank_index", "pad_index", "bos_index", "eos_index"), {"model": ("asr",)}),
}
"""By the objective of a recognizer, or the task."""


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes
    ----------
    folder : Path
        The output folder of a run.
    checkpoints : int
        How many checkpoints it has.
    tensors : int
        How many tensors each of them has, all of which were there, with the right shapes.
    parameters : int
        Numbers in the parameters of the model.
    averaged : int
        How many checkpoints the exported model is the average of.
    """

    folder: Path
    checkpoints: int
    tensors: int
    parameters: int
    averaged: int


def convert_checkpoint(
    source: str | os.PathLike,
    out: str | os.PathLike,
    hparams: str | os.PathLike,
    overrides: Mapping[str, Any] | None = None,
) -> Conversion:
    """Turn published checkpoints into a run of this package.

    Every name and shape of the weights is compared with what the hyper-parameters build. The run has all checkpoints
    of the source, so that a test averages as that of a training does, and the exported model in ``inference/``. It has
    no state of an optimizer: it can be tested, but training does not resume from it.

    Arguments
    ---------
    source : str or Path
        A checkpoint ``CKPT+...``, a folder of checkpoints, a folder in which exactly one run is, a folder with the
        files of the weights alone, or the Hub id of one.
    out : str or Path
        The output folder of the run; it must not exist.
    hparams : str or Path
        The hyper-parameter file of the model, of separation or recognition.
    overrides : mapping, optional
        Hyper-parameters to replace, such as ``num_spks``.

    Raises
    ------
    FileNotFoundError, FileExistsError
        When there are no weights, no tokenizer, or ``out`` is there already.
    ValueError
        When weights are missing, extra, misshapen, damaged or not finite, all of which the message lists, and for a
        model of another task.
    """
    target = Path(out)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"'{out}' exists and is not overwritten: choose another folder.")
    task = _task_of(read_hparams(hparams, overrides), hparams)
    with atomic_path(target) as temporary:
        temporary.mkdir(parents=True)
        text = read_hparams(hparams, {**(overrides or {}), "output_folder": str(temporary)})
        converter = _Converter(text, temporary, LAYOUTS[task], hparams)
        converter.convert(os.fspath(source))
        averaged = converter.export()
        converter.record(os.fspath(source), hparams)
        if target.exists():
            target.rmdir()
        modules = converter.hparams["modules"].values()
        parameters = {id(one): one.numel() for module in modules for one in module.parameters()}
    return Conversion(target, len(converter.entries), converter.tensors, sum(parameters.values()), averaged)


def _task_of(text: str, hparams: str | os.PathLike) -> str:
    tree = parse_yaml(text, str(hparams))
    task = str(tree.get("objective", tree.get("task")))
    if task not in LAYOUTS:
        raise ValueError(
            f"'{hparams}' is of the task {tree.get('task')}, but published checkpoints can be converted for separation "
            "and asr: give the file of a separator or recognizer, such as separation/mambatasnet_S."
        )
    return task


class _Converter:
    """The model of a run that is being written, and what was converted so far."""

    def __init__(self, text: str, folder: Path, layout: Layout, name: str | os.PathLike) -> None:
        self.text, self.folder, self.layout = text, folder, layout
        self.tree = tree = parse_yaml(text, str(name))
        optional = ["streaming", "causal", "avg_checkpoints", "avg_tolerance", "output_neurons", *layout.special_tokens]
        keys = ["modules", "checkpointer", "number_of_epochs", *(key for key in optional if key in tree)]
        selected = select_hparams(text, keys)
        missing = [key for key, value in parse_yaml(selected, "").items() if tag_of(value) == "!PLACEHOLDER"]
        if missing:
            raise ValueError(
                f"'{name}' has no value for {', '.join(missing)}: give {' '.join(f'--{key} VALUE' for key in missing)}."
            )
        self.hparams: dict[str, Any] = load_hyperpyyaml(selected)
        self.keeper: AtomicCheckpointer = self.hparams["checkpointer"]
        # the counters of SpeechBrain's Brain, which every checkpoint of a run has
        self.keeper.add_recoverable("brain", _Steps(), _Steps.load, _Steps.save)
        self.weights = RunWeights(self.hparams["modules"], self.keeper.recoverables, RENAMED, layout.other_files)
        self.entries: list[dict[str, Any]] = []
        self.tensors = 0
        self.tokenizer: Any = None

    def convert(self, source: str) -> None:
        """Convert all checkpoints of a source."""
        for origin in self._find(source):
            if self.layout.special_tokens and self.tokenizer is None:
                self.tokenizer = self._read_tokenizer(origin)
            self.entries.append(self._convert_one(origin))

    def _find(self, source: str) -> list[InitSource]:
        """The checkpoints of a source, the oldest first, or its weights alone."""
        folder = Path(source)
        if folder.is_file():
            raise ValueError(f"'{source}' is a file, but checkpoints are folders: unpack it if it is an archive.")
        if folder.is_dir() and not (folder / METAFNAME).exists():
            runs = find_inside(folder)
            if len(runs) > 1:
                named = ", ".join(f"'{run}'" for run in runs[:5])
                raise ValueError(f"'{source}' holds several runs: {named}. Give one of them.")
            if runs:
                save = runs[0] / "save" if (runs[0] / "save").is_dir() else runs[0]
                found = AtomicCheckpointer(save).find_checkpoints()  # the newest first
                whole = [each for each in found if each.meta.get("end-of-epoch", True)] or found
                return [open_checkpoint(source, Path(each.path)) for each in reversed(whole)]
        return [find_init_source(source, self.layout.best_by, "SOURCE")]

    def _read_tokenizer(self, origin: InitSource) -> Any:
        hparams, path = self.hparams, origin.find_tokenizer()
        given = self.tree.get("tokenizer_folder")
        if given is not None:
            path = fetch_pretrained(given, FILE_NAME)
        if path is None:
            raise FileNotFoundError(
                f"{origin.description[0].upper()}{origin.description[1:]} has no tokenizer ({FILE_NAME}, or a .model "
                "of SentencePiece): give the folder of one with --tokenizer_folder."
            )
        tokenizer = open_sentencepiece(path.read_bytes(), f"'{path}'")
        size = tokenizer.vocab_size()
        if size != hparams["output_neurons"]:
            raise ValueError(
                f"The tokenizer '{path}' has {size} tokens, but output_neurons is {hparams['output_neurons']}: give "
                "the tokenizer that the model was trained with, by --tokenizer_folder."
            )
        check_special_tokens(tokenizer, **{name: hparams[name] for name in self.layout.special_tokens})
        return tokenizer

    def _convert_one(self, origin: InitSource) -> dict[str, Any]:
        """Load the weights of a checkpoint, all of them, and save them as one of this run."""
        self.weights.fetch(origin)
        here, there = self.weights.here(), self.weights.read(origin)
        fit = compare_weights(here, there)
        if fit.misfits():
            raise ValueError(
                f"{origin.description[0].upper()}{origin.description[1:]} does not fit these hyper-parameters. "
                f"{fit.describe()} Choose the file that it was trained with, or replace what differs with --key value."
            )
        load_fitting(here, there, fit.fitting, origin)
        for name, (_, normalizer) in self.weights.normalizers.items():
            set_normalizer(normalizer, there.statistics[name])
        self.tensors = len(fit.fitting)
        meta = self._read_meta(origin)
        epoch, score = self._epoch(origin, meta), equivalent_score(meta, self.layout.best_by)
        self.keeper.recoverables["counter"].current = epoch
        kept = {self.layout.best_by: _UNKNOWN if score is None else score, "epoch": epoch}
        self.keeper.save_checkpoint(meta=kept, name=f"converted+{len(self.entries):04d}")
        files = {path.name: path for name in self.weights.files() if (path := origin.find_weights(name)) is not None}
        checksums = {name: _checksum(path) for name, path in sorted(files.items())}
        return {"checkpoint": origin.description, "epoch": epoch, "score": score, "sha256": checksums}

    @staticmethod
    def _read_meta(origin: InitSource) -> dict[str, Any]:
        if not origin.folders or not (origin.folders[0] / METAFNAME).is_file():
            return {}
        meta = parse_yaml((origin.folders[0] / METAFNAME).read_text(encoding="utf-8"), METAFNAME)
        return dict(meta) if isinstance(meta, dict) else {}

    def _epoch(self, origin: InitSource, meta: Mapping[str, Any]) -> int:
        """The epoch of a checkpoint; the last one of the run, so that none is trained, if it is not known."""
        counter = origin.folders[0] / "counter.ckpt" if origin.folders else None
        told: Any = meta.get("epoch")
        if counter is not None and counter.is_file() and counter.stat().st_size < 100:
            told = counter.read_text(encoding="utf-8", errors="replace").strip()
        return int(told) if str(told).isdigit() and int(told) > 0 else int(self.hparams["number_of_epochs"])

    def export(self) -> int:
        """Write ``inference/`` with what a test would use: the best checkpoint, or an average. Returns of how many."""
        hparams, modules = self.hparams, self.hparams["modules"]
        keeper, best_by = self.keeper, self.layout.best_by
        chosen = best_checkpoints(keeper, best_by, hparams.get("avg_checkpoints", 1), hparams.get("avg_tolerance"))
        keeper.load_checkpoint(chosen[0])
        if len(chosen) > 1:
            load_average(keeper, chosen)
        target = self.folder / "inference"
        if self.tokenizer is None:
            export_separator(target, self.text, modules)
            return len(chosen)
        with atomic_path(self.folder / "save" / FILE_NAME) as temporary:
            temporary.write_bytes(self.tokenizer.serialized_model_proto())
        if "seq_lin" in modules:
            export_seq2seq_recognizer(target, self.text, modules, self.tokenizer)
        else:
            export_recognizer(target, self.text, modules, self.tokenizer, hparams["streaming"], hparams["causal"])
        return len(chosen)

    def record(self, source: str, hparams: str | os.PathLike) -> None:
        """Write down what the run was made of."""
        made = {"version": __version__, "source": source, "hparams": Path(hparams).stem, "checkpoints": self.entries}
        write_json(self.folder / RECORD, made)


class _Steps:
    """The steps of a Brain that has made none."""

    def save(self, path: str | os.PathLike) -> None:
        """Write them as a Brain does."""
        Path(path).write_text("avg_train_loss: 0.0\noptimizer_step: 0\nstep: 0\n", encoding="utf-8")

    def load(self, path: str | os.PathLike, end_of_epoch: bool) -> None:
        """Read nothing: there are none."""


def _checksum(path: Path) -> str:
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()

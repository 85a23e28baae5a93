"""Trained models from a folder or the Hub: found, checked, built and filled, without trusting them."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference import interfaces
from speechbrain.utils.fetching import FetchConfig, LocalStrategy
from speechbrain.utils.run_opts import RunOptions
from torch import nn

from speechbrain_mamba.dataio.recordings import MAX_RATE, MIN_RATE
from speechbrain_mamba.inference.bundled import bundled_models, find_bundled
from speechbrain_mamba.inference.loadables import file_names, fill
from speechbrain_mamba.inference.precision import check_precision, reduce_precision
from speechbrain_mamba.utils.allowed_names import PRETRAINER
from speechbrain_mamba.utils.pretrained import ModelFiles
from speechbrain_mamba.utils.safe_yaml import (
    CheckedYaml,
    Planned,
    UnsafeModelError,
    build_model_yaml,
    check_model_yaml,
    plan_model_yaml,
    read_model_yaml,
)
from speechbrain_mamba.utils.weights import holds_integers
from speechbrain_mamba.utils.yaml_text import parse_yaml

logger = logging.getLogger(__name__)

SETTINGS = "hyperparams.yaml"

_RUN_OPTIONS = frozenset(RunOptions().as_dict())

Model = TypeVar("Model", bound=interfaces.Pretrained)

KINDS = {
    "separator": "speechbrain_mamba.inference.separation.SpeechSeparator",
    "recognizer": "speechbrain_mamba.inference.recognition.Recognizer",
    "synthesizer": "speechbrain_mamba.inference.synthesis.SpeechSynthesizer",
    "speaker encoder": "speechbrain_mamba.inference.judges.load_speaker_encoder",
    "codec": "speechbrain_mamba.codecs.load_codec",
}
"""Kinds of models, and what loads them."""


def find_kind(keys: Iterable[str], modules: Iterable[str]) -> str | None:
    """The kind of a model, from the keys of its file and the names of its modules; None if it is none of :data:`KINDS`.

    Example
    -------
    >>> find_kind(["sample_rate", "modules"], ["encoder", "masknet", "decoder"])
    'separator'
    """
    own, parts = set(keys), set(modules)
    if "masknet" in parts:
        return "separator"
    if {"ar", "nar"} <= parts:
        return "synthesizer"
    if own & {"tokenizer", "decoding_function", "decoder"} or "whisper" in parts:
        return "recognizer"
    return "speaker encoder" if "embedding_model" in parts else None


@dataclass
class OpenedModel:
    """A model whose file was read and checked, and of which nothing is built yet.

    Attributes
    ----------
    files : ModelFiles
        Where its files are.
    text : str
        The text of its ``hyperparams.yaml``: this text is checked and built, the file is not read again.
    checked : CheckedYaml, optional
        The checked tree; None if the caller trusts the file.
    overrides : str or mapping, optional
        Values to replace.
    must_match : bool
        Whether a replaced key must exist.
    file : str
        The file's name.
    """

    files: ModelFiles
    text: str
    checked: CheckedYaml | None
    overrides: str | Mapping[str, Any] | None
    must_match: bool
    file: str
    plan: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.plan = plan_model_yaml(self.checked) if self.checked else dict(parse_yaml(self.text, self.file))

    @property
    def modules(self) -> list[str]:
        """The names of the modules."""
        modules = self.plan.get("modules")
        return [str(name) for name in modules] if isinstance(modules, Mapping) else []

    @property
    def kind(self) -> str | None:
        """One of :data:`KINDS`, None if it is none of them."""
        return find_kind(self.plan, self.modules)

    def load(self, cls: type[Model], run_opts: Mapping[str, Any] | None = None, **options: Any) -> Model:
        """Build the model, fill it with its weights, and wrap it.

        Arguments
        ---------
        cls : type
            A class of ``speechbrain.inference``, or one of ours.
        run_opts : mapping, optional
            ``device``, ``precision`` and others of SpeechBrain's run options.
        **options
            Further arguments of the class.

        Raises
        ------
        ValueError, FileNotFoundError
            When the model is of another kind than the class loads, and when its files are missing or do not fit.
        """
        self._refuse_another_kind(cls)
        chosen_options = _run_options(run_opts)
        precision = (chosen_options or {}).get("precision")
        if self.checked is None:
            hparams = self._build_trusted()
        else:
            found = self.find_files()
            reduced = any(map(holds_integers, found.values()))
            if reduced and precision is None:
                precision = _precision_of_integers((chosen_options or {}).get("device"))
            with torch.random.fork_rng(devices=[]):  # of modules, whose first weights are random
                hparams = build_model_yaml(self.checked)
            for name, path in found.items():
                part = hparams["pretrainer"].loadables[name]
                fill(part, path, f"{name} of '{self.files.source}'", integers=precision == "int8")
            self._refuse_unfilled(hparams["modules"], hparams["pretrainer"].loadables)
            chosen = sorted(_RUN_OPTIONS & hparams.keys())
            for name in chosen:  # the device and such are the caller's to choose
                logger.warning("'%s' sets %s, which is ignored: give it in run_opts.", self.file, name)
                del hparams[name]
        if "sample_rate" in getattr(cls, "HPARAMS_NEEDED", []):
            self._check_rate(hparams["sample_rate"])
        hparams["savedir"] = self.files.savedir
        precision = precision or "fp32"
        if precision == "int8":  # which SpeechBrain does not know
            chosen_options = {**(chosen_options or {}), "precision": "fp32"}
        model = cls(modules=hparams["modules"], hparams=hparams, run_opts=chosen_options, **options)
        reduce_precision(model, precision)
        model.source_files = self.files
        if isinstance(model, Pretrained):
            with torch.random.fork_rng(devices=[]):
                model.on_loaded()
        return model

    def _refuse_another_kind(self, cls: type) -> None:
        needed = [*getattr(cls, "MODULES_NEEDED", []), *getattr(cls, "HPARAMS_NEEDED", [])]
        lacking = [name for name in needed if name not in self.modules and name not in self.plan]
        if lacking and self.kind in getattr(cls, "LACKING", {}):
            raise ValueError(f"The {self.kind} '{self.files.source}' {cls.LACKING[self.kind]}.")  # type: ignore[attr-defined]
        if lacking and self.kind and KINDS[self.kind].rpartition(".")[2] == cls.__name__:
            raise ValueError(f"'{self.file}' lacks {', '.join(lacking)}, without which a {self.kind} cannot be used.")
        if lacking or not self.modules:
            known = f"a {self.kind}" if self.kind else "another kind of model"
            advice = f" Load it with {KINDS[self.kind]}." if self.kind else ""
            raise ValueError(
                f"'{self.files.source}' holds {known} (modules: {', '.join(self.modules) or 'none'}), but "
                f"{cls.__name__} needs {', '.join(lacking) or 'modules'}.{advice}"
            )

    def _check_rate(self, rate: Any) -> None:
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not MIN_RATE <= rate <= MAX_RATE:
            raise ValueError(
                f"'{self.file}': sample_rate is {rate!r}, but must be a number of Hz from {MIN_RATE} to {MAX_RATE}."
            )

    def _refuse_unfilled(self, modules: Mapping[str, Any], loadables: Mapping[str, Any]) -> None:
        """Refuse parameters that no file filled: they would be random."""
        filled = {id(p) for part in loadables.values() if isinstance(part, nn.Module) for p in part.parameters()}
        unfilled = []
        for name, module in modules.items():
            if not isinstance(module, nn.Module):
                raise ValueError(f"'{self.file}': '{name}' of the modules is a {type(module).__name__}, not a module.")
            # encoders that others trained came with their weights
            downloaded = {
                id(parameter)
                for part in module.modules()
                if type(part).__module__.startswith("speechbrain.integrations.huggingface.")
                for parameter in part.parameters()
            }
            known = filled | downloaded
            unfilled += [f"{name}.{key}" for key, value in module.named_parameters() if id(value) not in known]
        if unfilled:
            more = f" and {len(unfilled) - 10} more" if len(unfilled) > 10 else ""
            raise ValueError(
                f"'{self.file}': no file has the weights of {', '.join(unfilled[:10])}{more}, which would be random. "
                "Add their module to the loadables of the pretrainer."
            )

    def find_files(self) -> dict[str, Any]:
        """Find the file of each part that has one, before anything is built: from the model itself, and from others
        only if the caller agreed to them."""
        assert self.checked is not None
        pretrainer = self.plan.get("pretrainer")
        if not isinstance(pretrainer, Planned) or pretrainer.name != PRETRAINER:
            raise UnsafeModelError(f"'{self.file}' has no pretrainer, which says which files the model's parts have.")
        paths, found = pretrainer.named.get("paths", {}), {}
        for name, part in pretrainer.named.get("loadables", {}).items():
            if not isinstance(part, Planned) or part.kind != "new":
                raise UnsafeModelError(f"'{self.file}': the pretrainer is to load '{name}', which is not an object.")
            own = file_names(name, part.name)
            other, _, last = paths.get(name, "").rpartition("/")
            try:  # of a copy of a model on the Hub, the file is here, although the path names the Hub
                found[name] = self.files.find(*([last, *own] if last else own))
            except FileNotFoundError as error:
                if not other or self._is_own(other):
                    raise
                if other not in self.checked.sources:
                    raise UnsafeModelError(
                        f"'{self.file}': {last} of '{name}' is not among the model's files, and would come from "
                        f"another model, '{other}'. If you want this, load it with sources=['{other}']."
                    ) from error
                files = ModelFiles(
                    other, None, fetch_config=dataclasses.replace(self.files.fetch_config, revision=None)
                )
                found[name] = files.find(last)
        return found

    def _is_own(self, source: str) -> bool:
        """Whether a path of the file leads to the model itself."""
        folder = self.files.folder
        return source == self.files.source or (folder is not None and Path(source).resolve() == folder.resolve())

    def _build_trusted(self) -> dict[str, Any]:
        """Build with HyperPyYAML, which runs what the file names."""
        stream = io.StringIO(self.text)
        stream.name = self.file  # type: ignore[attr-defined]  # includes are relative to it
        hparams = load_hyperpyyaml(stream, self.overrides or {}, self.must_match)
        pretrainer = hparams["pretrainer"]
        for name, part in pretrainer.loadables.items():
            if not pretrainer.is_loadable(name):
                continue
            names, files = file_names(name, f"{type(part).__module__}.{type(part).__name__}"), self.files
            if name in pretrainer.paths:
                source, last = pretrainer.split_path(pretrainer.paths[name])
                names, files = [last], ModelFiles(source, fetch_config=self.files.fetch_config)
            path = files.find(*names)
            hook = pretrainer.custom_hooks.get(name)
            if hook is None:
                fill(part, path, f"{name} of '{files.source}'")
            else:
                hook(part, str(path))
        return hparams


def _run_options(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """SpeechBrain's run options; ``eval_precision`` counts as ``precision``, which is that of inference here."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not _RUN_OPTIONS.issuperset(given):
        raise ValueError(
            f"run_opts are {given!r}, but must be a mapping with some of {', '.join(sorted(_RUN_OPTIONS))}."
        )
    options = dict(given)
    if "eval_precision" in options:
        options.setdefault("precision", options["eval_precision"])
    if options.get("device") is not None:
        options["device"] = str(options["device"])
        try:
            torch.empty(0, device=options["device"])
        except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
            raise ValueError(
                f"The device '{options['device']}' is not there: {_first_sentence(error)}. Use cpu, or cuda on a "
                "machine with a GPU."
            ) from error
    if "precision" in options:
        options["precision"] = check_precision(options["precision"], torch.device(options.get("device") or "cpu"))
    return options


def _precision_of_integers(device: str | None) -> str:
    """The precision of a model whose weights are 8-bit integers in its files, if the caller wants none: floats where
    they cannot be computed with."""
    place = torch.device(device or "cpu")
    return check_precision("int8", place) if place.type == "cpu" else "fp32"


def _first_sentence(error: BaseException) -> str:
    return str(error).splitlines()[0].split(". ")[0].rstrip(".")


def open_model(
    source: str | os.PathLike,
    hparams_file: str = SETTINGS,
    overrides: str | Mapping[str, Any] | None = None,
    overrides_must_match: bool = True,
    savedir: str | os.PathLike | None = None,
    local_strategy: LocalStrategy = LocalStrategy.SYMLINK,
    fetch_config: FetchConfig | None = None,
    *,
    trust_yaml: bool = False,
    sources: Iterable[str] = (),
    revision: str | None = None,
    token: bool | str | None = None,
) -> OpenedModel:
    """Read and check the file of a model; arguments as of :meth:`Pretrained.from_hparams`."""
    files = ModelFiles(find_source(source), savedir, local_strategy, fetch_config)
    config = files.fetch_config
    sources = [sources] if isinstance(sources, str) else sources
    if revision is not None:
        config = dataclasses.replace(config, revision=revision, allow_updates=True)
    if token is not None:
        config = dataclasses.replace(config, token=token)
    files.fetch_config = config
    try:
        path = files.find(hparams_file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{_hint(files, hparams_file)}") from error
    text, name = read_model_yaml(path), str(path)
    checked = None
    if trust_yaml:
        warnings.warn(f"'{path}' is trusted: it can run any program on this machine.", stacklevel=3)
    else:
        try:
            checked = check_model_yaml(
                text, name, overrides=overrides, must_match=overrides_must_match, sources=frozenset(sources)
            )
        except UnsafeModelError as error:
            hint = _inner_models(files, hparams_file)
            if not hint:
                raise
            raise UnsafeModelError(
                f"'{files.source}' is not a model, but seems to be the output folder of a training.{hint}"
            ) from error
    return OpenedModel(files, text, checked, overrides, overrides_must_match, name)


def find_source(source: str | os.PathLike) -> str:
    """A folder or a Hub id as it is, and the folder of a model that comes with the package by its name.

    That name always means the model of the package: a folder of the same name in the working directory is ``./NAME``.

    Raises
    ------
    FileNotFoundError
        When it has the form of a name, and there is no such model.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"source is of type {type(source).__name__}, but must be a folder, the id of a model on the Hub, or the "
            "name of one that comes with the package."
        )
    name = os.fspath(source)
    if not re.fullmatch(r"[\w-]+", name):
        return name
    hidden = Path(name).is_dir()
    if hidden and name not in bundled_models():
        return name
    if hidden:
        logger.warning("'%s' is the model of this package. The folder of that name here is './%s'.", name, name)
    return str(find_bundled(name))


def _hint(files: ModelFiles, hparams_file: str) -> str:
    """What a folder may be instead of a model."""
    if files.folder is None:
        return ""
    if (files.folder / "codec.json").is_file():
        return f" It holds a codec: load it with {KINDS['codec']}."
    return _inner_models(files, hparams_file)


def _inner_models(files: ModelFiles, hparams_file: str) -> str:
    """Which folders in that of a model are meant perhaps."""
    if files.folder is None:
        return ""
    inner = sorted(path.parent for path in files.folder.glob(f"*/{hparams_file}"))
    inner = [path for path in inner if path.name == "inference"] or inner
    names = [f"'{path}'" for path in inner[:5]]
    return f" Did you mean {' or '.join(names)}?" if names else ""


class Pretrained(interfaces.Pretrained):
    """Base of all classes that load trained models: SpeechBrain's ``Pretrained``, for models that are not trusted.

    Attributes
    ----------
    source_files : ModelFiles
        Where the files of the model are.
    """

    source_files: ModelFiles

    MODULES_NEEDED: ClassVar[list[str]] = []
    HPARAMS_NEEDED: ClassVar[list[str]] = []
    LACKING: ClassVar[dict[str, str]] = {}
    """What to say of a model that lacks something, although it is of this kind."""

    def on_loaded(self) -> None:
        """Load what else belongs to the model; called when it has its weights and its ``source_files``."""

    @classmethod
    def from_hparams(  # type: ignore[override]  # SpeechBrain's takes the same by keyword
        cls: type[Model],
        source: str | os.PathLike,
        hparams_file: str = SETTINGS,
        overrides: str | Mapping[str, Any] | None = None,
        overrides_must_match: bool = True,
        savedir: str | os.PathLike | None = None,
        download_only: bool = False,
        local_strategy: LocalStrategy = LocalStrategy.SYMLINK,
        fetch_config: FetchConfig | None = None,
        *,
        trust_yaml: bool = False,
        sources: Iterable[str] = (),
        revision: str | None = None,
        token: bool | str | None = None,
        run_opts: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Model:
        """Load a trained model.

        Arguments
        ---------
        source : str or Path
            A folder, the Hub id of a model, or the name of one that comes with the package.
        hparams_file : str
            The file that says what is built.
        overrides : str or mapping, optional
            Values to replace in it.
        overrides_must_match : bool
            Whether a replaced key must exist.
        savedir : str or Path, optional
            A folder that gets a link to each file of the model, or a copy. By default none is made: files from the Hub
            stay in its cache.
        download_only : bool
            Whether the files are only fetched; nothing is built, and None is returned.
        local_strategy : speechbrain.utils.fetching.LocalStrategy
            Whether ``savedir`` gets links or copies.
        fetch_config : speechbrain.utils.fetching.FetchConfig, optional
            SpeechBrain's options of downloads.
        trust_yaml : bool
            Whether the file may build and call anything, as SpeechBrain's own classes let it. It can then run any
            program on this machine.
        sources : iterable of str
            Other models on the Hub that this one may download, such as ``facebook/wav2vec2-large-lv60``.
        revision, token
            The version of a model on the Hub, and the token to read it with; by default that of ``hf auth login`` or
            of the variable ``HF_TOKEN``, if there is one.
        run_opts : mapping, optional
            SpeechBrain's run options: ``device``, and ``precision`` of the inference: ``fp32``, ``bf16``, ``int8`` on a
            CPU or ``fp16`` on a GPU. On a CPU the weights are reduced once, in memory; one that has no instructions for
            a precision computes in fp32, which is told. By default ``fp32``, and ``int8`` for a model that was exported
            with weights of 8-bit integers.
        **options
            Further arguments of the class.

        Returns
        -------
        Pretrained
            The model, in evaluation mode.

        Raises
        ------
        FileNotFoundError
            When the model has not all files, or does not exist.
        ValueError
            When it asks for more than a model needs, is of another kind, or its weights are damaged, missing, extra or
            misshapen.
        """
        opened = open_model(
            source,
            hparams_file,
            overrides,
            overrides_must_match,
            savedir,
            local_strategy,
            fetch_config,
            trust_yaml=trust_yaml,
            sources=sources,
            revision=revision,
            token=token,
        )
        if download_only:
            opened.find_files()
            return None  # type: ignore[return-value]  # as SpeechBrain's
        return opened.load(cls, run_opts, **options)


def load_any(source: str | os.PathLike, kinds: Mapping[str, type[Model]], **options: Any) -> Model:
    """Load a model of one of several kinds.

    Arguments
    ---------
    source : str or Path
        As of :meth:`Pretrained.from_hparams`, whose other arguments are taken too.
    kinds : mapping of str to type
        The classes by kind, of :data:`KINDS`.

    Raises
    ------
    ValueError
        When the model is of none of these kinds: the message says of which one it is, and what loads it.
    """
    run_opts = options.pop("run_opts", None)
    names = {"hparams_file", "overrides", "overrides_must_match", "savedir", "local_strategy", "fetch_config"}
    names |= {"trust_yaml", "sources", "revision", "token"}
    opened = open_model(source, **{name: options.pop(name) for name in names & options.keys()})
    if opened.kind is not None and opened.kind in kinds:
        return opened.load(kinds[opened.kind], run_opts, **options)
    advice = f": load it with {KINDS[opened.kind]}" if opened.kind else ""
    raise ValueError(
        f"'{source}' holds {'a ' + opened.kind if opened.kind else 'another kind of model'}, but a "
        f"{' or a '.join(kinds)} is needed{advice}."
    )


__all__ = ["KINDS", "OpenedModel", "Pretrained", "find_kind", "load_any", "open_model"]

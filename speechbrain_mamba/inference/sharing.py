"""Folders of models to share, and the way to the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

from speechbrain_mamba import __version__
from speechbrain_mamba.codecs import SETTINGS as CODEC_SETTINGS
from speechbrain_mamba.codecs import load_codec
from speechbrain_mamba.inference.bundled import CARD
from speechbrain_mamba.inference.conversion import RECORD as CONVERSION
from speechbrain_mamba.inference.judges import load_speaker_encoder
from speechbrain_mamba.inference.model_card import INTEGERS, UNKNOWN, CardFacts, address_card, read_metadata, write_card
from speechbrain_mamba.inference.pretrained import SETTINGS, find_source, open_model
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.run_facts import RunFacts, read_run
from speechbrain_mamba.inference.separation import SpeechSeparator
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.nnet.mixers import describe_mixers
from speechbrain_mamba.nnet.reduced_linear import count_numbers, integer_state
from speechbrain_mamba.training.init_source import EXPORTS
from speechbrain_mamba.utils.files import atomic_path, write_json
from speechbrain_mamba.utils.hub_errors import explain_failure, hub_failures
from speechbrain_mamba.utils.pretrained import refuse_link_outside
from speechbrain_mamba.utils.weights import CHECKPOINT, SAFETENSORS, holds_integers, read_weights, write_weights

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
"""The file of a shared folder with all that was measured, for programs."""

EXPORTED = ("fp32", "int8")
"""Precisions of the weights of a shared folder."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_REPOSITORY = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(?<![.-])", re.ASCII)


@dataclass(frozen=True)
class SharedModel:
    """A folder that was written for sharing.

    Attributes
    ----------
    folder : Path
        The folder.
    kind : str
        What it is: a separator, a recognizer, a synthesizer, a speaker encoder or a codec.
    parameters : int
        Numbers in its weights.
    files : dict of str to int
        The bytes of each file.
    """

    folder: Path
    kind: str
    parameters: int
    files: dict[str, int]


def export_model(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    license: str | None = None,
    language: str | None = None,
    repository: str | None = None,
    safetensors_only: bool = False,
    precision: str = "fp32",
) -> SharedModel:
    """Write a folder to share: settings, weights, what belongs to them, scores, and a card.

    The model is loaded from the new folder without trusting it, and run once. The folder appears if that went well.

    Arguments
    ---------
    source : str or Path
        The output folder of a run, a folder that one left (``inference/``, ``codec/``), or the name of a model that
        comes with the package. A card that is there is kept.
    out : str or Path
        The new folder; it must not exist.
    license : str, optional
        The license of the weights, as the Hub calls it: ``apache-2.0``, ``cc-by-4.0``.
    language : str, optional
        The language that it is for, English by default.
    repository : str, optional
        The id that it will have on the Hub, for the examples of the card; by default they name the folder.
    safetensors_only : bool
        Whether weights are written as safetensors alone. SpeechBrain's own classes read ``.ckpt``.
    precision : str
        ``fp32`` keeps the weights as they are. ``int8`` writes those as 8-bit integers of which inference in int8 would
        make such on loading: the folder has about a third of the size, computes in int8 unless told otherwise,
        and only classes of this package load it.

    Raises
    ------
    FileNotFoundError, FileExistsError
        When there is no model, or ``out`` is there already.
    ValueError
        When the model cannot be loaded, what it computes is not finite, a name is not one of the Hub, or a card that is
        kept states another license or language.
    """
    if precision not in EXPORTED:
        raise ValueError(f"precision is '{precision}', but a model is exported in {' or '.join(EXPORTED)}.")
    target = Path(out)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"'{out}' exists and is not overwritten: choose another folder.")
    if license is not None and not _LICENSE.fullmatch(license):
        raise ValueError(f"license is '{license}', but must be the Hub's name of one, such as apache-2.0 or cc-by-4.0.")
    if repository is not None:
        check_repository(repository)
    run, folder = find_model(source)
    if (folder / CARD).is_file():
        _check_kept_card(folder, {"license": license, "language": language})
    with atomic_path(target) as temporary:
        temporary.mkdir(parents=True)
        _copy(folder, temporary, safetensors_only or precision == "int8")
        if precision == "int8":
            _make_integers(temporary)
        loaded = _try_out(temporary)
        facts, address = read_run(run), repository or os.fspath(out)
        integers = any(map(holds_integers, temporary.iterdir()))
        if (temporary / CARD).is_file():
            card = address_card((temporary / CARD).read_text(encoding="utf-8"), address)
            if integers and INTEGERS not in card:
                card = f"{card.rstrip()}\n\n## Weights\n\n{INTEGERS}\n"
        else:
            card = write_card(
                CardFacts(
                    loaded.kind, (repository or target.name).rpartition("/")[2], address, loaded.parameters,
                    loaded.sample_rate, license or UNKNOWN, language or "en", facts, _origin(run), loaded.mixers,
                    integers,
                )
            )  # fmt: skip
        (temporary / CARD).write_text(card, encoding="utf-8")
        write_json(temporary / METRICS, _metrics(loaded, facts))
        files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        if target.exists():
            target.rmdir()
    return SharedModel(target, loaded.kind, loaded.parameters, files)


def find_model(source: str | os.PathLike) -> tuple[Path, Path]:
    """The folder of a run, and the one of its model; both are the same without a run.

    Raises
    ------
    FileNotFoundError
        When there is none; the message says what to do.
    """
    folder = Path(find_source(source))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{source}': give the output folder of a training, an exported folder, or the name of "
            "a model that comes with the package."
        )
    for name in EXPORTS:
        if any((folder / name / file).is_file() for file in (SETTINGS, CODEC_SETTINGS)):
            return folder, folder / name
    if (folder / "save").is_dir() or (folder / "training.csv").is_file():
        raise FileNotFoundError(
            f"'{source}' has no folder {' or '.join(EXPORTS)}: its training is not finished. Give the same command "
            "again, with --test_only if it has been trained long enough."
        )
    if any((folder / file).is_file() for file in (SETTINGS, CODEC_SETTINGS)):
        run = folder.parent if folder.name in EXPORTS else folder
        return run, folder
    raise FileNotFoundError(f"'{source}' holds no model: it has neither {SETTINGS} nor {CODEC_SETTINGS}.")


def _check_kept_card(folder: Path, wanted: dict[str, str | None]) -> None:
    """Refuse what a card that is kept does not say."""
    stated = read_metadata(folder)
    for name, value in wanted.items():
        if value is not None and stated.get(name) != value:
            raise ValueError(
                f"'{folder}' has a card, which is kept, and its {name} is {stated.get(name, UNKNOWN)}, not {value}: "
                f"leave out the {name}, or change {CARD} there."
            )


def _copy(folder: Path, target: Path, safetensors_only: bool) -> None:
    """Copy the files of a model, with weights in both formats or in one."""
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        refuse_link_outside(folder, path)
        other = path.with_suffix(SAFETENSORS if path.suffix == CHECKPOINT else CHECKPOINT)
        if safetensors_only and path.suffix == CHECKPOINT and other.is_file():
            continue
        shutil.copyfile(path, target / path.name)
        floats = path.suffix == SAFETENSORS and path.stem != "codec" and not holds_integers(path)
        if floats and not other.is_file() and not safetensors_only:
            write_weights(target / other.name, read_weights(path))


def _make_integers(folder: Path) -> None:
    """Write the weights of a model again, those as 8-bit integers that can be."""
    opened = open_model(folder) if (folder / SETTINGS).is_file() else None
    kind = "codec" if opened is None else opened.kind or "model"
    if opened is None or kind not in _TRIALS:
        raise ValueError(
            f"The {kind} cannot be exported in int8: separators, recognizers and synthesizers can. Leave the precision "
            "out."
        )
    model: Any = opened.load(_TRIALS[kind][0], {"precision": "fp32"})
    for name, path in opened.find_files().items():
        part = model.hparams.pretrainer.loadables[name]
        if isinstance(part, nn.Module) and not isinstance(part, InputNormalization):
            stored, state = read_weights(path), integer_state(part, model.mods)
            for key in stored.keys() & state.keys():  # others than integers stay of the type that they have there
                if state[key].dtype == torch.float32:
                    state[key] = stored[key]
            write_weights(folder / f"{name}{SAFETENSORS}", state)
            if path.suffix == CHECKPOINT:
                path.unlink()


@dataclass(frozen=True)
class _Loaded:
    kind: str
    sample_rate: int
    parameters: int
    mixers: list[str]


def _try_out(folder: Path) -> _Loaded:
    """Load a model from its folder, and run it on a second of noise."""
    generator = torch.Generator().manual_seed(0)

    def noise(rate: int) -> Tensor:
        return 0.1 * torch.randn(rate, generator=generator)

    if not (folder / SETTINGS).is_file():
        codec = load_codec(folder)
        with torch.no_grad():
            wav = noise(codec.sample_rate)[None]
            speech, _ = codec.decode(*codec.encode(wav, torch.tensor([wav.shape[1]])))
        _check("codec", speech)
        return _describe("codec", codec.sample_rate, {"codec": codec})
    opened = open_model(folder)
    if opened.kind == "speaker encoder":
        rate = int(opened.plan.get("sample_rate", 16000))  # SpeechBrain's, if the file does not say
        _check(opened.kind, load_speaker_encoder(os.fspath(folder))(noise(rate), rate))
        weights = [path for path in folder.glob(f"*{SAFETENSORS}")] or [folder / f"embedding_model{CHECKPOINT}"]
        return _Loaded(opened.kind, rate, sum(v.numel() for p in weights for v in read_weights(p).values()), [])
    try_out = _TRIALS.get(opened.kind or "")
    if try_out is None:
        raise ValueError(f"'{folder}' holds no model that this package shares (modules: {', '.join(opened.modules)}).")
    cls, run = try_out
    model = opened.load(cls)
    with torch.no_grad():
        _check(str(opened.kind), run(model, noise(model.sample_rate)))
    parts = dict(model.mods.items()) | ({"codec": model.codec} if opened.kind == "synthesizer" else {})
    return _describe(str(opened.kind), model.sample_rate, parts)


def _check(kind: str, result: Tensor) -> None:
    if not result.isfinite().all():
        raise ValueError(f"The {kind} gives numbers that are not finite, for a second of noise: it is not exported.")


def _describe(kind: str, sample_rate: int, modules: Mapping[str, nn.Module]) -> _Loaded:
    parts = nn.ModuleDict(modules)
    return _Loaded(kind, sample_rate, count_numbers(parts), describe_mixers(parts))


def _try_synthesizer(synthesizer: Any, wav: Tensor) -> Tensor:
    codes, lengths = synthesizer.codec.encode(wav[None], torch.tensor([len(wav)]))
    return synthesizer.codec.decode(codes, lengths)[0]


def _try_recognizer(recognizer: Any, wav: Tensor) -> Tensor:
    recognizer.transcribe_batch([wav])
    return recognizer.mods.encoder(wav[None], torch.ones(1)).clamp(min=-1e4)  # the logarithm of 0 is in order


_TRIALS: Mapping[str, tuple[Any, Callable[[Any, Tensor], Tensor]]] = {
    "separator": (SpeechSeparator, lambda model, wav: model.separate_batch(wav)),
    "recognizer": (Recognizer, _try_recognizer),
    "synthesizer": (SpeechSynthesizer, _try_synthesizer),
}


def _origin(run: Path) -> str:
    """A sentence on a conversion, if the weights come from one."""
    if not (run / CONVERSION).is_file():
        return ""
    made = json.loads((run / CONVERSION).read_text(encoding="utf-8"))
    many = len(made["checkpoints"])
    epochs = sorted({entry["epoch"] for entry in made["checkpoints"]})
    return (
        f"The weights were not trained with this package: they were converted from {many} published "
        f"checkpoint{'' if many == 1 else 's'} (epoch {', '.join(map(str, epochs))}) of `{made['hparams']}`."
    )


def _metrics(loaded: _Loaded, facts: RunFacts) -> dict[str, Any]:
    return {
        "kind": loaded.kind, "parameters": loaded.parameters, "sample_rate": loaded.sample_rate,
        "results": [
            {"test": one.name, **one.counts, **{score.key: score.value for score in one.scores}}
            for one in facts.results
        ],
        "settings": facts.settings, "epochs": facts.epochs, "hours": round(facts.hours, 3), "version": __version__,
    }  # fmt: skip


def check_repository(name: str) -> None:
    """Refuse what is not an id of a model on the Hub.

    Example
    -------
    >>> check_repository("model")
    Traceback (most recent call last):
    ValueError: 'model' is not the id of a model on the Hub: give NAME/MODEL, such as 'me/separator'.
    """
    if not _REPOSITORY.fullmatch(name):
        raise ValueError(f"'{name}' is not the id of a model on the Hub: give NAME/MODEL, such as 'me/separator'.")


def push_model(
    folder: str | os.PathLike,
    repository: str,
    *,
    private: bool | None = None,
    branch: str | None = None,
    message: str | None = None,
) -> str:
    """Upload a folder that :func:`export_model` wrote to the Hub, in one commit.

    The repository is made if it does not exist. The examples of its card load the model from there. The token is that
    of ``hf auth login`` or of the variable ``HF_TOKEN``.

    Arguments
    ---------
    folder : str or Path
        The folder.
    repository : str
        The id, ``NAME/MODEL``.
    private : bool, optional
        Whether a new repository is private; by default as the account has it.
    branch : str, optional
        The branch, which is made if it does not exist; by default ``main``.
    message : str, optional
        The message of the commit.

    Returns
    -------
    str
        The address of the commit.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is not complete, or the id is not one of the Hub.
    PermissionError
        When the Hub does not let one write there.
    ConnectionError
        When the Hub cannot be reached or a transfer breaks.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repository(repository)
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}': write one with 'speechbrain-mamba export'.")
    if not any((root / name).is_file() for name in (SETTINGS, CODEC_SETTINGS)) or (root / "save").is_dir():
        raise ValueError(
            f"'{folder}' is not an exported model: write one with 'speechbrain-mamba export {folder} OUT'."
        )
    if read_metadata(root).get("license", UNKNOWN) == UNKNOWN:
        logger.warning("The card of '%s' states no license, so that nobody may use the weights: see export.", folder)
    card = address_card((root / CARD).read_text(encoding="utf-8"), repository)
    operations = [CommitOperationAdd(CARD, card.encode())]
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name != CARD and not any(part.startswith(".") for part in path.relative_to(root).parts):
            refuse_link_outside(root, path)
            operations.append(CommitOperationAdd(name, path))
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        told = message or f"Add a model exported by speechbrain_mamba {__version__}"
        commit = api.create_commit(repository, operations, commit_message=told, revision=branch)
    except hub_failures() as error:
        raise _not_pushed(repository, error) from error
    return str(commit.commit_url)


def _not_pushed(repository: str, error: Exception) -> OSError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = PermissionError if status in (401, 403) else ConnectionError
    return kind(f"'{repository}' was not written on the Hub: {explain_failure(error)}.")


__all__ = ["SharedModel", "export_model", "find_model", "push_model"]

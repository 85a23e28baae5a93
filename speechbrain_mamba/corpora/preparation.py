"""The preparation that a recipe's hyper-parameters ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain_mamba.corpora.folder import prepare_folder
from speechbrain_mamba.corpora.fsdd import prepare_fsdd_mixtures
from speechbrain_mamba.corpora.fsdd_digits import prepare_fsdd_digits
from speechbrain_mamba.corpora.joint import prepare_joint
from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.corpora.mini.prepare import prepare_mini
from speechbrain_mamba.corpora.mixtures import manifest_paths
from speechbrain_mamba.corpora.speech_to_intent import prepare_speech_to_intent
from speechbrain_mamba.corpora.wsj0mix import prepare_wsj0mix
from speechbrain_mamba.dataio.listed_audio import check_listed_audio
from speechbrain_mamba.dataio.manifests import find_manifests
from speechbrain_mamba.dataio.mixture_dataset import MIXTURE_COLUMNS


def prepare_separation(hparams: Mapping[str, Any]) -> dict[str, Path]:
    """Make the manifests of ``train``, ``valid`` and ``test``, and if need be the mixtures, of a separation experiment.

    Arguments
    ---------
    hparams : mapping
        ``corpus`` (``wsj0mix``, ``fsdd``, ``speech_to_intent``, ``folder``, ``mini`` or ``joint``), ``data_folder``,
        ``save_folder``, ``num_spks``, ``sample_rate`` and ``dynamic_mixing``; for ``wsj0mix`` also ``base_folder_dm``,
        and for the others ``mixture_seconds``, ``train_mixtures``, ``valid_mixtures``, ``test_mixtures`` and ``seed``;
        for ``mini`` and ``joint`` also ``mini_corpus``, settings of the corpus; and for ``joint``, instead of
        ``data_folder``, a list of ``joint_corpora``.

    Raises
    ------
    FileNotFoundError, ValueError
        When the corpus is unknown, or the data or a setting are wrong.
    """
    corpus, data_folder, save_folder = hparams["corpus"], hparams["data_folder"], hparams["save_folder"]
    settings = {key: hparams[key] for key in ("num_spks", "sample_rate")}
    if corpus == "wsj0mix":
        speech = hparams["base_folder_dm"] if hparams["dynamic_mixing"] else None
        if hparams["dynamic_mixing"] and speech is None:
            raise ValueError(
                "Dynamic mixing draws from clean utterances: set base_folder_dm to their folder (si_tr_s of WSJ0), or "
                "dynamic_mixing to False."
            )
        return prepare_wsj0mix(data_folder, save_folder, **settings, base_folder_dm=speech)
    keys = ("dynamic_mixing", "train_mixtures", "valid_mixtures", "test_mixtures", "seed")
    settings |= {"seconds": hparams["mixture_seconds"], **{key: hparams[key] for key in keys}}
    if corpus == "joint":
        return prepare_joint(hparams["joint_corpora"], save_folder, hparams["mini_corpus"], **settings)
    if corpus == "fsdd":
        return prepare_fsdd_mixtures(data_folder, save_folder, **settings)
    if corpus == "speech_to_intent":
        return prepare_speech_to_intent(data_folder, save_folder, **settings)
    if corpus == "mini":
        build_mini_corpus(data_folder, **{"sample_rate": hparams["sample_rate"], **hparams["mini_corpus"]})
    elif corpus != "folder":
        known = "wsj0mix, fsdd, speech_to_intent, folder, mini and joint"
        raise ValueError(f"corpus is '{corpus}', but must be one of {known}.")
    return prepare_folder(data_folder, save_folder, **settings)


def _recognition_splits(hparams: Mapping[str, Any]) -> dict[str, list[str]]:
    """The parts of the corpus that each manifest lists; a ValueError names a key without any."""
    needed = ("valid_splits",) if hparams.get("train_shards") else ("train_splits", "valid_splits")
    for key in (*needed, "test_splits"):
        parts = hparams[key]
        if not isinstance(parts, (list, tuple)) or not (parts or key == "test_splits"):
            least = "a list, empty for no test," if key == "test_splits" else "a list of at least one part"
            raise ValueError(
                f"{key} is {parts!r}, but must be {least} of the corpus, or of manifests with corpus manifest: "
                f"--{key} '[NAME]'."
            )
    taken = {"train", "valid"}.intersection(hparams["test_splits"])
    if taken:
        raise ValueError(
            f"test_splits names {' and '.join(sorted(taken))}, but the manifests of training and validation have these "
            "names: give the part of the corpus, or the manifest, another one."
        )
    splits = {"train": hparams["train_splits"], "valid": hparams["valid_splits"]}
    if hparams.get("train_shards"):
        del splits["train"]  # trained on instead
    return splits | {name: [name] for name in hparams["test_splits"]}


def recognition_manifests(hparams: Mapping[str, Any]) -> dict[str, list[Path]]:
    """The paths of the manifests of a recognition experiment: of ``train``, ``valid`` and each test set.

    Arguments
    ---------
    hparams : mapping
        ``corpus``, ``train_splits``, ``valid_splits``, ``test_splits``, and ``data_folder`` if the corpus is
        ``manifest``, else ``save_folder``.

    Returns
    -------
    dict of str to list of Path
        The files of each, which :func:`~speechbrain_mamba.dataio.manifests.read_manifest` reads as one. Only your own
        manifests can be more than one.

    Example
    -------
    >>> splits = {"train_splits": ["clean.csv", "other.csv"], "valid_splits": ["dev.csv"], "test_splits": []}
    >>> recognition_manifests({"corpus": "manifest", "data_folder": "lists", **splits})["train"]
    [PosixPath('lists/clean.csv'), PosixPath('lists/other.csv')]
    >>> recognition_manifests({"corpus": "librispeech", "save_folder": "save", **splits})["train"]
    [PosixPath('save/train.csv')]
    """
    splits = _recognition_splits(hparams)
    if hparams["corpus"] == "manifest":
        return {name: [Path(hparams["data_folder"]) / file for file in files] for name, files in splits.items()}
    return {name: [Path(hparams["save_folder"]) / f"{name}.csv"] for name in splits}


def prepare_recognition(hparams: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Make the manifests of :func:`recognition_manifests`, and if need be the speech. Your own manifests and all files
    that they list are checked.

    Arguments
    ---------
    hparams : mapping
        What :func:`recognition_manifests` takes, with a ``corpus`` of ``librispeech``, ``fsdd``, ``mini`` or
        ``manifest``; also ``data_folder``, ``save_folder`` and ``sample_rate``; for ``fsdd`` also ``seed``, and for
        ``mini`` also ``mini_corpus``, settings of the corpus.

    Raises
    ------
    FileNotFoundError, ValueError
        When the corpus is unknown, a split for training or validation is empty, or the data or a setting are wrong.
    """
    corpus, splits = hparams["corpus"], _recognition_splits(hparams)
    options = {key: hparams[key] for key in ("data_folder", "save_folder", "sample_rate")}
    if corpus == "librispeech":
        prepare_librispeech(**options, splits=splits)
    elif corpus == "mini":
        prepare_mini(**{**options, **hparams["mini_corpus"]}, splits=splits)
    elif corpus == "fsdd":
        prepare_fsdd_digits(**options, seed=hparams["seed"])
    elif corpus == "manifest":
        files = recognition_manifests(hparams).values()
        check_listed_audio(files, hparams["sample_rate"], hparams["data_folder"], memory=_memory(hparams))
    else:
        raise ValueError(f"corpus is '{corpus}', but must be one of librispeech, fsdd, manifest and mini.")
    return recognition_manifests(hparams)


def check_manifests(hparams: Mapping[str, Any]) -> None:
    """Check the manifests of ``train``, ``valid`` and ``test`` in a folder, and all audio that they list.

    Arguments
    ---------
    hparams : mapping
        ``manifest_folder``, ``data_root``, ``sample_rate``, and ``save_folder``, which remembers what was checked.

    Raises
    ------
    FileNotFoundError, ValueError
        When a manifest is missing, or one or its audio is wrong.
    """
    files = find_manifests(hparams["manifest_folder"]).values()
    check_listed_audio(files, hparams["sample_rate"], hparams["data_root"], memory=_memory(hparams))


def check_mixtures(hparams: Mapping[str, Any]) -> None:
    """Check the manifests of a separation experiment that were not made by :func:`prepare_separation`, and all audio
    that they list.

    Arguments
    ---------
    hparams : mapping
        ``save_folder``, where the manifests are, ``data_folder``, ``sample_rate`` and ``dynamic_mixing``.

    Raises
    ------
    FileNotFoundError, ValueError
        When a manifest is missing, or one or its audio is wrong.
    """
    manifests = manifest_paths(hparams["save_folder"], hparams["dynamic_mixing"])
    rate, root = hparams["sample_rate"], hparams["data_folder"]
    if hparams["dynamic_mixing"]:
        check_listed_audio([manifests.pop("train")], rate, root, ("duration", "wav", "spk_id"), _memory(hparams))
    check_listed_audio(manifests.values(), rate, root, MIXTURE_COLUMNS, _memory(hparams))


def _memory(hparams: Mapping[str, Any]) -> Path:
    return Path(hparams["save_folder"]) / "checked_manifests.json"

"""WSJ0-2mix and WSJ0-3mix (Hershey et al., 2016), and other data in the same layout::

    <data_folder>/2speakers/wav8k/min/{tr,cv,tt}/{mix,s1,s2}/*.wav
    <data_folder>/3speakers/wav8k/min/{tr,cv,tt}/{mix,s1,s2,s3}/*.wav

``data_folder`` may be the folder ``2speakers`` or ``3speakers`` itself. The mixtures exist already; only their
manifests are made here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from speechbrain_mamba.corpora.mixtures import manifest_paths
from speechbrain_mamba.dataio.audio import UnreadableAudioError, check_audio
from speechbrain_mamba.dataio.audio_files import SkippedFiles, list_faults, skip_reason
from speechbrain_mamba.dataio.manifests import write_manifest
from speechbrain_mamba.dataio.mixture_dataset import source_keys
from speechbrain_mamba.dataio.utterances import scan_speakers, write_utterances
from speechbrain_mamba.utils.parallel import parallel_map
from speechbrain_mamba.utils.stamps import Stamp

_SUBSETS = {"train": "tr", "valid": "cv", "test": "tt"}
_RATES = {8000: "wav8k", 16000: "wav16k"}


def wsj0_speaker(path: Path) -> str:
    """The speaker of a file of WSJ0: the first three characters of its name."""
    return path.name[:3]


def _find_mixtures(data_folder: Path, num_spks: int, sample_rate: int, mode: str) -> Path:
    """The folder that holds ``tr``, ``cv`` and ``tt``."""
    if sample_rate not in _RATES:
        raise ValueError(f"sample_rate is {sample_rate}, but WSJ0-mix has 8000 and 16000 Hz.")
    if mode not in ("min", "max"):
        raise ValueError(f"mode is '{mode}', but must be 'min' (cut to the shortest source) or 'max'.")
    if data_folder.name.endswith("speakers") and data_folder.name != f"{num_spks}speakers":
        raise ValueError(f"num_spks is {num_spks}, but the data folder is '{data_folder}': change one of them.")
    below = Path(_RATES[sample_rate]) / mode
    for root in (data_folder, data_folder / f"{num_spks}speakers"):
        if all((root / below / subset / "mix").is_dir() for subset in _SUBSETS.values()):
            return root / below
    raise FileNotFoundError(
        f"The data folder '{data_folder}' has no mixtures: expected are {num_spks}speakers/{below}/{{tr,cv,tt}}/"
        f"{{mix,{','.join(source_keys(num_spks))}}}/*.wav in it."
    )


def _subset_rows(
    folder: Path, data_folder: Path, num_spks: int, sample_rate: int, skipped: SkippedFiles
) -> list[dict[str, Any]]:
    """The rows of one subset, without mixtures of which a file cannot be used."""
    found = sum((folder / key).is_dir() for key in source_keys(9))
    if found != num_spks:
        raise ValueError(
            f"num_spks is {num_spks}, but '{folder}' has the sources of {found} speakers: set num_spks to {found}, or "
            "choose another data folder."
        )

    def describe(path: Path) -> dict[str, Any] | Exception:
        files = {name: folder / name / path.name for name in ("mix", *source_keys(num_spks))}
        try:
            lengths = {name: check_audio(file, sample_rate).samples for name, file in files.items()}
        except (ValueError, FileNotFoundError) as error:
            return error
        if len(set(lengths.values())) > 1:
            return UnreadableAudioError(
                f"The files of the mixture '{path.stem}' in '{folder}' have unequal lengths {lengths}.",
                "unequal lengths",
            )
        below = {name: file.relative_to(data_folder).as_posix() for name, file in files.items()}
        wavs = {f"{name}_wav": f"$data_root/{file}" for name, file in below.items()}
        return {"ID": path.stem, "duration": lengths["mix"] / sample_rate, **wavs}

    mixtures = sorted(path for path in (folder / "mix").glob("*.wav") if not path.name.startswith("."))
    rows, wrong = [], []
    for path, result in zip(mixtures, parallel_map(describe, mixtures, f"Reading {folder.name}", "mixture")):
        if isinstance(result, dict):
            rows.append(result)
        elif reason := skip_reason(result):
            skipped.add(path, reason, f"the mixture '{path.stem}': {result}")
        else:
            wrong.append(str(result))
    if wrong:
        raise ValueError(list_faults(f"{len(wrong)} of {len(mixtures)} mixtures have the wrong format", wrong))
    if not rows:
        raise ValueError(f"None of the {len(mixtures)} mixtures in '{folder}' can be used.")
    return rows


def prepare_wsj0mix(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    num_spks: int = 2,
    sample_rate: int = 8000,
    mode: str = "min",
    base_folder_dm: str | os.PathLike | None = None,
) -> dict[str, Path]:
    """Write the manifests of WSJ0-2mix or WSJ0-3mix.

    Arguments
    ---------
    data_folder : str or Path
        The folder that holds ``2speakers`` and ``3speakers``, or one of them.
    save_folder : str or Path
        Where ``train.csv``, ``valid.csv`` and ``test.csv`` go. Their paths begin with ``$data_root``, a
        placeholder for ``data_folder``. Mixtures of which a file cannot be used are left out; ``skipped.csv`` lists
        them.
    num_spks : int
        Speakers per mixture.
    sample_rate : int
        8000 or 16000.
    mode : str
        ``min`` or ``max``: mixtures as long as their shortest or longest source.
    base_folder_dm : str or Path, optional
        The speech of WSJ0's training set (``si_tr_s``) for dynamic mixing, as WAV files of this sample rate:
        ``train_utterances.csv`` is written too. The first three characters of a file's name are its speaker.

    Returns
    -------
    dict
        The manifests of ``train``, ``valid`` and ``test``; with ``base_folder_dm`` that of ``train`` is the list of
        utterances.

    Raises
    ------
    FileNotFoundError
        When the data folder lacks the mixtures, or ``base_folder_dm`` does not exist.
    ValueError
        When the data have another number of speakers, a file has another sample rate or is not mono, no file is
        usable, or an argument is out of range.
    """
    root, folder = Path(data_folder).absolute(), Path(save_folder).absolute()
    mixtures = _find_mixtures(root, num_spks, sample_rate, mode)
    speech = None if base_folder_dm is None else str(Path(base_folder_dm).absolute())
    parameters = {
        "data_folder": str(root), "num_spks": num_spks, "sample_rate": sample_rate, "mode": mode,
        "base_folder_dm": speech,
    }  # fmt: skip
    manifests = manifest_paths(folder, dynamic_mixing=speech is not None)
    stamp = Stamp(folder / "prepared.json", parameters)
    if stamp.is_done(manifests.values()):
        return manifests
    skipped = SkippedFiles()
    utterances = [] if speech is None else scan_speakers(speech, sample_rate, wsj0_speaker, skipped)
    rows = {
        split: _subset_rows(mixtures / subset, root, num_spks, sample_rate, skipped)
        for split, subset in _SUBSETS.items()
    }
    stamp.begin()
    if utterances:
        write_utterances(manifests["train"], utterances, sample_rate)
    for split in rows:
        write_manifest(folder / f"{split}.csv", rows[split])
    skipped.write(folder / "skipped.csv")
    stamp.finish()
    return manifests

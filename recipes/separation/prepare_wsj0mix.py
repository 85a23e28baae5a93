"""Manifests of WSJ0-2mix and WSJ0-3mix (Hershey et al., 2016), and of other data in the same layout::

    <data_folder>/2speakers/wav8k/min/{tr,cv,tt}/{mix,s1,s2}/*.wav
    <data_folder>/3speakers/wav8k/min/{tr,cv,tt}/{mix,s1,s2,s3}/*.wav

``data_folder`` may be the folder ``2speakers`` or ``3speakers`` itself. The mixtures are not made here; they exist.

    python recipes/separation/prepare_wsj0mix.py DATA_FOLDER SAVE_FOLDER --num_spks 2 --sample_rate 8000
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from speechbrain_mamba.corpora.mixtures import is_prepared, manifest_paths, mark_prepared, run_preparation
from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info
from speechbrain_mamba.dataio.mixture_dataset import source_keys
from speechbrain_mamba.dataio.utterances import parallel_map, scan_speakers, write_utterances, wsj0_speaker
from speechbrain_mamba.utils.files import write_csv

logger = logging.getLogger(__name__)

_SUBSETS = {"train": "tr", "valid": "cv", "test": "tt"}
_RATES = {8000: "wav8k", 16000: "wav16k"}


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


def _check_sources(folder: Path, num_spks: int) -> None:
    found = sum((folder / key).is_dir() for key in source_keys(9))
    if found != num_spks:
        raise ValueError(
            f"num_spks is {num_spks}, but '{folder}' has the sources of {found} speakers: set num_spks to {found}, or "
            "choose another data folder."
        )


def _subset_rows(folder: Path, data_folder: Path, num_spks: int, sample_rate: int) -> list[dict]:
    """The manifest of one subset. A mixture with a file that cannot be used is named and left out."""
    _check_sources(folder, num_spks)
    names = ["mix", *source_keys(num_spks)]

    def describe(path: Path) -> dict | None:
        files = {name: folder / name / path.name for name in names}
        try:
            lengths = {name: audio_info(file, sample_rate).samples for name, file in files.items()}
        except (UnreadableAudioError, FileNotFoundError) as error:
            logger.warning("Skipped the mixture '%s': %s", path.stem, error)
            return None
        if len(set(lengths.values())) > 1:
            logger.warning(
                "Skipped the mixture '%s' in '%s': its files have unequal lengths %s.", path.stem, folder, lengths
            )
            return None
        row = {"ID": path.stem, "duration": lengths["mix"] / sample_rate}
        return row | {f"{name}_wav": f"$data_root/{files[name].relative_to(data_folder).as_posix()}" for name in names}

    mixtures = sorted(path for path in (folder / "mix").glob("*.wav") if not path.name.startswith("."))
    rows = [row for row in parallel_map(describe, mixtures, f"Reading {folder.name}", "mixture") if row]
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
        Where ``train.csv``, ``valid.csv`` and ``test.csv`` go. Their paths begin with ``$data_root``, which stands
        for ``data_folder``.
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
    data_folder, save_folder = Path(data_folder).absolute(), Path(save_folder).absolute()
    mixtures = _find_mixtures(data_folder, num_spks, sample_rate, mode)
    speech = None if base_folder_dm is None else str(Path(base_folder_dm).absolute())
    parameters = {
        "data_folder": str(data_folder), "num_spks": num_spks, "sample_rate": sample_rate, "mode": mode,
        "base_folder_dm": speech,
    }  # fmt: skip
    manifests = manifest_paths(save_folder, dynamic_mixing=speech is not None)
    if is_prepared(save_folder, parameters, all(path.is_file() for path in manifests.values())):
        return manifests
    if speech is not None:
        utterances = scan_speakers(speech, sample_rate, speaker=wsj0_speaker)
        write_utterances(manifests["train"], utterances, sample_rate)
    columns = ["ID", "duration", *(f"{name}_wav" for name in ("mix", *source_keys(num_spks)))]
    for split, subset in _SUBSETS.items():
        rows = _subset_rows(mixtures / subset, data_folder, num_spks, sample_rate)
        write_csv(save_folder / f"{split}.csv", rows, columns)
    mark_prepared(save_folder, parameters)
    return manifests


def main(arguments: list[str] | None = None) -> None:
    """Run the preparation from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", help="folder of 2speakers and 3speakers, or one of these")
    parser.add_argument("save_folder", help="where the manifests go")
    parser.add_argument("--num_spks", type=int, default=2, help="speakers per mixture")
    parser.add_argument("--sample_rate", type=int, default=8000, help="8000 or 16000")
    parser.add_argument("--mode", default="min", help="min or max: as long as the shortest or the longest source")
    parser.add_argument("--base_folder_dm", help="WSJ0's training speech, for dynamic mixing")
    run_preparation(parser, prepare_wsj0mix, arguments)


if __name__ == "__main__":
    main()

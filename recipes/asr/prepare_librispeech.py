#!/usr/bin/env python3
"""List the utterances of LibriSpeech, or of a corpus that is laid out like it, in CSV files.

python recipes/asr/prepare_librispeech.py /path/to/LibriSpeech results/librispeech
"""

import argparse
import json
import logging
from pathlib import Path

from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info
from speechbrain_mamba.dataio.corpus import AUDIO_SUFFIXES, parallel_map
from speechbrain_mamba.dataio.recognition import write_transcripts
from speechbrain_mamba.utils.files import write_json

logger = logging.getLogger(__name__)

SPLITS = {
    "train": ["train-clean-100", "train-clean-360", "train-other-500"],
    "valid": ["dev-clean"],
    "test-clean": ["test-clean"],
    "test-other": ["test-other"],
}


def read_chapter(transcripts, sample_rate):
    """The rows of one chapter's utterances, from its transcripts and the headers of the audio files beside them."""
    rows = []
    for number, line in enumerate(transcripts.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, words = line.partition(" ")
        files = [transcripts.with_name(name + suffix) for suffix in AUDIO_SUFFIXES]
        wav = next((file for file in files if file.is_file()), None)
        if wav is None:
            logger.warning("Skipped: '%s', line %d, names '%s', of which there is no audio.", transcripts, number, name)
            continue
        try:
            info = audio_info(wav, sample_rate)
        except UnreadableAudioError as error:
            logger.warning("Skipped: %s", error)
            continue
        speaker = transcripts.parent.parent.name
        rows.append({"ID": name, "duration": info.seconds, "wav": str(wav), "wrd": words.strip(), "spk_id": speaker})
    return rows


def list_split(folder, sample_rate):
    """The rows of all utterances below a folder, sorted by id."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{folder}': unpack that part of the corpus there, or leave it out of the splits."
        )
    chapters = sorted(folder.rglob("*.trans.txt"))
    results = parallel_map(lambda path: read_chapter(path, sample_rate), chapters, f"Reading {folder.name}", "chapter")
    rows = sorted((row for rows in results for row in rows), key=lambda row: row["ID"])
    if not rows:
        raise ValueError(f"The folder '{folder}' has no transcribed speech: no *.trans.txt with audio files beside it.")
    return rows


def prepare_librispeech(data_folder, save_folder, splits=None, sample_rate=16000):
    """Write a CSV file per split. What an earlier call wrote for the same folders is kept.

    Arguments
    ---------
    data_folder : str or Path
        The corpus, with a folder per part.
    save_folder : str or Path
        Where the files go.
    splits : dict of str to list of str, optional
        The parts that make up each file; by default as is usual for 960 h.
    sample_rate : int
        The rate in Hz that all files must have.

    Returns
    -------
    dict of str to Path
        The files, with the columns ID, duration (seconds), wav, wrd and spk_id.
    """
    manifests = {}
    for name, parts in (splits or SPLITS).items():
        manifests[name] = Path(save_folder) / f"{name}.csv"
        stamp = Path(save_folder) / f"{name}.prepared.json"
        settings = {"data_folder": str(Path(data_folder).absolute()), "parts": list(parts), "sample_rate": sample_rate}
        if manifests[name].is_file() and stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == settings:
            continue
        rows = [row for part in parts for row in list_split(Path(data_folder).absolute() / part, sample_rate)]
        write_transcripts(manifests[name], rows)
        write_json(stamp, settings)
        hours = sum(row["duration"] for row in rows) / 3600
        logger.info("%s: %d utterances, %.2f hours.", manifests[name], len(rows), hours)
    return manifests


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_folder", help="the corpus")
    parser.add_argument("save_folder", help="where the CSV files go")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    prepare_librispeech(arguments.data_folder, arguments.save_folder)

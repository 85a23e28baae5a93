"""Codec tokens in shards: files that several machines can encode at once, in a folder that they share."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchaudio.functional
from tqdm import tqdm

from speechbrain_mamba.codecs.encodec import EnCodec
from speechbrain_mamba.dataio.audio import UnreadableAudioError, audio_info, read_audio
from speechbrain_mamba.utils.files import atomic_path

logger = logging.getLogger(__name__)

SHARD = 500
"""Utterances that are encoded and kept together. A killed preparation resumes from the last shard."""
_BATCH_SECONDS = 40
_FOLDER = ".parts"


class Shard(NamedTuple):
    """The utterances of a shard, of one split, and the file of their codes."""

    path: Path
    split: str
    names: list[str]


class TokenShards:
    """The codes of the utterances of some manifests, in shards. What a shard holds does not depend on who encodes it.

    Arguments
    ---------
    folder : str or Path
        The token folder; shards go to a hidden folder in it.
    settings : mapping
        All that decides on the codes, as values for JSON. Shards made with other settings are never read.
    splits : dict of str to mapping
        The utterances of each split, as returned by :func:`~speechbrain_mamba.dataio.manifests.read_manifest`.
    codec : EnCodec
        The codec, in evaluation mode where it shall run.
    device : str
        Where that is.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: Mapping[str, Any],
        splits: Mapping[str, Mapping[str, dict]],
        codec: EnCodec,
        device: str = "cpu",
    ) -> None:
        text = json.dumps({**settings, "shard": SHARD}, sort_keys=True)
        self.root = Path(folder) / _FOLDER
        self.folder = self.root / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.splits, self.codec, self.device = splits, codec, device

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split, in the order of its manifest."""
        names = list(self.splits[split])
        starts = range(0, len(names), SHARD)
        return [Shard(self.folder / f"{split}-{n:08d}.npz", split, names[n : n + SHARD]) for n in starts]

    def encode_part(self, part: int, parts: int) -> int:
        """Encode each of the shards that are numbered ``part`` among ``parts``, from 1, unless it is there already.
        Returns their number."""
        everything = [shard for split in self.splits for shard in self.shards(split)]
        own = everything[part - 1 :: parts]
        with self._progress(f"Encoding part {part} of {parts}", own) as progress:
            for shard in own:
                if _load(shard.path) is None:
                    self._encode(shard, progress)
                else:
                    progress.update(len(shard.names))
        return len(own)

    def check_complete(self) -> None:
        """Raise a ValueError if a shard is missing or damaged."""
        everything = [shard for split in self.splits for shard in self.shards(split)]
        missing = [shard.path.stem for shard in everything if _load(shard.path) is None]
        if missing:
            others = sorted(path.name for path in self.root.glob("*") if path != self.folder)
            hint = " Some were made with other settings, and are not used." if others else ""
            raise ValueError(
                f"{len(missing)} of {len(everything)} shards of tokens are missing or damaged in '{self.folder}': "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}.{hint} Give the commands with --part "
                "again, or this one without --merge, which encodes them itself."
            )

    def codes(self, split: str) -> Iterator[tuple[str, np.ndarray]]:
        """Names and codes, integers (frames, codebooks), of a split, in the order of its manifest. Shards that are
        missing are encoded; utterances whose sound cannot be read are named and left out."""
        shards, silent = self.shards(split), []
        with self._progress(f"Encoding {split}", shards) as progress:
            for shard in shards:
                kept = _load(shard.path)
                if kept is None:
                    kept = self._encode(shard, progress)
                else:
                    progress.update(len(shard.names))
                silent += [name for place, name in enumerate(shard.names) if place not in kept]
                yield from ((shard.names[place], codes) for place, codes in kept.items())
        if silent:
            logger.warning(
                "%d of %d utterances for %s are left out, as their sound cannot be read: %s%s",
                len(silent), len(self.splits[split]), split, ", ".join(silent[:5]), ", ..." if len(silent) > 5 else ".",
            )  # fmt: skip

    def remove(self) -> None:
        """Remove all shards, those made with other settings too."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _progress(self, description: str, shards: list[Shard]) -> tqdm:
        return tqdm(total=sum(len(shard.names) for shard in shards), desc=description, unit="utterance")

    def _encode(self, shard: Shard, progress: tqdm) -> dict[int, np.ndarray]:
        """Encode a shard: the codes of its utterances by place, without those that cannot be read."""
        items, codes = self.splits[shard.split], {}
        places = {name: place for place, name in enumerate(shard.names)}
        for batch in _batches({name: items[name]["duration"] for name in shard.names}):
            wavs = {}
            for name in batch:
                try:
                    wavs[name] = _read(items[name]["wav"], self.codec.sample_rate)
                except UnreadableAudioError as error:
                    logger.warning("%s is left out: %s", name, error)
            if wavs:
                lengths = torch.tensor([len(wav) for wav in wavs.values()])
                padded = torch.nn.utils.rnn.pad_sequence(list(wavs.values()), batch_first=True)
                encoded, frames = self.codec.encode(padded.to(self.device), lengths.to(self.device))
                for name, code, count in zip(wavs, encoded.cpu().numpy(), frames.tolist()):
                    codes[places[name]] = code[:count].astype(np.uint16)
            progress.update(len(batch))
        codes = dict(sorted(codes.items()))
        with atomic_path(shard.path) as temporary:
            np.savez(temporary, **{str(place): code for place, code in codes.items()})
        return codes


def _read(path: str, rate: int) -> torch.Tensor:
    return torchaudio.functional.resample(read_audio(path), audio_info(path).sample_rate, rate)


def _batches(durations: dict[str, float]) -> Iterator[list[str]]:
    """Names by duration, in batches limited in their seconds with padding."""
    batch: list[str] = []
    for name in sorted(durations, key=durations.__getitem__):
        if batch and (len(batch) + 1) * durations[name] > _BATCH_SECONDS:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def _load(path: Path) -> dict[int, np.ndarray] | None:
    """Read a shard: codes by place; None if it is missing or damaged."""
    try:
        with np.load(path) as kept:
            return {int(place): kept[place] for place in kept}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("'%s' is damaged: %s", path, error)
        return None

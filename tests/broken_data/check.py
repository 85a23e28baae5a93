"""Prepare broken data as the recipes do, and account for every file."""

from __future__ import annotations

import csv
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechbrain_mamba.corpora.folder import prepare_folder
from speechbrain_mamba.dataio.listed_audio import check_listed_audio
from speechbrain_mamba.dataio.manifests import read_manifest
from speechbrain_mamba.dataio.utterances import scan_speakers
from speechbrain_mamba.utils.terminal import printable
from tests.broken_data.audio import IGNORED, RATE, SKIPPED, USABLE, WRONG, Broken
from tests.broken_data.manifests import BrokenManifest

SETTINGS: dict[str, Any] = {
    "sample_rate": RATE,
    "seconds": (0.05, 0.1),
    "valid_mixtures": 2,
    "test_mixtures": 2,
    "dynamic_mixing": True,
}


@dataclass
class Account:
    """What became of some data: counts by fate, what differs from what must be, and the seconds of each step."""

    fates: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def _message(action: Callable[..., object], *args: Any, **options: Any) -> str:
    try:
        action(*args, **options)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def check_audio_files(written: Sequence[Broken], speech: Path, save_folder: Path) -> Account:
    """Prepare a folder of broken audio: first with the files that are errors, which are then removed."""
    account, wrong = Account(), [broken for broken in written if broken.kind.fate == WRONG]
    start = time.perf_counter()
    message = _message(prepare_folder, speech, save_folder, **SETTINGS)
    account.seconds["refused for the wrong ones"] = time.perf_counter() - start
    listed = [broken for broken in wrong if broken.path in message and broken.kind.reason in message]
    if (wrong and (len(wrong) > 1) != (f"{len(wrong)} of " in message)) or len(listed) < min(10, len(wrong)):
        account.differences.append(f"{len(wrong)} files are wrong, but the message is: {message!r}")
    if save_folder.exists():
        account.differences.append(f"{save_folder} was written in spite of the error.")
    account.fates[WRONG] = len(wrong)
    for broken in wrong:
        os.unlink(broken.path)

    start = time.perf_counter()
    prepare_folder(speech, save_folder, **SETTINGS)
    account.seconds["prepared"] = time.perf_counter() - start
    start = time.perf_counter()
    prepare_folder(speech, save_folder, **SETTINGS)
    account.seconds["prepared again"] = time.perf_counter() - start
    usable = {utterance.path for utterance in scan_speakers(speech, RATE)}
    with open(save_folder / "skipped.csv", newline="", encoding="utf-8") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    train = {item["wav"] for item in read_manifest(save_folder / "train_utterances.csv", columns=["wav"]).values()}
    if not train <= usable:
        account.differences.append(f"Listed for training, but not usable: {sorted(train - usable)[:3]}")

    for broken in written:
        name = printable(broken.path)
        if broken.kind.fate == WRONG:
            continue
        got = USABLE if broken.path in usable else SKIPPED if name in reasons else IGNORED
        account.fates[got if got != SKIPPED else f"{SKIPPED}: {reasons[name]}"] += 1
        if (got, reasons.get(name, "")) != (broken.kind.fate, broken.kind.reason):
            account.differences.append(f"{name} ({broken.kind.name}) was {got} {reasons.get(name, '')}")
    unknown = (usable | set(reasons)) - {broken.path for broken in written} - {printable(b.path) for b in written}
    account.differences += [f"{path} was not written" for path in sorted(unknown)]
    return account


def check_manifest_of_all(written: Sequence[Broken], path: Path) -> Account:
    """List broken audio in a manifest, which must tell how many files cannot be used."""
    account = Account()
    rows = [b for b in written if b.kind.fate != IGNORED and "name" not in b.kind.reason]
    bad = [b for b in rows if b.kind.fate in (SKIPPED, WRONG) and not b.kind.in_samples]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "spk_id", "wav"])
        writer.writerows([f"u{number}", "x", broken.path] for number, broken in enumerate(rows))
    start = time.perf_counter()
    message = _message(check_listed_audio, [path], RATE, columns=["wav"])
    account.seconds["listed audio checked"] = time.perf_counter() - start
    if not message.startswith(f"{len(bad)} of {len(rows)} rows have audio that cannot be used:"):
        account.differences.append(f"{len(bad)} of {len(rows)} rows are bad, but the message is: {message[:200]!r}")
    account.fates = Counter({"refused": len(bad), "passed": len(rows) - len(bad)})
    return account


def check_manifests(written: dict[Path, BrokenManifest]) -> Account:
    """Read all manifests; each one that is broken must give its sentence, and a good one none."""
    account = Account()
    start = time.perf_counter()
    for path, kind in written.items():
        message = _message(read_manifest, path) if not kind.lists_audio else _message(check_listed_audio, [path], RATE)
        if kind.lists_audio and _message(read_manifest, path):
            account.differences.append(f"{path} cannot be read")
        expected = kind.message.replace("{folder}", str(path.parent))
        right = message.startswith(f"The manifest '{path}'") and message.endswith(expected)
        if (not right or "\n" in message) if kind.message else message:
            account.differences.append(f"{path.name}: {message or 'no message'}")
        account.fates["refused" if message else "read"] += 1
    account.seconds["manifests read"] = time.perf_counter() - start
    return account

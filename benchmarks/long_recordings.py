"""How much memory and time the separation of long recordings takes, and what stitching costs in quality.

    python benchmarks/long_recordings.py --minutes 1 10 60 --csv results/long_recordings.csv

separates files of noise that comes and goes, with an untrained model (memory and time do not depend on the weights),
each in a process of its own, so that peak memory is each one's.

    python benchmarks/long_recordings.py --source separator --speech /path/to/free-spoken-digit-dataset/recordings

mixes talks of two speakers from a folder of recordings, ``SPEAKER/**/*.wav`` or ``DIGIT_SPEAKER_TAKE.wav``, separates
them as a whole and in windows, and compares both with the true sources and with each other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional

from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from speechbrain_mamba.utils.memory import keep_freed_memory
from timing import write_table

RATE = 8000


def load_separator(arguments, folder):
    """A trained separator, or an untrained one of a hyper-parameter file."""
    if arguments.source:
        return SpeechSeparator.from_hparams(arguments.source)
    overrides = {"data_folder": "", "output_folder": str(folder / "run")}
    modules = load_hparams(arguments.hparams, overrides)["modules"]
    export_separator(folder / "model", read_hparams(arguments.hparams, overrides), modules)
    return SpeechSeparator.from_hparams(folder / "model")


def write_noise(path, minutes, rate, channels):
    """Write noise that comes and goes every few seconds, block by block."""
    generator = torch.Generator().manual_seed(0)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as file:
        for _ in range(round(6 * minutes)):
            levels = torch.rand(20, channels, generator=generator).square().repeat_interleave(rate // 2, 0)
            file.write((0.1 * levels * torch.randn(len(levels), channels, generator=generator)).numpy())


def measure(arguments):
    """Separate one file in this process."""
    if arguments.folder is not None:
        Path(arguments.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folder = Path(folder)
        write_noise(folder / "talk.wav", arguments.minutes[0], arguments.rate, arguments.channels)
        separator = load_separator(arguments, folder)
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        targets = [folder / f"speaker{i + 1}.wav" for i in range(separator.speakers)]
        options = {"window": arguments.window, "overlap": arguments.overlap, "batch_size": arguments.batch_size}
        started = time.perf_counter()
        result = separator.separate_recording(
            folder / "talk.wav", targets, channels="each" if arguments.channels > 1 else "mix", **options
        )
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "model": arguments.source or Path(arguments.hparams).stem,
        "minutes": arguments.minutes[0],
        "rate": arguments.rate,
        "channels": arguments.channels,
        "window": arguments.window,
        "overlap": arguments.overlap,
        "batch_size": arguments.batch_size,
        "threads": torch.get_num_threads(),
        "windows": result.windows,
        "seconds": seconds,
        "times_real_time": 60 * arguments.minutes[0] / seconds,
        "loaded_mb": loaded / 1024,
        "peak_mb": peak / 1024,
    }


# ------------------------------------------------------------ agreement


def read_speakers(folder):
    """The utterances of each speaker, at 8 kHz."""
    speakers: dict[str, list[Path]] = {}
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix in (".wav", ".flac")):
        top, *rest = path.relative_to(folder).parts
        speakers.setdefault(top if rest else path.stem.split("_")[1], []).append(path)
    return speakers


def talk(paths, seconds, generator, speaks):
    """Utterances of one speaker with short pauses, where ``speaks(time)`` is true, at -26 dB."""
    signal, now = torch.zeros(round(seconds * RATE)), 0.0
    while now < seconds:
        now += generator.uniform(0.05, 0.4)
        wav, rate = soundfile.read(generator.choice(paths), dtype="float32")
        wav = torchaudio.functional.resample(torch.from_numpy(wav), rate, RATE)
        begin = round(now * RATE)
        if not speaks(now) or begin + len(wav) > len(signal):
            now += 0.2
            continue
        signal[begin : begin + len(wav)] += 0.05 * wav / wav.square().mean().sqrt().clamp(min=1e-4)
        now += len(wav) / RATE
    return signal


TALKS = {
    "both all the time": (lambda t: True, lambda t: True),
    "second after a minute": (lambda t: True, lambda t: t > 60),
    "pauses of 7 s": (lambda t: t % 20 < 13, lambda t: t % 20 < 13),
    "in turns, pauses of 5 s": (lambda t: t % 26 < 8, lambda t: 13 < t % 26 < 21),
}


def si_sdr(estimate, source):
    """In dB, of signals (..., samples)."""
    scaled = source * (estimate * source).sum(-1, keepdim=True) / source.square().sum(-1, keepdim=True)
    return 10 * torch.log10(scaled.square().sum(-1) / (estimate - scaled).square().sum(-1))


def best_order(estimates, sources):
    """The order of the estimates in which they are closest to the sources."""
    orders = itertools.permutations(range(len(sources)))
    return list(min(orders, key=lambda order: (estimates[list(order)] - sources).square().sum().item()))


def swapped(estimates, sources, seconds=2.0):
    """The share of pieces in which another order of the estimates is closer to the sources."""
    size, wrong, pieces = round(seconds * RATE), 0, 0
    for guess, truth in zip(estimates.split(size, 1), sources.split(size, 1)):
        if truth.square().mean() > 1e-6:
            pieces += 1
            wrong += best_order(guess, truth) != list(range(len(sources)))
    return wrong / max(1, pieces)


def compare(arguments):
    """Separate mixtures of known sources as a whole and in windows."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        separator = load_separator(arguments, Path(folder))
    speakers, generator = read_speakers(arguments.speech), np.random.default_rng(0)
    names = sorted(speakers)
    pairs = list(itertools.combinations(names, separator.speakers))[: arguments.pairs]
    rows = []
    for name, turns in TALKS.items():
        for pair in pairs:
            sources = torch.stack(
                [talk(speakers[who], arguments.seconds, generator, turns[i % 2]) for i, who in enumerate(pair)]
            )
            mix = sources.sum(0)
            found = {}
            for kind, window in (("whole", None), ("windows", arguments.window)):
                found[kind] = separator.separate_long(mix, window=window, overlap=arguments.overlap)
            whole, windows = (found[kind].estimates[0].T for kind in ("whole", "windows"))
            whole, windows = whole[best_order(whole, sources)], windows[best_order(windows, sources)]
            base = si_sdr(mix, sources)
            rows.append(
                {
                    "talk": name,
                    "speakers": "+".join(pair),
                    "whole_si_sdri": (si_sdr(whole, sources) - base).mean().item(),
                    "windows_si_sdri": (si_sdr(windows, sources) - base).mean().item(),
                    "agreement_si_sdr": si_sdr(windows, whole).mean().item(),
                    "whole_swapped": swapped(whole, sources),
                    "windows_swapped": swapped(windows, sources),
                    "junctions": len(found["windows"].junctions),
                    "by_voices": sum(junction.cue == "voices" for junction in found["windows"].junctions),
                    "doubtful": len(found["windows"].doubtful),
                }
            )
    return rows


def main():
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hparams", default="hparams/separation/mambatasnet_S.yaml", help="of an untrained model")
    parser.add_argument("--source", help="a trained separator: bundled name, folder or Hub id")
    parser.add_argument("--speech", help="recordings of speakers: compares windows with the whole")
    parser.add_argument("--seconds", type=float, default=180, help="of a talk to compare")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of speakers to compare")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--rate", type=int, default=RATE, help="of the file, in Hz")
    parser.add_argument("--channels", type=int, default=1, help="of the file, each separated")
    parser.add_argument("--window", type=float, default=16.0, help="seconds")
    parser.add_argument("--overlap", type=float, default=4.0, help="seconds")
    parser.add_argument("--batch_size", type=int, default=1, help="windows at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="for the files that are separated and written")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--json", action="store_true", help="one measurement, in this process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    if arguments.json:
        print(json.dumps(measure(arguments)))
        return
    if arguments.speech:
        rows = compare(arguments)
    else:
        rows = []
        for minutes in arguments.minutes:
            given = sys.argv[1:]
            command = [sys.executable, __file__, *given, "--minutes", str(minutes), "--json"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(output.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
    write_table(rows, arguments.csv)


if __name__ == "__main__":
    main()

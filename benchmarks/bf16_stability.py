"""Whether training in bfloat16 stays finite: a small Mamba-TasNet under autocast on real speech.

    python benchmarks/bf16_stability.py RECORDINGS --csv results/bf16_stability.csv

RECORDINGS is a folder of WAV files named ``label_speaker_number.wav``, such as that of the free spoken digit dataset.
Each step draws two speakers' digits and mixes them. The table has each step's loss, gradient norm and how many values
of loss, gradients and parameters are not finite.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper

from speechbrain_mamba.dataio.audio import read_audio
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.hparams import load_hparams
from timing import write_table

MODEL = Path(__file__).parent.parent / "hparams" / "separation" / "mini_mambatasnet.yaml"


def load_speakers(folder: Path, device: str) -> list[torch.Tensor]:
    """All recordings of each speaker, one after the other, at the same power."""
    speakers: dict[str, list[torch.Tensor]] = {}
    for path in sorted(folder.glob("*_*_*.wav")):
        speakers.setdefault(path.stem.split("_")[1], []).append(read_audio(path))
    if len(speakers) < 2:
        raise SystemExit(f"{folder} has recordings of {len(speakers)} speakers, but two are needed at least.")
    signals = [torch.cat(recordings) for recordings in speakers.values()]
    return [(signal / signal.std()).to(device) for signal in signals]


def draw(speakers: list[torch.Tensor], batch: int, samples: int) -> torch.Tensor:
    """Sources (batch, samples, 2), each pair by two speakers."""
    sources = []
    for _ in range(batch):
        pair = torch.randperm(len(speakers))[:2].tolist()
        starts = [int(torch.randint(len(speakers[i]) - samples, ())) for i in pair]
        sources.append(torch.stack([speakers[i][start : start + samples] for i, start in zip(pair, starts)], -1))
    return torch.stack(sources)


def not_finite(tensors) -> int:
    """Values that are NaN or infinite."""
    return int(sum((~t.isfinite()).sum() for t in tensors if t is not None))


def train(arguments: argparse.Namespace) -> list[dict]:
    """Train and report on each step."""
    overrides = {"data_folder": ""}
    modules = torch.nn.ModuleDict(load_hparams(MODEL, overrides)["modules"]).to(arguments.device)
    parameters = list(modules.parameters())
    optimizer = torch.optim.Adam(parameters, lr=arguments.lr)
    speakers, rows = load_speakers(arguments.recordings, arguments.device), []
    for step in range(1, arguments.steps + 1):
        sources = draw(speakers, arguments.batch, round(arguments.seconds * 8000))
        with torch.autocast(arguments.device, dtype=torch.bfloat16):
            estimates = separate(modules["encoder"], modules["masknet"], modules["decoder"], sources.sum(-1))
        loss = get_si_snr_with_pitwrapper(sources, estimates.float()).mean()
        optimizer.zero_grad()
        loss.backward()
        bad = not_finite([loss, *(p.grad for p in parameters)])
        norm = torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        bad += not_finite(parameters)
        rows.append({"step": step, "loss": loss.item(), "gradient_norm": norm.item(), "not_finite": bad})
        if step % 100 == 0:
            recent = rows[-100:]
            mean = sum(row["loss"] for row in recent) / 100
            total = sum(row["not_finite"] for row in rows)
            print(f"{step} steps: mean loss {mean:.2f} dB over the last 100, {total} values not finite", flush=True)
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="folder of WAV files, 8 kHz")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each mixture")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--csv", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = train(arguments)
    write_table(rows, arguments.csv)


if __name__ == "__main__":
    main()

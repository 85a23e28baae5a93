"""Time and peak memory of a bidirectional Mamba layer on a GPU, against other implementations and a lower bound.

    python benchmarks/gpu.py --csv results/gpu.csv --plot results/gpu.png

Each shape is measured for

    triton      this package's layer by its backend ``triton``
    published   the layer of the published models: for each direction flip, causal-conv1d, projections and mamba-ssm's
                scan, both averaged; left out where these packages are not installed
    attention   PyTorch's scaled_dot_product_attention of equal width, with its projections
    floor       no program: the exponentials at 16 per clock and multiprocessor, or the bytes that have to be moved at
                the bandwidth of a copy measured in the same run, whichever takes longer

A row that fails has the reason in its last column. ``TRITON_INTERPRET=1`` with tiny shapes shows that the script works
without a GPU; its times mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import write_table
from torch import Tensor, nn
from triton_interpreter import repair

from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops import use_backend
from speechbrain_mamba.ops.backends import triton as backend

try:
    from causal_conv1d import causal_conv1d_fn
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
except ImportError:
    causal_conv1d_fn = selective_scan_fn = None

if backend.INTERPRETED:
    repair()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXPONENTIALS_PER_CLOCK = 16


class Published(nn.Module):
    """The published composition, with the parameters of a layer of this package."""

    def __init__(self, layer: BiMamba):
        super().__init__()
        self.layer = layer

    def _direction(self, xz: Tensor, suffix: str) -> Tensor:
        layer = self.layer
        conv, x_proj, dt_proj = (getattr(layer, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj"))
        x, z = xz.chunk(2, 1)
        u = causal_conv1d_fn(x, conv.weight.squeeze(1).to(x.dtype), conv.bias.to(x.dtype), activation="silu")
        factor, B, C = x_proj(u.transpose(1, 2)).split([layer.dt_rank, layer.d_state, layer.d_state], -1)
        delta = F.linear(factor, dt_proj.weight.to(factor.dtype)).transpose(1, 2)
        A = -torch.exp(getattr(layer, f"A{suffix}_log").float())
        B, C = (t.transpose(1, 2).contiguous() for t in (B, C))
        D = getattr(layer, f"D{suffix}").float()
        return selective_scan_fn(u, delta, A, B, C, D, z, dt_proj.bias.float(), delta_softplus=True)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer over (batch, time, d_model)."""
        xz = self.layer.in_proj(x).transpose(1, 2)
        y = self._direction(xz, "") + self._direction(xz.flip(-1), "_b").flip(-1)
        return self.layer.out_proj(0.5 * y.transpose(1, 2))


class Attention(nn.Module):
    """Self-attention with heads of 64 channels and projections in and out."""

    def __init__(self, d_model: int):
        super().__init__()
        self.heads = max(1, d_model // 64)
        self.in_proj, self.out_proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer over (batch, time, d_model)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.in_proj(x).chunk(3, -1))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def timed(function: Callable[[], object], rounds: int) -> float:
    """Median milliseconds of a run."""
    for _ in range(2 if DEVICE == "cuda" else 1):
        function()
    times = []
    for _ in range(rounds):
        if DEVICE == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            start = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def peak_memory(function: Callable[[], object]) -> float:
    """Peak MB that a run allocates beyond what was there."""
    if DEVICE != "cuda":
        return float("nan")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def copy_bandwidth() -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.empty(2**28 if DEVICE == "cuda" else 2**20, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * timed(lambda: target.copy_(source), 10))


def floor(batch: int, frames: int, channels: int, training: bool, dtype: torch.dtype, bandwidth: float) -> float:
    """Milliseconds below which no layer can stay: once each exponential, and each byte of input and output."""
    exponentials = 2 * batch * frames * channels * 16 * (2 if training else 1)
    size = torch.tensor([], dtype=dtype).element_size()
    moved = batch * frames * channels * size * (3 if not training else 3 + 2 + 1 + 2)
    by_bytes = 1e3 * moved / bandwidth
    if DEVICE != "cuda":
        return by_bytes
    properties = torch.cuda.get_device_properties(0)
    clock = getattr(properties, "clock_rate", 1.755e6) * 1e3
    return max(by_bytes, 1e3 * exponentials / (EXPONENTIALS_PER_CLOCK * clock * properties.multi_processor_count))


def run(module: nn.Module, x: Tensor, training: bool, backend: str, dtype: torch.dtype) -> None:
    """One pass under autocast."""
    with use_backend(backend), torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
        if not training:
            with torch.no_grad():
                module(x)
            return
        y = module(x)
    module.zero_grad(set_to_none=True)
    y.sum().backward()


def measure(candidate: str, d_model: int, batch: int, frames: int, training: bool, arguments) -> dict:
    """Time and memory of one candidate at one shape; if it fails, the reason."""
    row = {"ms": float("nan"), "peak_MB": float("nan"), "failure": ""}
    dtype = getattr(torch, arguments.dtype)
    try:
        torch.manual_seed(0)
        layer = Attention(d_model) if candidate == "attention" else BiMamba(d_model)
        module = (Published(layer) if candidate == "published" else layer).to(DEVICE)
        x = torch.randn(batch, frames, d_model, device=DEVICE, requires_grad=training)
        backend = "triton" if candidate == "triton" else "auto"
        row["ms"] = timed(lambda: run(module, x, training, backend, dtype), arguments.rounds)
        row["peak_MB"] = peak_memory(lambda: run(module, x, training, backend, dtype))
    except Exception as error:
        row["failure"] = f"{type(error).__name__}: {error}".splitlines()[0][:80]
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    return row


def compare(arguments: argparse.Namespace) -> list[dict]:
    """All rows; ratios are to ``triton`` at the same shape."""
    candidates = ["triton", *(["published"] if selective_scan_fn else []), "attention"]
    bandwidth, rows = copy_bandwidth(), []
    for channels in arguments.channels:
        for batch in arguments.batch:
            for frames in arguments.time:
                for training in (False, True):
                    at = {"channels": channels, "batch": batch, "time": frames,
                            "pass": "forward+backward" if training else "forward"}  # fmt: skip
                    results = {
                        name: measure(name, channels // 2, batch, frames, training, arguments) for name in candidates
                    }
                    least = floor(batch, frames, channels, training, getattr(torch, arguments.dtype), bandwidth)
                    results["floor"] = {"ms": least, "peak_MB": float("nan"), "failure": ""}
                    ours = results["triton"]
                    for name, result in results.items():
                        ratios = {f"times_triton_{key}": result[key] / ours[key] for key in ("ms", "peak_MB")}
                        rows.append(at | {"implementation": name} | result | ratios)
                    print(at, {name: f"{result['ms']:.3g} ms" for name, result in results.items()}, flush=True)
    return rows


def plot(rows: list[dict], path: Path) -> None:
    """Time over sequence length, one panel for each pass and batch, for the widest layer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row["channels"] == max(r["channels"] for r in rows)]
    panels = sorted({(row["pass"], row["batch"]) for row in rows})
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.5), squeeze=False)
    for axis, panel in zip(axes[0], panels):
        for name in dict.fromkeys(row["implementation"] for row in rows):
            own = [r for r in rows if (r["pass"], r["batch"]) == panel and r["implementation"] == name]
            axis.loglog([r["time"] for r in own], [r["ms"] for r in own], marker=".", label=name)
        axis.set(title=f"{panel[0]}, batch {panel[1]}", xlabel="frames", ylabel="ms")
    axes[0][0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[256, 512, 1024], help="inner channels")
    parser.add_argument("--time", type=int, nargs="+", default=[500, 2000, 4000, 16000, 64000])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    parser.add_argument("--plot", type=Path, help="where to write the figure, PNG")
    arguments = parser.parse_args()
    rows = compare(arguments)
    write_table(rows, arguments.csv)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()

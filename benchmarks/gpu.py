"""Time and peak memory of a bidirectional Mamba layer on a GPU, against other implementations and a lower bound.

    python benchmarks/gpu.py --csv results/gpu.csv --plot results/gpu.png

Each shape is measured for

    ours                  this package's layer, by the backend of ``--backend``
    ours, Mamba-2, ...    the same of Mamba-2, with each of ``--mamba2_states``
    published, fused      the layer of the published models with each direction by mamba-ssm's fused ``mamba_inner_fn``
    published, composed   the same of causal-conv1d, projections and mamba-ssm's scan; both where they are installed
    attention             PyTorch's scaled_dot_product_attention of equal width, with its projections
    floor                 no program: the exponentials at 16 per clock and multiprocessor, or the bytes that have to be
                          moved at the bandwidth of a copy measured in the same run, whichever takes longer

Every Mamba layer is compared with the reference in float64 first; one that is wrong is not timed. ``ms`` is the time
from the first to the last work on the GPU, ``host_ms`` that of the CPU until all work is handed over, ``kernels_ms``
the sum of the kernels alone, ``graph_ms`` a replay as a CUDA graph (``--cuda-graphs``). A row that fails has the reason
in its last column. On a machine without a GPU, ``--device cpu`` shows that the script works.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gpu_facts import floor_ms, gpu_facts
from gpu_layers import candidates
from gpu_timing import all_times
from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops import use_backend
from timing import write_table

ALLOWED = {"float32": 5e-3, "float16": 2e-2, "bfloat16": 5e-2}
"""Error of the output relative to its largest value; it leaves room for TF32."""
MISSING = {name: float("nan") for name in ("ms", "host_ms", "kernels_ms", "launches", "graph_ms", "peak_MB", "error")}


def run(module: nn.Module, x: Tensor, training: bool, backend: str, dtype: torch.dtype) -> None:
    """One pass under autocast."""
    with use_backend(backend), torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
        if not training:
            with torch.no_grad():
                module(x)
            return
        y = module(x)
    module.zero_grad(set_to_none=True)
    y.sum().backward()


def error_of(module: nn.Module, backend: str, dtype: torch.dtype, device: torch.device) -> float:
    """Error of a layer's output on two short sequences, relative to the largest value of the right one."""
    layer = getattr(module, "layer", module)
    x = torch.randn(2, 150, layer.d_model)
    right = copy.deepcopy(layer).cpu().double()
    with torch.no_grad(), use_backend("reference"):
        expected = right(x.double())
    enabled = dtype != torch.float32
    with torch.no_grad(), use_backend(backend), torch.autocast(device.type, dtype=dtype, enabled=enabled):
        y = module(x.to(device))
    return ((y.double().cpu() - expected).abs().max() / expected.abs().max()).item()


def measure(name: str, make, d_model: int, x: Tensor, training: bool, arguments: argparse.Namespace) -> dict:
    """Times and memory of one candidate at one shape; if it fails, the reason."""
    row = MISSING | {"failure": ""}
    dtype, device = getattr(torch, arguments.dtype), x.device
    backend = arguments.backend if name.startswith("ours") else "auto"
    try:
        torch.manual_seed(0)
        module = make(d_model).to(device)
        if name != "attention":
            row["error"] = error_of(module, backend, dtype, device)
            if not row["error"] < ALLOWED[arguments.dtype]:
                raise ValueError(f"wrong, {row['error']:.1e} off the reference")
        x.requires_grad_(training)
        run_once = partial(run, module, x, training, backend, dtype)
        row |= all_times(run_once, device, arguments.rounds, arguments.cuda_graphs)
    except Exception as error:
        row["failure"] = f"{type(error).__name__}: {error}".splitlines()[0][:80]
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def compare(arguments: argparse.Namespace) -> list[dict]:
    """All rows; ratios are to ``ours`` at the same shape."""
    device, dtype, rows = torch.device(arguments.device), getattr(torch, arguments.dtype), []
    shapes = itertools.product(arguments.channels, arguments.batch, arguments.time, (False, True))
    for channels, batch, time, training in shapes:
        at = {"channels": channels, "batch": batch, "time": time,
              "pass": "forward+backward" if training else "forward", "dtype": arguments.dtype}  # fmt: skip
        d_model = channels // 2
        results = {}
        for name, make in candidates(arguments.mamba2_states).items():
            x = torch.randn(batch, time, d_model, device=device)
            results[name] = measure(name, make, d_model, x, training, arguments)
        least = floor_ms(device, batch, time, channels, BiMamba(8).d_state, training, dtype)
        results["floor"] = MISSING | {"ms": least, "failure": ""}
        for name, result in results.items():
            ratios = {f"times_ours_{key}": result[key] / results["ours"][key] for key in ("ms", "peak_MB")}
            failure = result.pop("failure")
            rows.append(at | {"implementation": name} | result | ratios | gpu_facts(device) | {"failure": failure})
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


def main(given: list[str] | None = None) -> list[dict]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[256, 512, 1024], help="inner channels")
    parser.add_argument("--time", type=int, nargs="+", default=[500, 2000, 4000, 16000, 64000])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--backend", default="auto", help="that of this package's layer")
    parser.add_argument("--mamba2_states", type=int, nargs="*", default=[16, 128], help="states of layers of Mamba-2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cuda-graphs", action="store_true", help="time replays as CUDA graphs too")
    parser.add_argument("--csv", type=Path, help="where to write the table")
    parser.add_argument("--plot", type=Path, help="where to write the figure, PNG")
    arguments = parser.parse_args(given)
    rows = compare(arguments)
    write_table(rows, arguments.csv)
    if arguments.plot:
        plot(rows, arguments.plot)
    return rows


if __name__ == "__main__":
    main()

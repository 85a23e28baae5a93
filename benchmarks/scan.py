"""Speed of the selective scan compared with other implementations.

    python benchmarks/scan.py --threads 1 2 --out results/scan.csv

Compares the native kernels, for each instruction set of the machine, with the step loop in PyTorch (the reference
backend), the parallel scan of mambapy (``pip install mambapy``; left out if it is missing), the matrix products of the
same layer, and the scan of Mamba-2 over as many channels; then the two scans of a bidirectional layer, from its
projections on. "short" is the short form of the exponentials, on request in float32 and by default in bfloat16. Ratios
are those of medians in one run, to the fastest instruction set in float32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_mamba import ops
from speechbrain_mamba.ops.backends.cpu.native import instruction_set, library
from speechbrain_mamba.ops.backends.cpu.scan_kernel import scan_forward
from speechbrain_mamba.ops.kernel_backend import ScanShared
from timing import summarize, time_in_turn, write_table

try:
    from mambapy.pscan import pscan
except ImportError:
    pscan = None

RANK = 16
"""Of the projection that makes the step sizes, as in the layers of Mamba-TasNet M."""


def scan_inputs(batch: int, time: int, channels: int, state: int) -> dict[str, Tensor]:
    """Inputs of a scan as a layer makes them: slices of the projections' outputs."""
    xz = torch.randn(batch, time, 2 * channels)
    projected = torch.randn(batch, time, RANK + 2 * state)
    u, z = xz.chunk(2, -1)
    _, B, C = projected.split([RANK, state, state], -1)
    return {
        "u": u, "delta": torch.randn(batch, time, channels) - 3,
        "A": -torch.arange(1.0, state + 1).repeat(channels, 1), "B": B, "C": C, "D": torch.ones(channels), "z": z,
        "delta_bias": torch.zeros(channels),
    }  # fmt: skip


def by_backend(name: str, **inputs: Tensor) -> Tensor:
    """The scan by one backend."""
    with ops.use_backend(name):
        return ops.selective_scan(**inputs, delta_softplus=True)


def mamba2_inputs(batch: int, time: int, channels: int, state: int, head_channels: int) -> dict[str, Tensor]:
    """Inputs of a scan of Mamba-2 as a layer makes them: slices of the convolution's output."""
    heads = channels // head_channels
    x, B, C = torch.randn(batch, time, channels + 2 * state).split([channels, state, state], -1)
    return {
        "x": x.unflatten(-1, (heads, head_channels)), "delta": torch.randn(batch, time, heads) - 3,
        "A": -torch.linspace(1, 16, heads), "B": B[:, :, None], "C": C[:, :, None], "D": torch.ones(heads),
        "delta_bias": torch.zeros(heads),
    }  # fmt: skip


def mamba2(**inputs: Tensor) -> Tensor:
    """The scan of Mamba-2."""
    return ops.ssd(**inputs, delta_softplus=True)


def in_bfloat16(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same inputs with all sequences in bfloat16, as a layer passes them under autocast."""
    return {name: tensor.bfloat16() if tensor.dim() == 3 else tensor for name, tensor in inputs.items()}


def layer_scans(dtype: torch.dtype, batch: int, time: int, channels: int, state: int) -> Callable[[], object]:
    """Both scans of a bidirectional layer, which multiply the steps out of their factor and share a gate."""
    xz = torch.randn(batch, time, 2 * channels).to(dtype)
    weights, directions = [], []
    for _ in range(2):
        factor, B, C = torch.randn(batch, time, RANK + 2 * state).to(dtype).split([RANK, state, state], -1)
        u, A = torch.randn(batch, time, channels).to(dtype), -torch.arange(1.0, state + 1).repeat(channels, 1)
        directions.append(ops.ScanInputs(u, factor, A, B, C, torch.ones(channels), torch.full((channels,), -3.0)))
        weights.append(torch.randn(channels, RANK) / RANK**0.5)
    return partial(scan_forward, directions, ScanShared(xz.chunk(2, -1)[1]), True, False, False, False, weights)


def short(run: Callable, *arguments) -> None:
    """Run with short exponentials."""
    with ops.approximate_exponentials():
        run(*arguments)


def by_mambapy(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """The same scan by the parallel scan of mambapy, as its Mamba block calls it."""
    delta = F.softplus(delta + delta_bias)
    decay = torch.exp(delta.unsqueeze(-1) * A)
    states = pscan(decay, delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))
    y = (states @ C.unsqueeze(-1)).squeeze(3) + D * u
    return y * F.silu(z)


def matrix_products(x: Tensor, in_proj: Tensor, x_proj: Tensor, dt_proj: Tensor, out_proj: Tensor) -> Tensor:
    """The products of one layer in one direction, each with an input of the right width."""
    inner = F.linear(x, in_proj)[..., : x_proj.shape[1]]
    step = F.linear(F.linear(inner, x_proj)[..., :RANK], dt_proj)
    return F.linear(step, out_proj)


def product_inputs(batch: int, time: int, channels: int, state: int) -> dict[str, Tensor]:
    """Inputs and weights of the layer's matrix products; the model is half as wide as the scan."""
    width = channels // 2
    shapes = {"in_proj": (2 * channels, width), "x_proj": (RANK + 2 * state, channels), "dt_proj": (channels, RANK)}
    shapes["out_proj"] = (width, channels)
    return {"x": torch.randn(batch, time, width)} | {k: torch.randn(s) / s[1] ** 0.5 for k, s in shapes.items()}


def forward(function: Callable, inputs: dict[str, Tensor]) -> None:
    """Run without gradients."""
    with torch.no_grad():
        function(**inputs)


def forward_backward(function: Callable, inputs: dict[str, Tensor]) -> None:
    """Run with gradients of all inputs."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    y = function(**leaves)
    y.backward(torch.ones_like(y))


def with_instruction_set(name: str, run: Callable, *arguments) -> None:
    """Run with one instruction set, in the backward pass too."""
    with instruction_set(name):
        run(*arguments)


def candidates(arguments: argparse.Namespace, run: Callable) -> dict[str, Callable[[], None]]:
    """What is compared, by name, each as a function that is ready to be called."""
    shape = (arguments.batch, arguments.time, arguments.channels, arguments.state)
    inputs, native = scan_inputs(*shape), partial(by_backend, "cpu")
    found = {
        f"cpu {isa}": partial(with_instruction_set, isa, run, native, inputs) for isa in library().instruction_sets
    }
    best = library().instruction_sets[0]
    found |= {
        f"cpu {isa} short": partial(short, with_instruction_set, isa, run, native, inputs)
        for isa in library().instruction_sets
    }
    found[f"cpu {best} bfloat16"] = partial(run, native, in_bfloat16(inputs))
    if run is forward:
        layer, rounded = layer_scans(torch.float32, *shape), layer_scans(torch.bfloat16, *shape)
        found |= {"layer": layer, "layer short": partial(short, layer), "layer bfloat16": rounded}
    found["matrix products"] = partial(run, matrix_products, product_inputs(*shape))
    found["step loop"] = partial(run, partial(by_backend, "reference"), inputs)
    for state in arguments.mamba2_states:
        own = mamba2_inputs(*shape[:3], state, arguments.head_channels)
        found[f"Mamba-2, {state} states"] = partial(run, mamba2, own)
    if pscan is None:
        print("mambapy is not installed and left out.", file=sys.stderr)
    else:
        found["mambapy pscan"] = partial(run, by_mambapy, inputs)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--time", type=int, default=4000)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--state", type=int, default=16)
    parser.add_argument("--mamba2_states", type=int, nargs="*", default=[16, 64, 128])
    parser.add_argument("--head_channels", type=int, default=64, help="of Mamba-2")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", "--csv", dest="out", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows, best = [], f"cpu {library().instruction_sets[0]}"
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for direction in (forward, forward_backward):
            seconds = time_in_turn(candidates(arguments, direction), arguments.rounds)
            summaries = {name: summarize(s) for name, s in seconds.items()}
            for name, summary in summaries.items():
                ratio = summary["median_ms"] / summaries[best]["median_ms"]
                row = {"threads": threads, "pass": direction.__name__, "implementation": name}
                rows.append(row | summary | {"times_fp32": ratio})
    write_table(rows, arguments.out)


if __name__ == "__main__":
    main()

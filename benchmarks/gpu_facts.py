"""What a GPU is, and what it can do at best: name, clocks, bandwidth, and a lower bound for the time of a layer."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

import torch

from gpu_timing import device_ms

QUERY = {
    "name": "gpu",
    "driver_version": "driver",
    "clocks.sm": "sm_mhz",
    "clocks.max.sm": "max_sm_mhz",
    "clocks.mem": "memory_mhz",
    "power.limit": "power_limit_w",
}
EXPONENTIALS_PER_CLOCK = 16


def gpu_facts(device: torch.device) -> dict[str, str]:
    """Name, driver, clocks and power limit of a GPU now, as nvidia-smi says; only the name without it."""
    if device.type != "cuda":
        return {"gpu": "none"}
    facts = {"gpu": torch.cuda.get_device_name(device)}
    if shutil.which("nvidia-smi"):
        uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", device.index or 0))
        name = uuid if uuid.isdigit() else f"GPU-{uuid.removeprefix('GPU-')}"
        command = ["nvidia-smi", "-i", name, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        values = [value.strip() for value in said.stdout.strip().split(",")]
        if said.returncode == 0 and len(values) == len(QUERY):
            facts |= dict(zip(QUERY.values(), values))
    return facts


@cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * device_ms(lambda: target.copy_(source), device, 10))


def floor_ms(
    device: torch.device, batch: int, time: int, channels: int, states: int, training: bool, dtype: torch.dtype
) -> float:
    """Milliseconds below which no bidirectional layer can stay: each exponential once, and each byte of input and
    output once at the bandwidth of a copy. Without the highest clock in nvidia-smi, the bytes alone."""
    moved = batch * time * channels * dtype.itemsize * (8 if training else 3)
    by_bytes = 1e3 * moved / copy_bandwidth(device)
    clock = gpu_facts(device).get("max_sm_mhz", "")
    if not clock.replace(".", "").isdigit():
        return by_bytes
    exponentials = 2 * batch * time * channels * states * (2 if training else 1)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(by_bytes, 1e3 * exponentials / (EXPONENTIALS_PER_CLOCK * 1e6 * float(clock) * processors))

"""The machine that a study ran on."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path

import torch

from speechbrain_mamba import __version__

MACHINE = "machine.json"
"""Where it is noted, in the folder of the results."""


def describe_machine() -> dict[str, str]:
    """Processor, number of its cores, GPU and versions of this machine, and the date."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()), "threads": os.environ.get("OMP_NUM_THREADS", "all"), "gpu": gpu,
        "torch": torch.__version__, "speechbrain_mamba": __version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }  # fmt: skip


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

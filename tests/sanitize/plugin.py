"""Plugin of pytest: the kernels come from the library that the environment names."""

import os
from pathlib import Path

from speechbrain_mamba.ops.backends.cpu import native


def pytest_configure() -> None:
    """Take the library, before any test asks for it."""
    native.PATH = Path(os.environ["SANITIZED_KERNELS"])


def pytest_report_header() -> str:
    """Load the library in any case: without it, nothing would be checked."""
    return f"kernels: {native.KernelLibrary(native.PATH).instruction_sets} of {native.PATH.name}"

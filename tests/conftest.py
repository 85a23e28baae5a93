"""What all tests share."""

from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"
HPARAMS = Path(__file__).parent.parent / "hparams"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def golden():
    """Read a golden file: weights, inputs and outputs of the published architectures, computed in float32 on a CPU."""
    return lambda name: torch.load(GOLDEN / f"{name}.pt", weights_only=True)

"""What all tests share."""

import sys
from pathlib import Path

import pytest
import torch
from speechbrain.utils.importutils import LazyModule

GOLDEN = Path(__file__).parent / "golden"
HPARAMS = Path(__file__).parent.parent / "hparams"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems():
    """Hide SpeechBrain's lazy modules from Hypothesis, which looks into all modules and would import them."""
    for name in [name for name, module in sys.modules.items() if isinstance(module, LazyModule)]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def golden():
    """Read a golden file: weights, inputs and outputs of the published architectures, computed in float32 on a CPU."""
    return lambda name: torch.load(GOLDEN / f"{name}.pt", weights_only=True)

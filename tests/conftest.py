"""What all tests share."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from speechbrain.utils.importutils import LazyModule

from speechbrain_mamba.dataio.audio import write_audio
from tests.forked import ForkServer
from tests.hub_server import LocalHub

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # scripts, which import each other by their names

GOLDEN = Path(__file__).parent / "golden"
HPARAMS = Path(__file__).parent.parent / "hparams"
collect_ignore = ["golden"]  # among others SpeechBrain's recipes, two of which have one name


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems():
    """Hide SpeechBrain's lazy modules from Hypothesis, which looks into all modules and would import them."""
    for name in [name for name, module in sys.modules.items() if isinstance(module, LazyModule)]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _exact_products():
    """Compute products of float32 in float32: SpeechBrain's core lets a GPU round their factors to TF32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(autouse=True)
def _quick_stamps(monkeypatch):
    """Do not wait for all disks of the machine after each preparation."""
    monkeypatch.setattr("speechbrain_mamba.utils.stamps.flush_disks", lambda: None)


@pytest.fixture(autouse=True)
def _no_list_of_packages(monkeypatch):
    """SpeechBrain lets ``pip freeze`` list all packages whenever a run begins, which takes longer than a tiny run."""
    monkeypatch.setattr("speechbrain.utils.logger.get_environment_description", str)


@pytest.fixture(autouse=True)
def _log_level():
    """Commands set the level of the package's messages for their process, which here is that of all tests."""
    log = logging.getLogger("speechbrain_mamba")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(scope="session")
def forked():
    """Starts programs in processes that are forked, which saves them their imports; see :mod:`tests.forked`."""
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def forked_with_torch():
    """The same for programs that find nothing imported but torch."""
    with ForkServer(["torch"]) as server:
        yield server


class _Everything(set):
    def __contains__(self, item):
        return True


@pytest.fixture(autouse=True)
def the_hub_answers(monkeypatch, request):
    """Tests with downloads of their own need no network; those of the Hub's client itself ask whether it answers."""
    if request.module.__name__ != "tests.utils.test_hub":
        monkeypatch.setattr("speechbrain_mamba.utils.hub_connection._reached", _Everything())


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A Hub on this machine that this process uses, with an empty cache and no token; see :mod:`tests.hub_server`."""
    from huggingface_hub import constants, file_download

    with LocalHub().running() as hub:
        home = tmp_path / "hub_home"
        replaced = {
            "ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"), "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }  # fmt: skip
        for name, value in replaced.items():
            monkeypatch.setattr(constants, name, value)
            if hasattr(file_download, name):  # versions below 1 copy some
                monkeypatch.setattr(file_download, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1,localhost")
        yield hub


@pytest.fixture
def golden():
    """Read a golden file: weights, inputs and outputs of the published architectures, computed in float32 on a CPU."""
    return lambda name: torch.load(GOLDEN / f"{name}.pt", weights_only=True)


@pytest.fixture
def make_speech():
    """Write noise bursts as ``speaker/<n>.wav`` for some speakers; the seconds of file ``n`` are ``seconds[n]``."""

    def write(folder, speakers=("anna", "ben", "carl"), seconds=(0.4, 0.7), sample_rate=8000):
        for number, speaker in enumerate(speakers):
            for index, duration in enumerate(seconds):
                torch.manual_seed(100 * number + index)
                signal = 0.1 * torch.randn(round(duration * sample_rate))
                write_audio(folder / speaker / f"{index}.wav", signal, sample_rate)
        return folder

    return write


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved, the latest last. To draw them is slow; the examples of the docstrings do."""
    saved = []

    def savefig(self, path, **options):
        saved.append(self)
        path.write_text("picture")

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved

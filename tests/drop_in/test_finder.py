"""What is served to imports, what is not, and what is left alone."""

import importlib
import json
import logging
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from speechbrain_mamba import drop_in
from speechbrain_mamba.drop_in import hub
from speechbrain_mamba.drop_in.served_names import MODULES, PACKAGES, VERSIONS
from speechbrain_mamba.ops.backends import mamba_ssm as adapter


def clean():
    return not any(name.partition(".")[0] in PACKAGES for name in sys.modules)


@pytest.fixture(autouse=True)
def nothing_stays():
    if not clean() or set(PACKAGES) - set(drop_in.served_modules()):
        pytest.skip("mamba-ssm or causal-conv1d is installed")
    yield
    drop_in.uninstall()
    assert clean()


def test_every_name_is_there_while_it_is_installed():
    with drop_in.installed() as served:
        assert served == tuple(PACKAGES)
        for module, names in MODULES.items():
            imported = importlib.import_module(module)
            for name in names:
                assert callable(getattr(imported, name)), f"{module}.{name}"
        import mamba_ssm

        assert mamba_ssm.__version__.startswith(VERSIONS["mamba_ssm"])
        assert "Mamba" in mamba_ssm.__all__
    assert not drop_in.is_installed()
    with pytest.raises(ModuleNotFoundError, match="No module named 'mamba_ssm'"):
        import mamba_ssm


def test_submodules_are_attributes_as_in_the_packages():
    drop_in.install()
    import causal_conv1d
    import mamba_ssm

    assert mamba_ssm.ops.selective_scan_interface.selective_scan_fn is mamba_ssm.selective_scan_fn
    assert causal_conv1d.causal_conv1d_interface.causal_conv1d_fn is causal_conv1d.causal_conv1d_fn
    assert not hasattr(mamba_ssm, "Mamba3")
    assert mamba_ssm.__file__.endswith("finder.py")
    with pytest.raises(AttributeError, match="module 'mamba_ssm' has no attribute '__wrapped__'"):
        mamba_ssm.__wrapped__  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("from mamba_ssm import Mamba3", "does not serve mamba_ssm.Mamba3: it serves selective_scan_fn, "),
        ("import mamba_ssm.modules.mha", "does not serve mamba_ssm.modules.mha: it serves block, mamba2, "),
        ("from mamba_ssm.ops.triton.layer_norm import LayerNorm", "serves RMSNorm, layer_norm_fn, rms_norm_fn, "),
        ("import selective_scan_cuda; selective_scan_cuda.fwd2", "does not serve selective_scan_cuda.fwd2: it serves"),
        ("from causal_conv1d.cpp_functions import LIBRARY_NAME", "Install causal-conv1d for all of it"),
    ],
)
def test_other_names_raise_a_sentence(statement, said):
    drop_in.install()
    with pytest.raises((ImportError, AttributeError), match=said):
        exec(statement)


def test_code_that_can_do_without_still_can():
    drop_in.install()
    try:
        from mamba_ssm.modules.mamba3 import Mamba3
    except ModuleNotFoundError:
        Mamba3 = None
    assert Mamba3 is None


def test_the_context_leaves_what_was_there():
    drop_in.install()
    drop_in.install()
    with drop_in.installed():
        pass
    assert drop_in.is_installed()
    assert importlib.util.find_spec("causal_conv1d") is not None
    drop_in.uninstall()
    assert not drop_in.is_installed()
    assert importlib.util.find_spec("causal_conv1d") is None


def test_a_package_that_is_installed_is_left_alone(tmp_path, monkeypatch, caplog):
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("import selective_scan_cuda\nown = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING), drop_in.installed() as served:
        assert served == ("selective_scan_cuda", "causal_conv1d", "causal_conv1d_cuda")
        import mamba_ssm

        assert mamba_ssm.own
        with pytest.raises(ModuleNotFoundError, match=r"No module named 'mamba_ssm.ops'"):
            import mamba_ssm.ops
    assert "installed stay as they are: mamba_ssm. drop_in serves selective_scan_cuda, causal_conv1d" in caplog.text
    del sys.modules["mamba_ssm"]


def test_modules_put_into_place_by_hand_are_left_alone(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "causal_conv1d_cuda", ModuleType("causal_conv1d_cuda"))
        patched.setitem(sys.modules, "causal_conv1d", None)  # which blocks its import
        assert drop_in.install() == ("mamba_ssm", "selective_scan_cuda")
        drop_in.uninstall()


def test_our_own_adapters_do_not_take_the_stand_ins_for_the_packages(monkeypatch):
    monkeypatch.setattr(adapter, "DEVICE", "cpu")
    adapter._kernels.cache_clear()
    with drop_in.installed():
        reason = adapter.unavailable()
    adapter._kernels.cache_clear()
    assert reason == "mamba-ssm is not installed, and speechbrain_mamba.drop_in serves its names."


def test_decorators_of_functions_under_autocast():
    with drop_in.installed():
        from mamba_ssm.utils.torch import custom_bwd, custom_fwd

    class Double(torch.autograd.Function):
        @staticmethod
        @custom_fwd
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @custom_bwd
        def backward(ctx, dy):
            return 2 * dy

    x = torch.ones(1, requires_grad=True)
    Double.apply(x).backward()
    assert x.grad.item() == 2


def test_models_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 8}))
    torch.save({"weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, file: tmp_path / file)
    assert hub.load_config_hf("someone/model") == {"d_model": 8}
    weights = hub.load_state_dict_hf("someone/model", device="cpu", dtype=torch.float64)
    assert weights["weight"].dtype == torch.float64


@pytest.mark.slow
def test_importing_what_is_served_does_not_import_speechbrain():
    """A script that only wants the functions does not wait for SpeechBrain."""
    code = "import sys, speechbrain_mamba.drop_in as d; d.install(); import mamba_ssm; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"mamba_ssm", "speechbrain"} & set(done.stdout.split()) == {"mamba_ssm"}

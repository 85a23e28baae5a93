"""Which versions of mamba-ssm and causal-conv1d the adapters take, and whether what is recorded of them is so.

The second part needs source distributions: name a folder of ``*.tar.gz`` files in ``SPEECHBRAIN_MAMBA_SDISTS``, where
``pip download --no-deps --no-build-isolation --no-binary :all: mamba-ssm==2.3.2.post1`` puts them, with
``MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE``. They are imported without being built.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from speechbrain_mamba import ops
from speechbrain_mamba.ops import registry
from speechbrain_mamba.ops.backends import mamba_ssm, reference
from tests.ops.backends.public_kernels import (
    CAUSAL_CONV1D,
    CONV,
    MAMBA_SSM,
    SCAN,
    TOO_OLD,
    check_conv,
    check_conv_step,
    check_scan,
    check_ssd,
    forget,
    installed,
    step_of_heads,
)
from tests.ops.cases import check, layer_inputs, scan_inputs, ssd_inputs


@pytest.mark.parametrize("pair", TOO_OLD, ids=lambda pair: " and ".join(one.version for one in pair))
def test_versions_that_do_not_fit_are_named(pair):
    with installed(*pair):
        reason = mamba_ssm.unavailable()
    scan, conv = pair
    expected = {
        f"mamba-ssm {scan.version} is installed, but 2.1 or newer is needed.",
        f"causal-conv1d {conv.version} is installed, but 1.4 or newer is needed.",
    }
    assert reason in expected


def test_a_mamba_ssm_without_its_scan_is_not_available():
    """Its newest source can be built without: the functions are there, and fail when they are called."""
    with installed(MAMBA_SSM["2.3.2.post1"]._replace(has_scan=False), CAUSAL_CONV1D["1.7.0"]):
        assert "without its scan" in mamba_ssm.unavailable()


# ----------------------------------------------------------------------------------------------- source distributions

SDISTS = sorted(Path(os.environ.get("SPEECHBRAIN_MAMBA_SDISTS", "/nowhere")).glob("*.tar.gz"))
needs_sdists = pytest.mark.skipif(not SDISTS, reason="no source distributions are named in SPEECHBRAIN_MAMBA_SDISTS")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of the unpacked source distributions, by package and version."""
    folder = tmp_path_factory.mktemp("sdists")
    for path in SDISTS:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    return {tuple(path.name.rsplit("-", 1)): path for path in folder.iterdir()}


def functions(path: Path) -> dict[str, str]:
    """Arguments of a file's functions, by name."""
    found = ast.parse(path.read_text()).body
    return {node.name: ast.unparse(node.args) for node in found if isinstance(node, ast.FunctionDef)}


@needs_sdists
def test_recorded_facts_are_those_of_the_sources(sources):
    for (package, version), folder in sources.items():
        if package == "causal_conv1d":
            facts = CAUSAL_CONV1D[version]
            given = functions(folder / package / "causal_conv1d_interface.py")
            assert (given["causal_conv1d_fn"], given["causal_conv1d_update"]) == (CONV, facts.step)
            for path in folder.glob("csrc/causal_conv1d.cpp"):  # not in the oldest ones
                exact = "CHECK_SHAPE(conv_state, batch_size, dim, width)" in path.read_text()
                assert exact == facts.state_has_width
        else:
            facts = MAMBA_SSM[version]
            interface = folder / package / "ops" / "selective_scan_interface.py"
            update = folder / package / "ops" / "triton" / "selective_state_update.py"
            given = functions(interface) | functions(update)
            assert (given["selective_scan_fn"], given["selective_state_update"]) == (SCAN, facts.step)
            given = functions(folder / package / "ops" / "triton" / "ssd_combined.py") if version >= "2" else {}
            assert given.get("mamba_chunk_scan_combined", facts.ssd) == facts.ssd
            assert ("selective_scan_cuda = None" not in interface.read_text()) == facts.has_scan
            assert ("if D is not None else 0," in update.read_text()) == facts.step_needs_all
            language = pytest.importorskip("triton").language
            called = re.findall(r"\btl\.math\.(\w+)", update.read_text())
            assert all(hasattr(language.math, name) for name in called) == facts.step_compiles


def gradients(function, inputs, *outputs_gradients):
    """Gradients of a function of tensors, None for None."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    with torch.enable_grad():
        found = torch.autograd.grad(function(*leaves), [t for t in leaves if t is not None], outputs_gradients)
    found = iter(found)
    return [None if t is None else next(found).to(t.dtype) for t in leaves]


def scan(u, delta, A, B, C, D, z, delta_bias, softplus):
    u, delta, z = (None if t is None else t.transpose(1, 2) for t in (u, delta, z))
    B, C = (t[:, 0].transpose(1, 2) for t in (B, C))
    y, last = reference.selective_scan(u, delta, A, B, C, D, z, delta_bias, softplus, return_last_state=True)
    return y.transpose(1, 2), last


def compiled_scan() -> ModuleType:
    """``selective_scan_cuda`` on the CPU."""
    module = ModuleType("selective_scan_cuda")

    def fwd(u, delta, A, B, C, D, z, delta_bias, softplus):
        check_scan(u, delta, A, B, C, D, z, delta_bias)
        y, last = scan(u, delta, A, B, C, D, z, delta_bias, softplus)
        states = torch.stack([last, last], -1).flatten(-2)[:, :, None]  # interleaved with the products of decays
        return y, states, y

    def bwd(u, delta, A, B, C, D, z, delta_bias, dy, x, out, dz, softplus, recompute):
        assert dy.dtype == u.dtype and dy.stride(-1) == 1
        found = gradients(lambda *t: scan(*t, softplus)[0], (u, delta, A, B, C, D, z, delta_bias), dy)
        du, ddelta, dA, dB, dC, dD, dz, ddelta_bias = found
        return (du, ddelta, dA, dB, dC, dD, ddelta_bias, *([] if z is None else [dz]))

    module.fwd, module.bwd = fwd, bwd
    return module


def convolve(x, weight, bias, silu):
    return reference.causal_conv1d(x.transpose(1, 2), weight, bias, "silu" if silu else None).transpose(1, 2)


def compiled_conv(version: str) -> ModuleType:
    """``causal_conv1d_cuda`` on the CPU; since 1.5 its functions write into outputs that they are given."""
    module, returns = ModuleType("causal_conv1d_cuda"), version.startswith("1.4")

    def written(output, value):
        output.copy_(value)

    def fwd(x, weight, bias, seq_idx, initial, *rest):
        check_conv(x, weight, bias)
        y = convolve(x, weight, bias, rest[-1])
        return y if returns else written(rest[0], y)

    def bwd(x, weight, bias, dy, seq_idx, initial, dfinal, *rest):
        check_conv(x, weight, bias)
        found = gradients(lambda *t: convolve(*t, rest[-1]), (x, weight, bias), dy)
        if returns:
            return (*found, None)
        for target, gradient in zip(rest, found):
            if gradient is not None:
                written(target, gradient)
        return None

    def update(x, state, weight, bias, *rest):
        check_conv_step(CAUSAL_CONV1D[version], x, state, weight, bias)
        silu = rest[0] if returns else rest[1]
        y, after = reference.causal_conv1d_update(x[..., 0], state, weight, bias, "silu" if silu else None)
        state.copy_(after)
        return y[..., None] if returns else written(rest[0], y[..., None])

    module.causal_conv1d_fwd, module.causal_conv1d_bwd, module.causal_conv1d_update = fwd, bwd, update
    return module


class StepKernel:
    """The Triton kernel of ``selective_state_update`` on the CPU, by the names of its arguments."""

    def __init__(self, kernel):
        while not hasattr(kernel, "arg_names"):
            kernel = kernel.fn
        self.names = kernel.arg_names

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            a = SimpleNamespace(**dict(zip(self.names, arguments)))
            inputs = (a.state_ptr, a.x_ptr, a.dt_ptr, a.A_ptr, a.B_ptr, a.C_ptr, a.D_ptr, a.z_ptr, a.dt_bias_ptr)
            if a.state_ptr.shape[1] > 1:
                y, after = step_of_heads(*inputs, a.DT_SOFTPLUS)
                a.state_ptr.copy_(after)
                a.out_ptr.copy_(y)
                return
            per_channel = {3, 6, 8}  # these have a leading axis of heads, the others one after the batch
            inputs = (t if t is None else t[0] if i in per_channel else t[:, 0] for i, t in enumerate(inputs))
            y, after = reference.selective_state_update(*inputs, a.DT_SOFTPLUS)
            a.state_ptr.copy_(after[:, None])
            a.out_ptr.copy_(y[:, None])

        return launch


def run_ssd(x, dt, A, B, C, D, z, dt_bias, initial, softplus, limit):
    return reference.ssd(x, dt, A, B, C, D, z, dt_bias, softplus, limit, initial_state=initial, return_last_state=True)


def ssd_forward(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, dt_softplus=False,
                dt_limit=(0.0, float("inf")), **others):  # fmt: skip
    """``_mamba_chunk_scan_combined_fwd``, which launches the kernels, on the CPU."""
    assert not any(value is not None for value in others.values())
    check_ssd(x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_states)
    y, last = run_ssd(x, dt, A, B, C, D, z, dt_bias, initial_states, dt_softplus, dt_limit)
    return y, y, dt, dt, last, last


def ssd_backward(dy, x, dt, A, B, C, out, chunk_size, D=None, z=None, dt_bias=None, initial_states=None,
                 dfinal_states=None, dt_softplus=False, dt_limit=(0.0, float("inf")), **others):  # fmt: skip
    """``_mamba_chunk_scan_combined_bwd`` on the CPU."""
    dfinal = torch.zeros(x.shape[0], *x.shape[2:], B.shape[3]) if dfinal_states is None else dfinal_states
    inputs = (x, dt, A, B, C, D, z, dt_bias, initial_states)
    found = gradients(lambda *t: run_ssd(*t, dt_softplus, dt_limit), inputs, dy, dfinal)
    return tuple(found)


@contextlib.contextmanager
def imported(scan_source: Path, conv_source: Path):
    """Both packages' own Python, with their compiled parts replaced."""
    names = ("mamba_ssm", "causal_conv1d", "selective_scan_cuda", "causal_conv1d_cuda")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in names}
    package = ModuleType("mamba_ssm")  # whose __init__ imports language models
    package.__path__, package.__version__ = [str(scan_source / "mamba_ssm")], scan_source.name.rsplit("-", 1)[1]
    sys.modules |= {
        "mamba_ssm": package,
        "selective_scan_cuda": compiled_scan(),
        "causal_conv1d_cuda": compiled_conv(conv_source.name.rsplit("-", 1)[1]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(conv_source))
        patch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
        # Inside a torch operation, the stand-ins could not ask autograd for gradients.
        patch.setattr(torch.library, "custom_op", lambda name, **options: lambda function: function)
        patch.setattr(mamba_ssm, "DEVICE", "cpu")
        patch.setattr(registry, "_reasons", {})
        update = importlib.import_module("mamba_ssm.ops.triton.selective_state_update")
        patch.setattr(update, "_selective_scan_update_kernel", StepKernel(update._selective_scan_update_kernel))
        combined = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
        patch.setattr(combined, "_mamba_chunk_scan_combined_fwd", ssd_forward)
        patch.setattr(combined, "_mamba_chunk_scan_combined_bwd", ssd_backward)
        forget()
        yield
    forget()
    for name in list(sys.modules):
        if name.split(".")[0] in names:
            del sys.modules[name]
    sys.modules |= kept


def newest_and_oldest(sources, package):
    versions = sorted(version for name, version in sources if name == package)
    served = [version for version in versions if tuple(map(int, version.split(".")[:2])) >= mamba_ssm.OLDEST[package]]
    return served[0], served[-1]


@needs_sdists
@pytest.mark.parametrize("which", [0, 1], ids=["oldest", "newest"])
def test_the_packages_own_python_takes_what_the_adapters_give(sources, which):
    pytest.importorskip("triton")
    pytest.importorskip("einops")
    folders = [sources[name, newest_and_oldest(sources, name)[which]] for name in ("mamba_ssm", "causal_conv1d")]
    with imported(*folders):
        assert mamba_ssm.unavailable() is None
        check(ops.bidirectional_mamba_inner, layer_inputs(3, 9, 5, 3, 2), "mamba_ssm", lengths=torch.tensor([9, 0, 4]))
        one_frame = {"x": torch.randn(2, 1, 5), "weight": torch.randn(5, 4), "bias": torch.randn(5)}
        check(ops.causal_conv1d, one_frame, "mamba_ssm", activation="silu")
        for options in ({}, {"lengths": torch.tensor([9, 4]), "reverse": True, "return_last_state": True}):
            check(ops.ssd, ssd_inputs(2, 9, 4, 3, 2, 5), "mamba_ssm", delta_softplus=True, **options)
        inputs = {name: t if t.dim() == 1 else t[:, 0] for name, t in ssd_inputs(2, 1, 4, 3, 2, 5).items()}
        inputs["initial_state"] = torch.randn(2, 4, 3, 5)
        steps = []
        for name in ("mamba_ssm", "reference"):
            with ops.use_backend(name):
                steps.append(
                    ops.ssd_update(
                        inputs["initial_state"],
                        **{k: t for k, t in inputs.items() if k != "initial_state"},
                        delta_softplus=True,
                    )
                )
        torch.testing.assert_close(*steps, rtol=1e-5, atol=1e-5)
        inputs = {name: t[:, 0] if t.dim() == 3 else t for name, t in scan_inputs(2, 1, 5, 3).items()}
        state, x = torch.randn(2, 5, 3), torch.randn(2, 5)
        del inputs["initial_state"]
        for left_out in ("", "D", "delta_bias", "z"):
            given = {name: t for name, t in inputs.items() if name != left_out}
            results = []
            for name in ("mamba_ssm", "reference"):
                with ops.use_backend(name):
                    results += [(*ops.selective_state_update(state, **given, delta_softplus=True),
                                 *ops.causal_conv1d_update(x, state, one_frame["weight"]))]  # fmt: skip
            torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)

"""The benchmark of layers: what it compares with is right, and what is wrong is not timed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import gpu
import gpu_facts
import gpu_layers
from speechbrain_mamba.nnet.mamba import BiMamba
from speechbrain_mamba.ops.backends import reference
from tests.ops.backends.public_kernels import conv_function, scan_function

SMALL = ["--device", "cpu", "--channels", "16", "--time", "12", "--batch", "1", "--rounds", "1"]


def inner_function(xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias,
                   A, B=None, C=None, D=None, delta_bias=None, delta_softplus=True):  # fmt: skip
    """What ``mamba_inner_fn`` of mamba-ssm computes."""
    assert xz.stride(-1) == 1, "else it copies"
    x, z = xz.transpose(1, 2).chunk(2, -1)
    u = reference.causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias, "silu")
    rank, states = delta_proj_weight.shape[1], A.shape[1]
    factor, B, C = (u @ x_proj_weight.t()).split([rank, states, states], -1)
    y = reference.selective_scan(u, factor @ delta_proj_weight.t(), A, B, C, D, z, delta_bias, delta_softplus)
    return torch.nn.functional.linear(y, out_proj_weight, out_proj_bias)


@pytest.fixture
def _published(monkeypatch):
    """As if mamba-ssm and causal-conv1d were there."""
    monkeypatch.setattr(gpu_layers, "causal_conv1d_fn", conv_function)
    monkeypatch.setattr(gpu_layers, "selective_scan_fn", scan_function)
    monkeypatch.setattr(gpu_layers, "mamba_inner_fn", inner_function)


@pytest.mark.usefixtures("_published")
@pytest.mark.parametrize("fused", [False, True])
def test_the_published_layers_compute_what_ours_does(fused):
    layer, x = BiMamba(8), torch.randn(3, 10, 8)
    torch.testing.assert_close(gpu_layers.Published(layer, fused)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_published")
def test_every_layer_has_a_row_with_times_and_what_the_machine_is(tmp_path):
    rows = gpu.main([*SMALL, "--dtype", "float32", "--csv", str(tmp_path / "gpu.csv")])
    ours = ["ours", "ours, Mamba-2, 16 states", "ours, Mamba-2, 128 states"]
    names = [*ours, "published, fused", "published, composed", "attention", "floor"]
    assert [row["implementation"] for row in rows] == 2 * names
    assert all(row["failure"] == "" and row["ms"] > 0 and row["gpu"] == "none" for row in rows)
    assert all(row["error"] < 1e-4 for row in rows if row["implementation"] in names[:5])
    assert all(row["host_ms"] > 0 and row["launches"] > 0 for row in rows if row["implementation"] != "floor")
    assert len((tmp_path / "gpu.csv").read_text().splitlines()) == 1 + 2 * len(names)


def test_a_layer_that_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(gpu, "error_of", lambda *arguments: 0.5)
    ours = [row for row in gpu.main(SMALL) if row["implementation"] == "ours"]
    assert all("wrong, 5.0e-01 off the reference" in row["failure"] and row["ms"] != row["ms"] for row in ours)


def test_clocks_are_those_of_the_gpu_that_torch_uses(monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout="NVIDIA H100, 550.1, 1755, 1980, 2619, 700.00\n")

    monkeypatch.setattr(gpu_facts.subprocess, "run", run)
    monkeypatch.setattr(gpu_facts.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="aa-bb"))
    facts = gpu_facts.gpu_facts(torch.device("cuda:0"))
    assert facts["gpu"] == "NVIDIA H100" and facts["max_sm_mhz"] == "1980" and facts["sm_mhz"] == "1755"
    assert "GPU-aa-bb" in commands[0]

"""Judges that are TorchScript programs: how public ones take their input, and on which device they were traced."""

from __future__ import annotations

import zipfile

import pytest
import torch
from torch import Tensor, nn

from speechbrain_mamba.inference import judge_programs
from speechbrain_mamba.inference.judge_programs import load_program
from speechbrain_mamba.inference.judges import load_judges, load_speaker_encoder
from speechbrain_mamba.inference.transformers_judges import load_opinion_judge

RATE = 16000
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Loudness(nn.Module):
    """Rates a waveform by its length and mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean() + x.shape[1] / 1000


class WholeNumbers(nn.Module):
    """Takes samples of 16 bits, as balacoon/utmos does."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.int16:
            raise ValueError("no whole numbers")
        return x.float().amax(1)


class WithRate(nn.Module):
    """Takes the rate too, as the UTMOS of SpeechMOS does."""

    def forward(self, wave: Tensor, sr: int) -> Tensor:
        return wave[:, 0] + sr


class Embedding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3]


class Traced(nn.Module):
    """Makes a tensor on the device of its input, which tracing writes down."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) + torch.ones(1, device=x.device)


def program(path, module):
    torch.jit.script(module).save(str(path))
    return str(path)


def test_a_program_rates_at_16_khz_if_it_is_trusted(tmp_path):
    path = program(tmp_path / "utmos.jit", Loudness())
    for load in (load_opinion_judge, load_speaker_encoder):
        with pytest.raises(ValueError, match=r"utmos\.jit' is a TorchScript program, .*by --trust_judge"):
            load(path)
    judges = load_judges(None, None, naturalness=path, trusted=True)
    rate = judges["rate_naturalness"]
    assert rate(torch.full((4000,), 0.5), RATE) == pytest.approx(4.5)
    assert rate(torch.full((4000,), 0.5), RATE // 2) == pytest.approx(8.5, abs=0.01)
    bad = load_opinion_judge(program(tmp_path / "pair.jit", Embedding()), trusted=True)
    with pytest.raises(ValueError, match="returned no single score"):
        bad(torch.ones(100), RATE)


def test_programs_get_samples_as_they_take_them(tmp_path, monkeypatch):
    wav = torch.tensor([0.5, -2.0, 1.5])
    path = program(tmp_path / "whole.jit", WholeNumbers())
    assert load_opinion_judge(path, trusted=True, samples="int16")(wav, RATE) == 2**15 - 1
    assert load_judges(None, None, naturalness=path, trusted=True, naturalness_samples="int16")["rate_naturalness"](
        wav[:1], RATE
    ) == round(0.5 * (2**15 - 1))
    with pytest.raises(
        ValueError, match=r"whole\.jit' does not take waveforms .* of float at 16 kHz on cpu: .*no whole"
    ):
        load_opinion_judge(path, trusted=True)(wav, RATE)
    asked = []
    monkeypatch.setattr(judge_programs, "fetch_pretrained", lambda *args: asked.append(args) or path)
    assert load_opinion_judge("balacoon/utmos:utmos.jit", trusted=True)(wav, RATE) == 2**15 - 1  # as its page says
    assert asked == [("balacoon/utmos", "utmos.jit")]
    with pytest.raises(ValueError, match="samples are 'int8', but must be one of float, int16"):
        load_program(path, trusted=True, samples="int8")
    rated = load_opinion_judge(program(tmp_path / "rate.jit", WithRate()), trusted=True)
    assert rated(wav, RATE) == pytest.approx(RATE + 0.5)


def test_a_program_encodes_voices(tmp_path):
    path = program(tmp_path / "sv.ts", Embedding())
    embed = load_judges(None, path, trusted=True)["embed"]
    assert embed(torch.tensor([1.0, 2.0, 3.0, 4.0]), RATE).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="returned no single embedding: it is not a speaker encoder"):
        load_speaker_encoder(program(tmp_path / "score.jit", Loudness()), trusted=True)(torch.ones(9), RATE)


def test_a_program_that_was_traced_on_a_gpu_runs_here(tmp_path):
    here, there = tmp_path / "here.jit", tmp_path / "there.jit"
    torch.jit.trace(Traced(), torch.ones(1, 4)).save(str(here))
    with zipfile.ZipFile(here) as given, zipfile.ZipFile(there, "w") as written:
        for name in given.namelist():
            content = given.read(name)
            changed = content.replace(b'torch.device("cpu")', b'torch.device("cuda:0")')
            assert name.endswith(".py") or changed == content
            written.writestr(name, changed)
    with zipfile.ZipFile(there) as given:
        assert any(b"cuda:0" in given.read(name) for name in given.namelist())
    for path in (here, there):
        assert load_opinion_judge(str(path), trusted=True)(torch.full((5,), 0.5), RATE) == pytest.approx(3.5)


def test_what_is_no_program_is_named(tmp_path):
    (tmp_path / "x.jit").write_bytes(b"no program")
    with pytest.raises(ValueError, match=r"x\.jit' is not a TorchScript program"):
        load_opinion_judge(str(tmp_path / "x.jit"), trusted=True)
    with zipfile.ZipFile(tmp_path / "y.jit", "w") as archive:
        archive.writestr("y/notes.txt", "nothing")
    with pytest.raises(ValueError, match=r"y\.jit' is not a TorchScript program"):
        load_opinion_judge(str(tmp_path / "y.jit"), trusted=True)
    with pytest.raises(FileNotFoundError, match=r"There is no file 'none\.jit': give one, or HUB_ID:FILE"):
        load_opinion_judge("none.jit", trusted=True)

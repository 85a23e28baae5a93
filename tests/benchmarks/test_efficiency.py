"""The efficiency map: fits, crossings and the law, what is measured next, forms of attention, and whole runs."""

from __future__ import annotations

import csv
import math
import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from speechbrain.lobes.models.dual_path import SBTransformerBlock
from speechbrain.nnet.attention import RelPosEncXL, RelPosMHAXL
from torch import nn

import costs
import efficiency
from crossings import attention_forms, cell, schedule, thresholds
from crossings.catalog import COMPARISONS, PASSES, TASKS, Comparison, System, systems_of
from crossings.cell import Cell, Limits
from crossings.cost_fits import Curve, bracket, crossing, fit_cost, threshold
from crossings.networks import Network, NetworkCache
from crossings.results import as_written
from quality.study_file import find_study, read_study

GRID = [schedule.length_at(step) for step in range(-4, 9)]
CPU = torch.device("cpu")
SMALL = Comparison(
    System("layer/mamba", {"d_model": 16, "causal": False}, name="mamba, 16"),
    System("layer/attention", {"d_model": 16, "causal": False}, name="attention, 16"),
)


def noisy(curve, spread, seed, repeats=3):
    generator = np.random.default_rng(seed)
    return {t: list(curve.at(t) * np.exp(spread * generator.normal(size=repeats))) for t in GRID}


def test_fits_find_the_coefficients_and_never_less_than_zero():
    curve = Curve(0.3, 0.02, 0.004)
    assert fit_cost(GRID, curve.at(np.array(GRID)), True) == pytest.approx(curve, rel=1e-6)
    falling = fit_cost([1, 2, 4, 8], [4.0, 3.0, 2.0, 1.0], True)
    assert min(falling) >= 0 and falling.c == 0


def test_fits_make_differences_of_logarithms_least():
    costs = noisy(Curve(0.3, 0.02, 0.004), 0.2, seed=3)
    lengths = np.array([t for t in costs for _ in costs[t]])
    values = np.array([c for t in costs for c in costs[t]])

    def residuals(x):
        return np.log(x[0] + x[1] * lengths + x[2] * lengths**2) - np.log(values)

    best = least_squares(residuals, [1, 1, 1], bounds=(0, np.inf), xtol=1e-12, ftol=1e-12)
    found = residuals(fit_cost(lengths, values, True))
    assert found @ found == pytest.approx(2 * best.cost, rel=1e-3)


@pytest.mark.parametrize(
    ("mamba", "other", "expected"),
    [
        (Curve(2, 1, 0), Curve(0, 0, 1), 2.0),
        (Curve(1, 1, 0), Curve(2, 2, 0.1), 0.0),
        (Curve(3, 1, 0), Curve(1, 2, 0), 2.0),
        (Curve(1, 3, 0), Curve(2, 2, 0), math.inf),  # cheaper at first, but dearer in the end
        (Curve(1, 1, 0), Curve(2, 1, 0), 0.0),
        (Curve(1, 1, 2), Curve(2, 2, 1), math.inf),
        (Curve(1, 3, 0), Curve(2, 2, 0.1), (1 + math.sqrt(0.6)) / 0.2),  # cheaper, dearer, cheaper again: the last time
    ],
)
def test_crossings(mamba, other, expected):
    assert crossing(mamba, other) == pytest.approx(expected)


def test_the_interval_of_a_threshold_holds_the_true_one_and_narrows_with_less_noise():
    mamba, attention = Curve(0.1, 0.05, 0), Curve(0.08, 0.03, 0.004)
    true = crossing(mamba, attention)
    wide, narrow = (
        threshold(noisy(mamba, spread, 1), noisy(attention, spread, 2), draws=60) for spread in (0.05, 0.005)
    )
    assert wide.low < true < wide.high and narrow.low < narrow.length < narrow.high
    assert narrow.length == pytest.approx(true, rel=0.02)
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    again = threshold(noisy(mamba, 0.05, 1), noisy(attention, 0.05, 2), draws=60)
    assert (again.low, again.high) == (wide.low, wide.high)
    assert bracket(noisy(mamba, 0, 1), noisy(attention, 0, 2)) == (schedule.length_at(5), 8.0)


def test_a_hybrid_is_fitted_with_a_square():
    hybrid, attention = Curve(0.1, 0.05, 0.001), Curve(0.08, 0.03, 0.004)
    costs = noisy(hybrid, 0, 1), noisy(attention, 0, 2)
    assert threshold(*costs, linear=False, draws=2).length == pytest.approx(crossing(hybrid, attention), rel=1e-4)
    assert threshold(*costs, linear=True, draws=2).length != pytest.approx(crossing(hybrid, attention), rel=1e-2)


def test_too_few_lengths_are_refused():
    with pytest.raises(ValueError, match="at least 3 lengths"):
        threshold({1: [1.0], 2: [2.0]}, {1: [1.0], 2: [2.0]})
    with pytest.raises(ValueError, match="3 coefficients"):
        fit_cost([1, 1, 2], [1.0, 1.0, 2.0], True)


# ---------------------------------------------------------------- the catalog and the schedule
def test_the_catalog_names_each_system_once_and_both_sides_have_tokens_of_one_duration():
    for task in TASKS:
        comparisons = list(COMPARISONS[task]())
        assert all(c.mamba.token_ms == c.baseline.token_ms for c in comparisons)
        keys = [(c.mamba.key, c.baseline.key) for c in comparisons]
        assert len(keys) == len(set(keys))
        by_key = {}
        for system in (s for c in comparisons for s in (c.mamba, c.baseline)):
            made = (system.source, system.overrides, system.parts)
            assert by_key.setdefault(system.key, made) == made, system.key


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_system_of_the_catalog_can_be_made(task):
    different = {(s.label, s.token_ms): s for s in systems_of(list(COMPARISONS[task]()))}
    with torch.device("meta"):
        sizes = {key: Network(system).parameters for key, system in different.items()}
    found = {label: size for (label, token_ms), size in sizes.items() if token_ms in (1, 40)}
    if task == "asr":
        assert abs(found["conmamba_ctc, all attention"] / found["conmamba_ctc"] - 1) < 0.03
        assert found["conformer_ctc"] == 28_786_111
    if task == "separation":
        assert found["sepformer"] == 25_679_361 and found["dpmamba_M"] == 15_869_441


class Machine:
    """Gives cells costs instead of measuring them."""

    def __init__(self, costs, limits, repeats=1):
        self.costs, self.limits, self.repeats, self.rows = costs, limits, repeats, []

    def due(self):
        return schedule.due([SMALL], self.rows, self.limits, self.repeats)

    def run(self, most=1000):
        for _ in range(most):
            cells = self.due()
            if not cells:
                return self.rows
            self.measure(cells[0])
        return self.rows

    def measure(self, at, **said):
        label, form, token_ms = at.system.key
        row = {"system": label, "attention": form, "token_ms": token_ms, "pass": at.passed, "length": at.length,
               "status": "done", "seconds": self.costs[label].at(at.length)}  # fmt: skip
        self.rows.append(row | said)


COSTS = {"mamba, 16": Curve(0.02, 1e-4, 0), "attention, 16": Curve(0.01, 5e-5, 2e-7)}


def test_lengths_close_to_the_crossing_are_measured_for_both_sides():
    rows = Machine(COSTS, Limits(call=1.0)).run()
    true = crossing(*COSTS.values())
    middle = schedule.step_near(true)
    for which in PASSES:
        measured = [
            {row["length"] for row in rows if (row["system"], row["pass"]) == (label, which)} for label in COSTS
        ]
        near = {schedule.length_at(middle + step) for step in (-6, -4, -2, -1, 0, 1, 2, 4)}
        assert near <= measured[0] and near <= measured[1]
    assert len(rows) == len({(row["system"], row["pass"], row["length"]) for row in rows})
    longest = {row["seconds"] for row in rows if row["length"] == max(other["length"] for other in rows)}
    assert max(longest) < 5, "a length is left out where 4 times the tokens would take too long"


def test_repeats_come_last_and_close_to_the_crossing_only():
    once = Machine(COSTS, Limits(call=1.0)).run()
    rows = Machine(COSTS, Limits(call=1.0), repeats=3).run()
    assert [(r["system"], r["length"]) for r in rows[: len(once)]] == [(r["system"], r["length"]) for r in once]
    counts = {}
    for row in rows:
        counts[row["length"]] = counts.get(row["length"], 0) + (row["pass"] == "inference")
    middle = schedule.step_near(crossing(*COSTS.values()))
    repeated = {schedule.length_at(middle + step) for step in range(-2, 3)}
    assert {length for length, count in counts.items() if count == 6} == repeated


def test_a_series_ends_where_memory_or_time_is_not_enough():
    machine = Machine(COSTS, Limits(call=10.0))
    while machine.due():
        at = machine.due()[0]
        failed = at.system.label == "attention, 16" and at.length >= 256
        machine.measure(at, **({"status": "out of memory", "seconds": ""} if failed else {}))
    lengths = [row["length"] for row in machine.rows if row["system"] == "attention, 16" and row["status"] != "done"]
    assert sorted(set(lengths)) == [256.0]


# ---------------------------------------------------------------- attention and memory
def test_both_forms_of_attention_give_the_same_output_and_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 16)
    relative = RelPosMHAXL(16, 2, vbias=True)
    nn.init.normal_(relative.value_bias_weight)
    encoding = RelPosEncXL(16)(x)
    block = SBTransformerBlock(1, 16, 2, 32, dropout=0.0)
    holder = nn.ModuleDict({"relative": relative, "block": block})

    def results():
        holder.zero_grad()
        outputs = holder["relative"](x, x, x, encoding)[0], holder["block"](x)
        sum(y.square().sum() for y in outputs).backward()
        return (
            *outputs,
            *(p.grad.clone() for p in (relative.pos_bias_v, relative.in_proj_weight)),
            sum(p.grad.square().sum() for p in block.parameters()),
        )

    before = results()
    with attention_forms.attention_form(holder, "explicit"):
        explicit = results()
    with attention_forms.attention_form(holder, "sdpa"):
        fused = results()
    assert isinstance(holder["relative"], attention_forms.FusedRelativeAttention)
    assert any(isinstance(m, attention_forms.FusedAttention) for m in block.modules())
    for other in (explicit, fused):
        torch.testing.assert_close(other, before, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no masks"):
        holder["relative"](x, x, x, encoding, attn_mask=torch.zeros(9, 9))
    with (
        pytest.raises(ValueError, match="must be one of explicit, sdpa"),
        attention_forms.attention_form(block, "both"),
    ):
        pass


def test_the_bytes_kept_for_the_backward_pass_are_counted_once_and_without_parameters():
    layer = nn.Linear(8, 4)
    x = torch.randn(10, 8, requires_grad=True)
    with cell.counting_saved(layer) as kept:
        y = layer(x)
        (y * y).sum()
    assert sorted(kept.values()) == [4 * 10 * 4, 4 * 10 * 8]  # y, and x


# ---------------------------------------------------------------- processes
class Fake:
    """A network that does something else than computing."""

    def __init__(self, do):
        self.model, self.do = nn.Linear(2, 2), do

    def call(self, length, device, batch=1):
        self.do(length)
        return lambda: self.model(torch.zeros(4, 2))


def burn(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


ONCE = Limits(repeats=1)


def said_of(do, limits=ONCE):
    return cell.measure_apart(Fake(do), Cell(SMALL.mamba, "inference", 1.0), torch.float32, limits)


def test_what_a_process_dies_of_is_told():
    assert said_of(lambda length: torch.empty(2**40))["status"] == "out of memory"
    assert said_of(lambda length: os.kill(os.getpid(), signal.SIGKILL))["status"] == "out of memory"
    broken = said_of(lambda length: torch.zeros(2) + torch.zeros(3))
    assert broken["status"] == "failed" and "size of tensor" in broken["reason"]
    assert "exit code 3" in said_of(lambda length: os._exit(3))["reason"]


@pytest.mark.slow
def test_a_process_that_computes_for_too_long_is_ended():
    before = os.times().children_user
    assert said_of(lambda length: burn(60), Limits(call=0.01))["status"] == "too long"
    assert os.times().children_user - before < 40  # of the process, which was to take 60


def test_a_limit_of_memory_holds_for_what_comes_on_top():
    def take(length):
        torch.ones(25_000_000)

    assert said_of(take, Limits(repeats=1, memory=2e9))["status"] == "done"
    assert said_of(take, Limits(repeats=1, memory=2e7))["status"] == "out of memory"


@pytest.mark.usefixtures("small_task")
def test_a_gpu_that_failed_ends_the_run_with_the_reason_in_the_table(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nfurther lines")

    monkeypatch.setattr(cell, "measure", fail)
    monkeypatch.setattr(efficiency, "measure_apart", lambda net, *rest: cell.measure_here(net, rest[0], CPU, *rest[1:]))
    with pytest.raises(SystemExit):
        run(tmp_path, "--budget", "100")
    assert "The GPU cannot be used by this process any more; the same command goes on." in capsys.readouterr().err
    with open(tmp_path / "efficiency_cpu.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "failed"
    assert row["reason"] == "RuntimeError: CUDA error: an illegal memory access was encountered"


def test_networks_that_were_used_longest_ago_give_way():
    cache = NetworkCache(limit=50_000)
    first = cache.get(SMALL.mamba)
    assert cache.get(SMALL.mamba) is first
    other = cache.get(SMALL.baseline)
    assert first.bytes + other.bytes <= 50_000 and cache.get(SMALL.mamba) is first
    cache.get(System("layer/mamba", {"d_model": 24, "causal": False}))
    assert cache.get(SMALL.baseline) is not other


# ---------------------------------------------------------------- thresholds and the law
def rows_of(token_ms, count, task="asr"):
    """Rows of ConMamba and Conformer whose times cross at a number of tokens."""
    rows = []
    for label, curve in (("conmamba_ctc", Curve(0.1, 1 / count, 0)), ("conformer_ctc", Curve(0.1, 0, 1 / count**2))):
        for length in GRID:
            cost = curve.at(1000 * length / token_ms)
            rows.append({"task": task, "system": label, "attention": "explicit" if "former" in label else "sdpa",
                         "pass": "inference", "token_ms": str(token_ms), "length": length, "status": "done",
                         "seconds": cost, "saved_mb": "", "peak_mb": cost})  # fmt: skip
    return rows


def test_a_constant_number_of_tokens_is_a_slope_of_1():
    rows = [row for token_ms in (20.0, 40.0, 80.0) for row in rows_of(token_ms, 100)]
    found = list(thresholds.find_thresholds(rows, draws=20))
    assert {one.measure for one in found} == {"time", "peak memory"}
    assert [one.row["tokens"] for one in found if one.measure == "time"] == pytest.approx([100] * 3, rel=1e-3)
    laws = [law for law in thresholds.find_laws(found) if law["measure"] == "time"]
    assert len(laws) == 1 and laws[0]["points"] == 3
    assert laws[0]["slope"] == pytest.approx(1, abs=1e-3) and laws[0]["low"] <= laws[0]["high"]


def test_thresholds_outside_of_what_was_measured_are_not_given_as_numbers():
    row = next(thresholds.find_thresholds(rows_of(40.0, 1e6), draws=5)).row
    assert thresholds.describe(row) == "none up to 16 s: Mamba is not cheaper"
    row = next(thresholds.find_thresholds(rows_of(40.0, 0.5), draws=5)).row
    assert thresholds.describe(row) == "none: Mamba is cheaper at all lengths from 0.25 s"


def test_a_fit_is_not_believed_against_the_measurements():
    row = {"threshold": 0.0, "low": 0.0, "high": 0.0, "shortest": 0.5, "longest": 32.0, "unit": "s", "token_ms": 40.0,
           "tokens": 0.0, "longest_dearer": 16.0, "next_cheaper": 32.0}  # fmt: skip
    assert thresholds.describe(row) == "unclear: by the fit Mamba is cheaper from 0.5 s, but at 16 s it was not"
    row |= {"threshold": math.inf, "low": 4.0, "high": math.inf}
    assert thresholds.describe(row) == "unclear: by the fit Mamba is not cheaper up to 32 s, but at 32 s it was"


def test_the_law_over_systems_has_students_interval():
    law = thresholds.law_of_points([1, 10, 100], [1, 20, 100])
    assert law.slope == pytest.approx(1.0) and law.points == 3
    x, y = np.log([1, 10, 100]), np.log([1, 20, 100])
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    error = math.sqrt(residuals @ residuals / ((x - x.mean()) @ (x - x.mean())))
    assert law.high - law.slope == pytest.approx(12.706 * error, rel=1e-3)


# ---------------------------------------------------------------- whole runs
@pytest.fixture
def small_task(monkeypatch):
    monkeypatch.setitem(COMPARISONS, "layer", lambda: iter([SMALL]))


def run(out, *more, device="cpu"):
    efficiency.main(["--task", "layer", "--device", device, "--out", str(out), *more])


NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.usefixtures("small_task")
def test_a_map_is_measured_resumed_and_reported(tmp_path, monkeypatch, capsys, device):
    monkeypatch.setitem(cell.SHORTEST, "cpu", 0.01)
    monkeypatch.setattr(efficiency, "find_thresholds", partial(thresholds.find_thresholds, draws=5))
    for name, value in {
        "LONGEST": 1024,
        "NEAR": 0,
        "WIDE": 0,
    }.items():  # lengths of 16, 64, 256 and 1024, and a crossing
        monkeypatch.setattr(schedule, name, value)
    run(tmp_path, "--budget", "1e-9", "--repeats", "1", device=device)
    assert "The budget is spent" in capsys.readouterr().out
    run(tmp_path, "--budget", "100", "--repeats", "1", device=device)
    said = capsys.readouterr().out
    assert "All of it is measured." in said
    with open(tmp_path / f"efficiency_{device}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["status"] for row in rows} == {"done"}
    assert all(float(row["seconds"]) >= 0 and float(row["peak_mb"]) > 0 for row in rows)
    assert all((float(row["saved_mb"] or 0) > 0) == (row["pass"] == "training step") for row in rows)
    lines = [line for line in said.splitlines() if line.startswith("threshold layer, training step, kept for backward")]
    assert len(lines) == 1 and "mamba, 16 against attention, 16: " in lines[0]
    assert {float(row["length"]) for row in rows} >= {16, 64, 256, 1024}
    assert said.rstrip().splitlines()[-1].startswith("threshold ")
    assert (tmp_path / f"thresholds_{device}.csv").exists() and (tmp_path / f"token_law_{device}.csv").exists()
    assert (tmp_path / f"efficiency_{device}.png").stat().st_size > 10_000
    assert (tmp_path / f"layer_{device}.png").stat().st_size > 10_000
    before = (tmp_path / f"efficiency_{device}.csv").read_bytes()
    run(tmp_path, "--budget", "100", "--repeats", "1", "--publish", str(tmp_path / "docs"), device=device)
    published = {path.name for path in (tmp_path / "docs").iterdir()}
    assert published == {path.name for path in tmp_path.iterdir() if path.is_file()} and len(published) == 5
    assert (tmp_path / f"efficiency_{device}.csv").read_bytes() == before, "nothing is measured again"
    places = [(row["system"], row["pass"], row["length"]) for row in rows]
    assert len(places) == len(set(places)), "nothing is measured twice"


@pytest.mark.parametrize("task", TASKS)
def test_a_system_is_found_again_in_the_rows_of_the_table(task):
    for system in systems_of(list(COMPARISONS[task]())):
        row = {"system": system.label, "attention": system.form, "token_ms": system.token_ms, "pass": PASSES[0]}
        assert schedule.series_of(as_written(row)) == (*system.key, PASSES[0])


@pytest.mark.usefixtures("small_task")
def test_mistakes_get_a_sentence(tmp_path, monkeypatch, capsys):
    def refused(*more):
        with pytest.raises(SystemExit):
            run(tmp_path, *more)
        return capsys.readouterr().err

    assert "chooses none of these comparisons: mamba, 16 against attention, 16." in refused("--only", "conformer")
    if not torch.cuda.is_available():
        assert "torch finds no GPU" in refused("--device", "cuda")
    path = tmp_path / "efficiency_cpu.csv"
    row = dict.fromkeys(efficiency.read_rows.__globals__["COLUMNS"], "0") | {"machine": "abacus", "dtype": "float32"}
    efficiency.write_rows(path, [row])
    assert "has measurements of abacus" in refused()
    path.write_text("a,b\n1,2\n")
    assert "was not written by this version" in refused()


def test_costs_of_the_systems_of_a_study(tmp_path, capsys):
    study = tmp_path / "study.yaml"
    small = "num_encoder_layers: 2, d_model: 64, d_ffn: 16"
    head = "title: A study\nquestion: Which?\nbaseline: none\nepochs: 1\n"
    head += "measures: [{name: wer, label: WER, better: lower}]\n"
    study.write_text(
        f"{head}task: asr\noptions: {{precision: fp32, {small}}}\nsystems:\n"
        "    none: {hparams: mini_conmamba_ctc, label: Mamba only}\n"
        "    high: {hparams: mini_conmamba_ctc, options: {attention_layers: high 1, hop_length: 20}}\n"
    )
    costs.main([str(study), "--lengths", "1", "0.5", "--out", str(tmp_path / "costs.csv")])
    with open(tmp_path / "costs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(name, which, length) for name in ("none", "high") for which in PASSES for length in ("0.5", "1.0")]
    assert [(row["system"], row["pass"], row["length"]) for row in rows] == expected
    assert [row["label"] for row in rows[::4]] == ["Mamba only", "high"]
    assert [(row["token_ms"], row["tokens"]) for row in rows[1::4]] == [("40.0", "25"), ("80.0", "12")]
    for row in rows:
        assert row["status"] == "done" and float(row["seconds"]) > 0
        tokens = 1000 * float(row["length"]) / float(row["token_ms"])
        assert float(row["tokens_per_second"]) == pytest.approx(tokens / float(row["seconds"]), rel=1e-4)
    assert len({row["parameters"] for row in rows}) == 2
    for text, words in (
        (f"{head}task: codec\nsystems:\n    none: {{hparams: mini_codec}}\n", "only separation, asr, tts are measured"),
        (f"{head}task: tts\nsystems:\n    none: {{hparams: mini_vallm}}\n", "give its token_ms"),
    ):
        study.write_text(text)
        with pytest.raises(SystemExit):
            costs.main([str(study)])
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_resolution_separation", [4, 4, 2, 2, 1, 1, 0.5, 0.5]),
        ("token_resolution_recognition", [80, 80, 40, 40, 20, 20]),
        ("hybrid_ratio", [40] * 11),
        ("codec_rate", [40, 20, 12.5] * 2),
    ],
)
def test_studies_of_resolution_say_how_long_their_tokens_are(name, expected, tmp_path):
    study = read_study(find_study(name), tmp_path)
    assert [system.token_ms for _, system in costs.systems_of_study(study)] == expected

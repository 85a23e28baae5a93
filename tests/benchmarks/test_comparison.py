"""Statistics of studies: means, spreads and intervals whose right values are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from quality import items as item_readers
from quality.comparison import (
    Scores,
    by_group,
    common,
    holm,
    length_groups,
    paired_bootstrap,
    spread,
    student_interval,
    table_of,
)
from quality.publishing import publish
from quality.study_file import Measure, People, Study, System
from quality.tables import differences_markdown, make_tables, read_rows
from speechbrain_mamba.utils.files import write_csv

SCORE = Measure("snr", "SNR, dB", "higher")
RATE = Measure("wer", "WER, %", "lower", errors="errors", out_of="words")


def scores(table):
    return Scores(np.asarray(table, dtype=float), np.ones_like(table, dtype=float))


def rows(system, seeds, items, **columns):
    return [
        {"system": system, "seed": str(seed), "item": item, **{name: str(value) for name, value in columns.items()}}
        for seed in seeds
        for item in items
    ]


def test_a_rate_is_of_all_tokens_and_not_a_mean_of_rates():
    table = [
        {"system": "a", "seed": "1", "item": "x", "errors": "1", "words": "1"},
        {"system": "a", "seed": "1", "item": "y", "errors": "0", "words": "9"},
    ]
    assert table_of(table, RATE, ["1"], ["x", "y"]).per_run().tolist() == [10.0]


def test_only_what_all_systems_have_is_compared():
    table = rows("a", [1, 2, 10], ["x", "y"], snr=1) + rows("b", [10, 2], ["x", "y", "z"], snr=2)
    table[0]["snr"] = ""  # of a seed that b lacks
    table.append({"system": "a", "seed": "2", "item": "z", "snr": ""})
    assert common(table, SCORE) == (["2", "10"], ["x", "y"])


def test_spread_is_that_of_a_sample():
    assert spread(np.array([1.0, 2.0, 3.0])) == 1
    assert math.isnan(spread(np.array([1.0])))


def test_what_both_have_in_common_is_not_in_the_interval():
    generator = np.random.default_rng(0)
    common_part = 10 * generator.standard_normal((3, 200))
    found = paired_bootstrap(scores(common_part + 0.5 + 0.1 * generator.standard_normal((3, 200))), scores(common_part))
    assert found.value == pytest.approx(0.5, abs=0.02)
    assert 0.45 < found.low < found.value < found.high < 0.55 and found.p == pytest.approx(1e-4)


def test_the_interval_is_that_of_the_normal_distribution():
    generator = np.random.default_rng(1)
    one_seed = generator.standard_normal(400)
    found = paired_bootstrap(scores([one_seed]), scores([np.zeros(400)]))
    half = 1.96 * one_seed.std() / 20
    assert found.low == pytest.approx(one_seed.mean() - half, abs=0.01)
    assert found.high == pytest.approx(one_seed.mean() + half, abs=0.01)


def test_seeds_that_disagree_widen_the_interval():
    items = np.zeros((3, 100))
    sure = paired_bootstrap(scores(items + 1), scores(items))
    unsure = paired_bootstrap(scores(items + np.array([[-1], [1], [3]])), scores(items))
    assert sure.value == unsure.value == 1 and sure.low == sure.high == 1
    assert unsure.low == -1 and unsure.high == 3 and unsure.p > 0.05


def test_students_interval_holds_in_19_of_20_cases_however_few_the_runs():
    """Data of two random factors whose difference is known: the bootstrap's interval misses it too often."""
    generator = np.random.default_rng(2)
    missed = {"student": 0, "bootstrap": 0}
    for _ in range(300):
        of_runs, of_items = generator.standard_normal((3, 1)), generator.standard_normal((1, 40))
        table = 1 + 0.5 * of_runs + of_items + generator.standard_normal((3, 40))
        wide = student_interval(scores(table), scores(np.zeros((3, 40))))
        narrow = paired_bootstrap(scores(table), scores(np.zeros((3, 40))), draws=200)
        assert wide.value == narrow.value
        missed["student"] += not wide.low <= 1 <= wide.high
        missed["bootstrap"] += not narrow.low <= 1 <= narrow.high
    assert missed["student"] <= 25 < missed["bootstrap"]  # of 300; 15 are expected


def test_students_interval_of_many_runs_is_that_of_the_runs():
    of_runs = np.arange(20.0)[:, None] + np.zeros((20, 5))
    found = student_interval(scores(of_runs), scores(np.zeros((20, 5))))
    half = 2.093 * of_runs[:, 0].std(ddof=1) / math.sqrt(20)  # Student's quantile for 19 degrees of freedom
    assert found.high - found.value == pytest.approx(half, rel=1e-3)


def test_students_interval_of_a_rate_knows_its_tokens():
    errors, words = np.array([[100.0, 0.0, 200.0]] * 3), np.array([[1.0, 9.0, 2.0]] * 3)
    none = Scores(np.zeros((3, 3)), words)
    found = student_interval(Scores(errors, words), none)
    assert found.value == pytest.approx(25) and found.low < 0 < found.high
    assert math.isnan(student_interval(Scores(errors[:1], words[:1]), Scores(none.above[:1], words[:1])).low)
    same = student_interval(none, none)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_items_of_one_person_tell_less_than_as_many_of_several():
    generator = np.random.default_rng(3)
    whose = np.repeat(np.arange(5), 40)
    table = 1 + generator.standard_normal(5)[whose] + 0.1 * generator.standard_normal((3, 200))
    none = scores(np.zeros((3, 200)))
    alone = student_interval(scores(table), none)
    people = student_interval(*(by_group(each, [str(name) for name in whose]) for each in (scores(table), none)))
    assert people.value == pytest.approx(alone.value)
    assert people.high - people.low > 4 * (alone.high - alone.low)


def test_people_are_found_by_pattern_or_table_and_kept(tmp_path):
    write_csv(tmp_path / "test.csv", [{"ID": "x", "spk_id": "anna"}, {"ID": "y", "spk_id": "ben"}], ["ID", "spk_id"])
    given = [{"item": "long/x"}, {"item": "y"}]
    table = People(tables=(str(tmp_path / "test.csv"),))
    found = item_readers.with_people(given, table)
    assert [row["people"] for row in found] == ["anna", "ben"] and "people" not in given[0]
    (tmp_path / "test.csv").unlink()
    assert item_readers.with_people(found, table) == found  # published items need no table any more
    assert item_readers.with_people(given, table) == item_readers.with_people(given, None) == given


def test_several_differences_need_smaller_p_values():
    assert holm([0.02, 0.001, 0.04]) == pytest.approx([0.04, 0.003, 0.04])
    corrected = holm([0.5, math.nan, 0.9])
    assert corrected[0] == 1 and math.isnan(corrected[1]) and corrected[2] == 1


def test_rates_are_drawn_with_their_tokens():
    errors, words = np.array([[100.0, 0.0]] * 2), np.array([[1.0, 9.0]] * 2)
    found = paired_bootstrap(Scores(errors, words), Scores(np.zeros((2, 2)), words))
    assert (found.value, found.low, found.high) == (10, 0, 100)


def test_groups_of_lengths_end_with_their_edge():
    groups = length_groups([1, 2, 2.5, 3, 9], [2, 3])
    assert [(name, members.sum()) for name, members in groups] == [("up to 2", 2), ("2 to 3", 2), ("above 3", 1)]
    assert [name for name, _ in length_groups([1, 5], [])] == ["all"]


def test_measures_without_differences_take_no_lines(tmp_path):
    systems = (System("a", Path(), {}, "A"), System("b", Path(), {}, "B"))
    other = Measure("loudness", "loudness, dB", "higher")
    study = Study("s", "S", "?", "toy", systems, "b", 1, (SCORE, other))
    row = {"comparison": "equal steps", "system": "a", "baseline": "b", "p": 0.1, "holm_p": 0.1}
    differing = row | {"measure": SCORE.name} | dict.fromkeys(("difference", "low", "high"), 0.5)
    equal = row | {"measure": other.name} | dict.fromkeys(("difference", "low", "high"), 0)
    write_csv(tmp_path / "differences.csv", [differing, equal], list(equal))
    table, said = differences_markdown(study, tmp_path).split("\n\n")
    assert len(table.splitlines()) == 3 and said == "There is none in loudness, dB."
    write_csv(tmp_path / "differences.csv", [equal], list(equal))
    assert differences_markdown(study, tmp_path) == said


def test_people_stand_in_the_tables_and_in_what_is_published(tmp_path):
    systems = (System("a", Path(), {}, "A"), System("b", Path(), {}, "B"))
    study = Study("s", "S", "?", "toy", systems, "b", 1, (SCORE,), people=People(pattern="^[a-z]+"))
    names = ["anna1", "anna2", "ben1", "carl1"]
    items = [
        {"comparison": "equal steps", "system": system, "seed": str(seed), "item": name, "length": "1",
         "snr": str(len(name) * (system == "a") + seed)}
        for system in "ab" for seed in (1, 2) for name in names
    ]  # fmt: skip
    run = {"comparison": "equal steps", "status": "done", "parameters": "10", "epochs": "3", "seconds_per_epoch": "20"}
    runs = [run | {"system": s, "seed": str(seed), "clock": "", "settings": ""} for s in "ab" for seed in (1, 2)]
    write_csv(tmp_path / "items.csv", items, list(items[0]))
    write_csv(tmp_path / "runs.csv", runs, list(runs[0]))
    make_tables(study, tmp_path)
    (row,) = read_rows(tmp_path / "differences.csv")
    assert row["people"] == "3" and float(row["people_low"]) < 4.5 < float(row["people_high"])
    assert "| Student, people (3) |" in differences_markdown(study, tmp_path)
    folder = publish(study, tmp_path, tmp_path / "docs")
    assert [each["people"] for each in read_rows(folder / "items.csv")[:4]] == ["anna", "anna", "ben", "carl"]
    assert "processor" in (folder / "machine.json").read_text()
    assert not (folder / "figure.png").exists()
    cost = {"pass": "inference", "status": "done", "seconds": "0.2"}
    costs = [cost | {"system": system, "length": length} for system in "ab" for length in ("2", "10")]
    write_csv(folder / "costs.csv", costs, list(costs[0]))
    (tmp_path / "machine.json").write_text('{"processor": "another one"}')  # where the trainings ran
    publish(study, tmp_path, tmp_path / "docs")
    assert "another one" in (folder / "machine.json").read_text()
    width = int.from_bytes((folder / "figure.png").read_bytes()[16:20], "big")
    assert width == 3 * 5 * 90  # drawn again, with a panel of the costs


def test_a_system_is_compared_with_the_one_that_it_names(tmp_path):
    systems = tuple(
        System(name, Path(), {}, name, against)
        for name, against in (("small", ""), ("small2", "small"), ("large", "large"), ("large2", "large"))
    )
    study = Study("s", "S", "?", "toy", systems, "small", 1, (SCORE,))
    items = []
    for value, system in enumerate(systems):
        items += rows(system.name, [1, 2], ["x", "y"], snr=value**2, comparison="equal steps", length=1)
    items += rows("small", [1, 2], ["x", "y"], snr=0, comparison="equal time", length=1)  # alone so far
    runs = [
        {"comparison": "equal steps", "system": system.name, "seed": seed, "status": status, "parameters": "10",
         "epochs": "3", "seconds_per_epoch": "20", "clock": "CPU time", "settings": "lr=1"}
        for system in systems for seed, status in (("1", "done"), ("2", "done"), ("3", "failed"))
    ]  # fmt: skip
    write_csv(tmp_path / "items.csv", items, list(items[0]))
    write_csv(tmp_path / "runs.csv", runs, list(runs[0]))
    summary, differences, _ = map(read_rows, make_tables(study, tmp_path))
    found = [(row["system"], row["baseline"], float(row["difference"])) for row in differences]
    assert found == [("small2", "small", 1), ("large2", "large", 5)]
    assert {row["comparison"] for row in summary} == {"equal steps"}
    assert {(row["minutes"], row["failed"], row["runs"], row["items"]) for row in summary} == {("1", "1", "2", "2")}
